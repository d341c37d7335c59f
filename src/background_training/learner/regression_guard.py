"""The guard: publishes the best version again when the games have become worse, and says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from background_training.algo import sequential_test
from background_training.errors import LedgerError
from background_training.learner import checkpoint, publish, replay_log, training_log
from background_training.learner.checkpoint import Generation
from background_training.learner.guard_evidence import Watch
from background_training.learner.training_log import TrainingLog
from background_training.paths import Paths
from background_training.records import ledger as ledgers
from background_training.records.ledger import BY_GUARD, Ledger, Line
from background_training.settings import Settings
from background_training.storage import atomic_files, model_store

_KEPT_BYTES = 64_000_000
LINES_PER_CHECKPOINT = 10_000
"""Lines of the ledger between two records of the guard's state, and so the most that a start reads for it, roughly."""


class Guard:
    """Looks at the returns after each batch, and rolls back.

    A rollback is a publication as by hand: the best version's weights, committed as the next version, from which history
    goes on. So what was learnt since from bad games is undone, none of these episodes is replayed, and a rebuild passes
    through the same versions. Whatever kills it in between, the next start comes to the same decision from the ledger.
    """

    def __init__(self, paths: Paths, settings: Settings, ledger: Ledger) -> None:
        self.watch = Watch(settings.guard)
        self._notices: list[str] = []
        self._paths = paths
        self._ledger = ledger
        self._enabled = settings.guard.enabled
        self._limit = settings.guard.false_alarm_episodes
        self._log = TrainingLog(paths.training_log, settings.learner.log_bytes)
        self._recent: dict[int, bytes] = {}
        self._kept_at = 0
        if self._enabled:
            self._take_up(settings)
            self._keep_best()

    def _take_up(self, settings: Settings) -> None:
        """See the ledger's lines: those since the newest checkpoint of this guard, otherwise all of them."""
        begin = 0
        if self._ledger.guard_checkpoint is not None:
            line, end = self._ledger.guard_checkpoint
            restored = Watch.restored(settings.guard, line["guard"])
            if restored is not None:
                self.watch, begin = restored, end
        seen = 0
        for seen, line in enumerate(ledgers.read_lines(self._paths.ledger, begin), 1):  # noqa: B007
            self.watch.see(line)
        self.watch.notice = ""
        self._kept_at = self._ledger.size - seen
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        if self._ledger.size - self._kept_at >= LINES_PER_CHECKPOINT:
            self._ledger.keep_guard(self.watch.state())
            self._kept_at = self._ledger.size

    def taken_notices(self) -> list[str]:
        """What it did since this was last asked, a sentence each."""
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

    def see_published(self, line: Line) -> None:
        """Take a version into account that was published without this guard: the best one is then what comes after it."""
        if self._enabled:
            self._see([line])

    def after_batch(self, present: Generation) -> Generation:
        """Look at the batch that `present` was trained on; return the version to go on with."""
        if not self._enabled:
            return present
        self._recent[present.version] = present.data
        self._see(present.batch)
        chosen = self.heeded(present)
        self._checkpoint_if_due()
        return chosen

    def heeded(self, present: Generation) -> Generation:
        """Go back to the best version, if the watch says so."""
        best = self.watch.best
        if not self.watch.alarm or best is None:
            return present
        try:
            found = self._version(best.version)
        except LedgerError as error:
            self._say(f"The games have become worse, but version {best.version}, the best one, is not to be had: {error}")
            self.watch.forget()
            return present
        bound = self.watch.bound()
        needed = f"{bound.needed:.4g}" if bound else "what is needed"
        reason = f"guard: returns fell below {needed}; rollback to version {best.version}, which returned {best.mean:.4g}"
        published = publish.commit(
            self._paths, self._ledger, found, present.version + 1, reason, BY_GUARD, durable=self._ledger.durable
        )
        self._see([self._ledger.tell_of(published.version, published.commit, published.data)])
        self._say(f"Version {published.version} - {reason}")
        return replay_log.adopted(published, published.chain)

    def _see(self, lines: Sequence[Line]) -> None:
        former = self.watch.best
        for line in lines:
            self.watch.see(line)
        if self.watch.notice:
            self._say(self.watch.notice.capitalize())
            self.watch.notice = ""
        if self.watch.best != former:
            self._keep_best()
        self._forget_old()

    def _say(self, sentence: str) -> None:
        self._notices.append(sentence)
        self._log.add(training_log.line(time.time(), sentence))

    def _version(self, version: int) -> Generation:
        data, path = self._recent.get(version), best_path(self._paths, version)
        if data is None and atomic_files.exists(path):
            data = model_store.read_bytes(path)
        return checkpoint.load(data, f"version {version}") if data else publish.version_of(self._paths, version)

    def _keep_best(self) -> None:
        """Keep a copy of the best version: the history holds only every so manyth."""
        best = self.watch.best
        path = best_path(self._paths, best.version) if best else None
        if best and path and not atomic_files.exists(path):
            try:
                atomic_files.write_atomically(path, self._version(best.version).data, durable=self._ledger.durable)
            except LedgerError:
                return  # it can't be made again; the history may still hold an older copy of it when it is needed
        for other in self._paths.history.glob("best_*.npz"):
            if other != path:
                atomic_files.remove_if_there(other)

    def _forget_old(self) -> None:
        oldest = self.watch.oldest_of_interest
        self._recent = {version: data for version, data in self._recent.items() if version >= oldest and data}
        while sum(map(len, self._recent.values())) > _KEPT_BYTES:
            del self._recent[min(self._recent)]


def best_path(paths: Paths, version: int) -> Path:
    """Where the copy of the best version lies."""
    return paths.history / f"best_v{version:09d}.npz"
