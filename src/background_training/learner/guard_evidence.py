"""What the guard knows: a fold over the ledger's lines, so that it knows the same after a crash as without one."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from background_training.algo import sequential_test
from background_training.algo.sequential_test import Bound
from background_training.episodes.buffer import TRAINED
from background_training.guard_settings import GuardSettings
from background_training.records import ledger as ledgers
from background_training.records.ledger import BY_ANOTHER_PROGRAM, PUBLISHED, ROLLED_BACK, Line

_NO_MORE_IN_A_ROW = 3
_ENOUGH_TO_DOUBT = 3
_ENOUGH_TO_TRUST = 5
_STATE_FORMAT = 1
"""Of what `state` gives; another number where what is seen in the same lines becomes another."""


@dataclass(frozen=True)
class Best:
    """The best stretch of games so far.

    version: of those that played it, the middle one, by which at least half of it was played, or by later ones.
    mean, spread: of its returns.
    """

    version: int
    mean: float
    spread: float


class Watch:
    """Sees every line of the ledger, oldest first, and says whether to go back, and to which version.

    It compares the returns of the games as they come with those of the best stretch of `evaluation_episodes` games. It
    promises that nothing but the lines and the settings decides. It does not promise to notice a version that is worse by
    less than the tolerance, nor one of which no game is played.
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
        """Whether the present version is to be replaced by the best one."""
        return self._alarm_seq is not None

    @property
    def oldest_of_interest(self) -> int:
        """Versions before it can't become the best one any more."""
        return min((version for _, version in self._stretch), default=self._since)

    def bound(self) -> Bound | None:
        """What the returns are held against; None while there is nothing to lose.

        Half a spread is what the best of many stretches of twenty games is better by than it really is, by mere luck.
        """
        if self.best is None or self._first_mean is None:
            return None
        gained = self.best.mean - self._first_mean
        margin = max(self._settings.tolerance * gained, 0.5 * self.best.spread)
        return Bound(self.best.mean - margin, self.best.mean + self.best.spread) if margin > 0 else None

    def state(self) -> dict[str, Any]:
        """Everything that it makes of the lines so far, as JSON takes it; `restored` goes on from there."""
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
    def restored(cls, settings: GuardSettings, state: Mapping[str, Any]) -> Watch | None:
        """The watch that had this state; None if other settings or other code made it, or it is none."""
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

    def see(self, line: Line) -> None:
        """Take one line of the ledger into account."""
        if line["fate"] in (PUBLISHED, ROLLED_BACK):
            self._begin_from(line["seq"], keep=line["fate"] == ROLLED_BACK or line.get("by") == BY_ANOTHER_PROGRAM)
            self._in_a_row += line["fate"] == ROLLED_BACK
        elif line["fate"] == TRAINED and ledgers.is_of_history(line):
            if line.get("base", {}).get("version", 0) > self._since:
                self._begin_from(line["base"]["version"], keep=False)  # published by a learner without such lines
            if self._alarm_seq not in (None, line["seq"]):
                self._begin_from(self._since, keep=True)  # nobody heeded it: the guard was off then
            played_by = min(line.get("policy_version", line["seq"] - 1), line["seq"] - 1)
            if not line.get("refused") and played_by >= self._since:
                self._count(float(line["return"]), played_by, line["seq"])

    def forget(self) -> None:
        """Begin anew; of a best version that can't be found any more, say."""
        self._begin_from(self._since, keep=False)

    def _begin_from(self, version: int, *, keep: bool) -> None:
        """Go on with a version of which nothing is known yet.

        Args:
            keep: whether what was best before is still the measure; not when a person has decided otherwise.
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
        """See whether the best version is still what it was: then a further fall has a cause of its own."""
        if played_by == self._since:
            self._as_republished.append(value)
        self._after_rollback.append(value)
        if len(self._after_rollback) >= _ENOUGH_TO_TRUST and statistics.fmean(self._after_rollback) >= bound.needed:
            self._in_a_row = 0

    def _raise_alarm(self, bound: Bound, seq: int) -> None:
        """Say that it has become worse, unless the best version itself is no longer what it was.

        The games may have changed. Going back would then help as little as it did a moment ago, and again and again.
        """
        again = self._as_republished
        doubtful = len(again) >= _ENOUGH_TO_DOUBT and statistics.fmean(again) < bound.needed
        if doubtful or self._in_a_row >= _NO_MORE_IN_A_ROW:
            self.notice = "the best version returns no more what it did; the guard begins anew with the present one"
            self.forget()
        else:
            self._alarm_seq = seq

    def _close_stretch(self) -> None:
        values = [value for value, _ in self._stretch]
        mean = statistics.fmean(values)
        if self._first_mean is None:
            self._first_mean = mean
        if not self.alarm and (self.best is None or mean > self.best.mean):
            middle = sorted(version for _, version in self._stretch)[len(self._stretch) // 2]
            self.best = Best(middle, mean, statistics.pstdev(values))
        self._stretch = []


def _deciding(settings: GuardSettings) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "enabled"}
