"""The steps after a commit: ledger, history, moves, log. All are idempotent, and recovery runs them again after a crash."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from background_training.episodes import buffer
from background_training.episodes.buffer import TRAINED, Departure
from background_training.learner import training_log
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.training_log import TrainingLog
from background_training.learner.triage import Accepted, Excluded
from background_training.paths import Paths
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import ALIGNED, Line
from background_training.settings import Settings
from background_training.storage import model_store


class Finalizer:
    """Writes what a root records beside the model, in an order that is safe against a crash at any point."""

    def __init__(self, paths: Paths, settings: Settings, ledger: Ledger) -> None:
        self._paths = paths
        self._settings = settings
        self._ledger = ledger
        self.durable = settings.learner.durable
        self._log = TrainingLog(paths.training_log, settings.learner.log_bytes)

    def exclude(self, verdicts: Sequence[Excluded]) -> None:
        """Record the fate of files that are not trained on, then move them.

        The record is flushed first; otherwise a file could have moved without a line that explains it.
        """
        lines: list[dict[str, Any]] = []
        departures: list[Departure] = []
        taken: set[str] = set()
        for verdict in verdicts:
            stored_as = buffer.stored_name(self._paths, verdict.fate, verdict.name, verdict.sha256, taken)
            taken.add(stored_as)
            line = verdict.line(self._ledger.last_seq, stored_as)
            if not self._ledger.has(line):
                lines.append(line)
            departures.append(verdict.departure(stored_as))
        self._ledger.append(lines)
        buffer.move_out(self._paths, departures, durable=self.durable)

    def ledger_lines(self, batch: Sequence[Accepted]) -> list[dict[str, Any]]:
        """The ledger lines of a batch that is about to be trained; they are committed inside the model file first."""
        lines: list[dict[str, Any]] = []
        taken: set[str] = set()
        for item in batch:
            stored_as = buffer.stored_name(self._paths, TRAINED, item.name, item.sha256, taken)
            taken.add(stored_as)
            line: dict[str, Any] = {"seq": 0, "sha256": item.sha256, "name": item.name, "fate": TRAINED}
            line |= {"steps": item.episode.steps, "return": round(item.episode.episode_return, 6)}
            played_by = item.episode.policy_version
            line |= {"policy_version": played_by} if played_by is not None else {}
            line |= {"archived_as": stored_as} if stored_as != item.name else {}
            line |= {"episode_id": item.episode.episode_id} if item.episode.episode_id else {}
            line |= {ALIGNED: True} if item.aligned else {}
            lines.append(line)
        return lines

    def after_commit(self, present: Checkpoint, batch: Sequence[Accepted], seconds: float | None) -> None:
        """Record, archive and log the commit of `present`.

        Args:
            batch: the files it was trained on; empty in a recovery, where triage recognises the files still in the buffer.
            seconds: how long the batch took; None in a recovery, where it is not known.
        """
        self.record(present)
        lines = {line["name"]: line for line in present.batch}
        departures = [
            Departure(item.name, TRAINED, lines[item.name].get("archived_as", item.name), item.signature, item.data)
            for item in batch
        ]
        buffer.move_out(self._paths, departures, durable=self.durable)
        if seconds is not None or not self._log.has_version(present.version):
            self._log.add(training_log.block(time.time(), self._log_facts(present, seconds)))

    def note(self, sentence: str) -> None:
        """Write a line into the training log."""
        self._log.add(training_log.line(time.time(), sentence))

    def record(self, present: Checkpoint) -> None:
        """Add the committed batch to the history and to the ledger."""
        known = len(self._ledger.last_group) if self._ledger.last_seq == present.version else 0
        self.keep_history(present)
        self._ledger.append(list(present.batch[known:]))

    def keep_history(self, present: Checkpoint) -> None:
        """Keep every `history_every`-th version in models/history and prune the oldest."""
        if present.version % self._settings.learner.history_every == 0 and present.data:
            model_store.keep_in_history(self._paths, present.version, present.data, durable=self.durable)
            model_store.prune_history(self._paths, self._settings.learner.history_size)

    def _log_facts(self, present: Checkpoint, seconds: float | None) -> list[tuple[str, str]]:
        report, counts = present.report, self._ledger.counts
        return [
            ("Batch Size", f"{report['games']} games"),
            ("Total Steps", str(report["steps"])),
            ("Loss", f"{report['loss']:.4f}"),
            ("Processing Time", "unknown (recovered)" if seconds is None else f"{seconds:.2f}s"),
            ("Model Version", str(present.version)),
            ("Mean Return", f"{report['mean_return']:.4g}"),
            ("Stale", f"{counts[buffer.STALE]} files"),
            ("Rejected", f"{counts[buffer.REJECTED]} files"),
            *([("Refused", report["refused"])] if report["refused"] else []),
            ("Total Processed", f"{counts[TRAINED]} files"),
            ("Total Batches", str(present.manifest.get("batches_trained", "unknown"))),
        ]


def unrecorded(present: Checkpoint, ledger: Ledger) -> Sequence[Line]:
    """The lines of the committed batch that the ledger lacks; empty if they do not continue its last batch."""
    lines = present.batch
    known = list(ledger.last_group) if ledger.last_seq == present.version else []
    return lines[len(known) :] if list(lines[: len(known)]) == known else []
