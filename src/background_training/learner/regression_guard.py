"""The regression guard: publish the best version again when the returns of the games have fallen."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.algo import sequential_test
from background_training.algo.sequential_test import Bound
from background_training.episodes.buffer import TRAINED
from background_training.errors import LedgerError
from background_training.learner import checkpoint, publish, replay_log, training_log
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.training_log import TrainingLog
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import BY_ANOTHER_PROGRAM, BY_GUARD, PUBLISHED, ROLLED_BACK, Line
from background_training.settings import GuardSettings, Settings
from background_training.storage import atomic_files, model_store

_NO_MORE_IN_A_ROW = 3
_ENOUGH_TO_DOUBT = 3
_ENOUGH_TO_TRUST = 5
_STATE_FORMAT = 1
"""Format of `state`; to be raised when the same lines lead to other evidence."""


@dataclass(frozen=True)
class Best:
    """The best stretch of games so far.

    version: the median of the versions that played it.
    mean, spread: mean and standard deviation of its returns.
    """

    version: int
    mean: float
    spread: float


class GuardEvidence:
    """Accumulates evidence of a regression over the lines of the ledger, oldest first.

    It compares the return of each game with those of the best stretch of `evaluation_episodes` games. The result is a
    function of the lines and the settings alone, so it is the same after a crash. It does not promise to notice a version
    that is worse by less than the tolerance, nor one that plays no game.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self.best: Best | None = None
        self.evidence = sequential_test.NO_EVIDENCE
        self.notice = ""
        self._first_mean: float | None = None
        self._stretch: list[tuple[float, int]] = []
        self._since = 0
        self._alarm_seq: int | None = None
        self._in_a_row = 0
        self._as_republished: list[float] = []
        self._after_rollback: list[float] = []

    @property
    def alarm(self) -> bool:
        """Whether the present version should be replaced by the best one."""
        return self._alarm_seq is not None

    @property
    def oldest_of_interest(self) -> int:
        """Versions before this one can no longer become the best one."""
        return min((version for _, version in self._stretch), default=self._since)

    def bound(self) -> Bound | None:
        """The bound with which the returns are compared; None while nothing has been gained.

        The margin is at least half a spread: by about that much the best of many stretches of twenty games overestimates
        its true mean (winner's curse).
        """
        if self.best is None or self._first_mean is None:
            return None
        gained = self.best.mean - self._first_mean
        margin = max(self._settings.tolerance * gained, 0.5 * self.best.spread)
        return Bound(self.best.mean - margin, self.best.mean + self.best.spread) if margin > 0 else None

    def state(self) -> dict[str, Any]:
        """The accumulated evidence as JSON values; `restored` continues from it."""
        return {
            "format": _STATE_FORMAT,
            "settings": _deciding(self._settings),
            "best": dataclasses.asdict(self.best) if self.best else None,
            "evidence": list(self.evidence),
            "first_mean": self._first_mean,
            "stretch": [list(game) for game in self._stretch],
            "since": self._since,
            "alarm_seq": self._alarm_seq,
            "in_a_row": self._in_a_row,
            "as_republished": list(self._as_republished),
            "after_rollback": list(self._after_rollback),
        }

    @classmethod
    def restored(cls, settings: GuardSettings, state: Mapping[str, Any]) -> GuardEvidence | None:
        """The evidence with this state; None if other settings or other code made it, or it is malformed."""
        if state.get("format") != _STATE_FORMAT or state.get("settings") != _deciding(settings):
            return None
        watch = cls(settings)
        try:
            watch.best = Best(**state["best"]) if state["best"] is not None else None
            watch.evidence = tuple(map(float, state["evidence"]))
            watch._first_mean = None if state["first_mean"] is None else float(state["first_mean"])
            watch._stretch = [(float(value), int(version)) for value, version in state["stretch"]]
            watch._since, watch._in_a_row = int(state["since"]), int(state["in_a_row"])
            watch._alarm_seq = None if state["alarm_seq"] is None else int(state["alarm_seq"])
            watch._as_republished = list(map(float, state["as_republished"]))
            watch._after_rollback = list(map(float, state["after_rollback"]))
        except (KeyError, TypeError, ValueError):
            return None
        return watch if len(watch.evidence) == len(sequential_test.NO_EVIDENCE) else None

    def add(self, line: Line) -> None:
        """Add one line of the ledger."""
        if line["fate"] in (PUBLISHED, ROLLED_BACK):
            self._restart_from(line["seq"], keep=line["fate"] == ROLLED_BACK or line.get("by") == BY_ANOTHER_PROGRAM)
            self._in_a_row += line["fate"] == ROLLED_BACK
        elif line["fate"] == TRAINED and ledger_lines.is_of_history(line):
            if line.get("base", {}).get("version", 0) > self._since:
                self._restart_from(
                    line["base"]["version"], keep=False
                )  # published by an early learner, which wrote no line for it
            if self._alarm_seq not in (None, line["seq"]):
                self._restart_from(self._since, keep=True)  # an alarm without a rollback: the guard was disabled then
            played_by = min(line.get("policy_version", line["seq"] - 1), line["seq"] - 1)
            if not line.get("refused") and played_by >= self._since:
                self._count(float(line["return"]), played_by, line["seq"])

    def reset(self) -> None:
        """Start again from the present version, for example when the best version can no longer be found."""
        self._restart_from(self._since, keep=False)

    def _restart_from(self, version: int, *, keep: bool) -> None:
        """Continue with a version that has not been evaluated yet.

        Args:
            keep: whether the best stretch so far stays the reference; not after a publication by the user.
        """
        self._since = version
        self._stretch = []
        self._as_republished = []
        self._after_rollback = []
        self.evidence = sequential_test.NO_EVIDENCE
        self._alarm_seq = None
        if not keep:
            self.best = self._first_mean = None
            self._in_a_row = 0

    def _count(self, value: float, played_by: int, seq: int) -> None:
        bound = self.bound()
        if self._in_a_row and bound is not None:
            self._note_after_rollback(value, played_by, bound)
        if bound is not None and self._alarm_seq is None:
            self.evidence = sequential_test.more(self.evidence, bound.shortfall(value))
            if sequential_test.strength(self.evidence) >= self._settings.false_alarm_episodes:
                self._raise_alarm(bound, seq)
        self._stretch.append((value, played_by))
        if len(self._stretch) == self._settings.evaluation_episodes:
            self._close_stretch()

    def _note_after_rollback(self, value: float, played_by: int, bound: Bound) -> None:
        """Check whether the republished best version still reaches its former returns."""
        if played_by == self._since:
            self._as_republished.append(value)
        self._after_rollback.append(value)
        if len(self._after_rollback) >= _ENOUGH_TO_TRUST and statistics.fmean(self._after_rollback) >= bound.needed:
            self._in_a_row = 0

    def _raise_alarm(self, bound: Bound, seq: int) -> None:
        """Raise the alarm, unless the best version itself has degraded (then the environment has changed).

        In that case a further rollback would not help.
        """
        again = self._as_republished
        doubtful = len(again) >= _ENOUGH_TO_DOUBT and statistics.fmean(again) < bound.needed
        if doubtful or self._in_a_row >= _NO_MORE_IN_A_ROW:
            self.notice = "the best version no longer reaches its former returns; the guard starts again from the present one"
            self.reset()
        else:
            self._alarm_seq = seq

    def _close_stretch(self) -> None:
        values = [value for value, _ in self._stretch]
        mean = statistics.fmean(values)
        if self._first_mean is None:
            self._first_mean = mean
        if not self.alarm and (self.best is None or mean > self.best.mean):
            middle = sorted(version for _, version in self._stretch)[len(self._stretch) // 2]
            self.best = Best(middle, mean, _standard_deviation(values))
        self._stretch = []


def _deciding(settings: GuardSettings) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "enabled"}


_KEPT_BYTES = 64_000_000
LINES_PER_CHECKPOINT = 10_000
"""Lines of the ledger between two records of the guard's state: about the most that a start has to read for it."""


class RegressionGuard:
    """Evaluates the returns after each batch, and rolls back.

    A rollback publishes the best version's weights as the next version, as the user can by hand. So training on bad games
    is undone, none of these episodes is replayed, and a rebuild passes through the same versions. After a kill at any
    point, the next start reaches the same decision from the ledger.
    """

    def __init__(self, paths: Paths, settings: Settings, ledger: Ledger) -> None:
        self.watch = GuardEvidence(settings.guard)
        self._notices: list[str] = []
        self._paths = paths
        self._ledger = ledger
        self._enabled = settings.guard.enabled
        self._limit = settings.guard.false_alarm_episodes
        self._log = TrainingLog(paths.training_log, settings.learner.log_bytes)
        self._recent: dict[int, bytes] = {}
        self._kept_at = 0
        if self._enabled:
            self._restore(settings)
            self._keep_best()

    def _restore(self, settings: Settings) -> None:
        """Add the ledger's lines since the newest recorded state of this guard, otherwise all of them."""
        begin = 0
        if self._ledger.guard_checkpoint is not None:
            line, end = self._ledger.guard_checkpoint
            restored = GuardEvidence.restored(settings.guard, line["guard"])
            if restored is not None:
                self.watch, begin = restored, end
        seen = 0
        for seen, line in enumerate(ledger_lines.read_lines(self._paths.ledger, begin), 1):  # noqa: B007
            self.watch.add(line)
        self.watch.notice = ""
        self._kept_at = self._ledger.size - seen
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        if self._ledger.size - self._kept_at >= LINES_PER_CHECKPOINT:
            self._ledger.keep_guard(self.watch.state())
            self._kept_at = self._ledger.size

    def taken_notices(self) -> list[str]:
        """The notices since the last call, one sentence each."""
        notices, self._notices = self._notices, []
        return notices

    def text(self) -> str:
        """One line for the status."""
        if not self._enabled:
            return "off"
        best = self.watch.best
        if best is None:
            return "learning what is usual"
        strength = sequential_test.strength(self.watch.evidence)
        return f"best: version {best.version}, mean return {best.mean:.4g}; evidence of worse {strength:.3g} of {self._limit:g}"

    def add_published(self, line: Line) -> None:
        """Add a version that was published without this guard."""
        if self._enabled:
            self._add([line])

    def after_batch(self, present: Checkpoint) -> Checkpoint:
        """Evaluate the batch that `present` was trained on; return the version to continue from."""
        if not self._enabled:
            return present
        self._recent[present.version] = present.data
        self._add(present.batch)
        chosen = self.react_to_alarm(present)
        self._checkpoint_if_due()
        return chosen

    def react_to_alarm(self, present: Checkpoint) -> Checkpoint:
        """Roll back to the best version if the alarm is raised; return the version to continue from."""
        best = self.watch.best
        if not self.watch.alarm or best is None:
            return present
        try:
            found = self._version(best.version)
        except LedgerError as error:
            self._report(f"The returns have fallen, but version {best.version}, the best one, can't be restored: {error}")
            self.watch.reset()
            return present
        bound = self.watch.bound()
        needed = f"{bound.needed:.4g}" if bound else "what is needed"
        reason = f"guard: returns fell below {needed}; rollback to version {best.version}, which returned {best.mean:.4g}"
        published = publish.commit(
            self._paths, self._ledger, found, present.version + 1, reason, BY_GUARD, durable=self._ledger.durable
        )
        self._add([self._ledger.record_published(published.version, published.commit, published.data)])
        self._report(f"Version {published.version} - {reason}")
        return replay_log.as_base(published, published.chain)

    def _add(self, lines: Sequence[Line]) -> None:
        former = self.watch.best
        for line in lines:
            self.watch.add(line)
        if self.watch.notice:
            self._report(self.watch.notice.capitalize())
            self.watch.notice = ""
        if self.watch.best != former:
            self._keep_best()
        self._forget_old()

    def _report(self, sentence: str) -> None:
        self._notices.append(sentence)
        self._log.add(training_log.line(time.time(), sentence))

    def _version(self, version: int) -> Checkpoint:
        data, path = self._recent.get(version), best_path(self._paths, version)
        if data is None and atomic_files.exists(path):
            data = model_store.read_bytes(path)
        return checkpoint.load(data, f"version {version}") if data else publish.version_of(self._paths, version)

    def _keep_best(self) -> None:
        """Keep a copy of the best version, as the history holds only every `history_every`-th one."""
        best = self.watch.best
        path = best_path(self._paths, best.version) if best else None
        if best and path and not atomic_files.exists(path):
            try:
                atomic_files.write_atomically(path, self._version(best.version).data, durable=self._ledger.durable)
            except LedgerError:
                return  # it can't be trained again; the history may still hold it when it is needed
        for other in self._paths.history.glob("best_*.npz"):
            if other != path:
                atomic_files.remove_if_there(other)

    def _forget_old(self) -> None:
        oldest = self.watch.oldest_of_interest
        self._recent = {version: data for version, data in self._recent.items() if version >= oldest and data}
        while sum(map(len, self._recent.values())) > _KEPT_BYTES:
            del self._recent[min(self._recent)]


def best_path(paths: Paths, version: int) -> Path:
    """The path of the copy of the best version."""
    return paths.history / f"best_v{version:09d}.npz"


def _standard_deviation(values: list[float]) -> float:
    """The population's; Python 3.10 squares first, and overflows on values above 1e154."""
    try:
        return statistics.pstdev(values)
    except OverflowError:
        largest = max(abs(value) for value in values)
        return largest * statistics.pstdev([value / largest for value in values])
