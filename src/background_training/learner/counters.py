"""What one batch led to, and the counts of a worker process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from background_training.episodes import buffer
from background_training.episodes.episode import Episode
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.triage import Accepted, AlreadyTrained, Excluded, NeedsWidening
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import ROLLED_BACK


@dataclass
class BatchResult:
    """What happened to the files that were taken from the snapshot for one batch, and how long each stage took."""

    accepted: list[Accepted] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)
    already_trained: list[AlreadyTrained] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    needs_widening: NeedsWidening | None = None
    """The features or actions that the model needs before the next file can be trained on."""
    notices: list[str] = field(default_factory=list)
    """Further events, one sentence each."""
    trained: Checkpoint | None = None
    seconds: float = 0.0
    """Until the commit, without the time for which the throttle held the worker."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """The same for each stage that was reached: load, train, commit; and archive, after the commit."""

    @property
    def did_something(self) -> bool:
        return bool(self.accepted or self.excluded or self.already_trained)

    @property
    def episodes(self) -> list[Episode]:
        """Those that were trained on."""
        return [item.episode for item in self.accepted] if self.trained is not None else []


@dataclass
class Counters:
    """Counts of one worker process. Files, batches and samples are totals of the root, read from its
    records; times, losses and errors are those of this process."""

    batches: int = 0
    loss_sum: float = 0.0
    last_loss: float = 0.0
    seconds: float = 0.0
    errors: int = 0
    last_error: str = ""
    last_batch_time: float | None = None
    misfits: int = 0
    last_misfit: str = ""
    deferred: int = 0
    """Files that are unfinished or can't be read; set back to 0 with each new snapshot of the buffer."""

    def add(self, done: BatchResult, moment: float) -> None:
        """Add a batch; `moment` is seconds since 1970."""
        self.seconds += done.seconds
        self.deferred += len(done.deferred)
        for trouble in done.troubles:
            self.add_error(trouble)
        for misfit in (item for item in done.excluded if item.of_another_game):
            self.misfits += 1
            self.last_misfit = misfit.reason
        if done.trained is not None:
            self.batches += 1
            self.last_loss = float(done.trained.report["loss"])
            self.loss_sum += self.last_loss
            self.last_batch_time = moment

    def add_error(self, sentence: str) -> None:
        self.errors += 1
        self.last_error = sentence

    def as_stats(self, ledger: Ledger, manifest: dict[str, Any], version: int, waiting: int, guard: str) -> dict[str, Any]:
        """The worker's part of get_stats()."""
        counts = ledger.counts
        return {
            "files_processed": counts[buffer.TRAINED],
            "batches_trained": manifest.get("batches_trained", 0),
            "models_trained": self.batches,
            "total_samples": manifest.get("samples_trained", manifest.get("steps_trained", 0)),
            "avg_loss": self.loss_sum / self.batches if self.batches else 0.0,
            "last_loss": self.last_loss,
            "total_processing_time": round(self.seconds, 6),
            "errors": self.errors,
            "last_error": self.last_error,
            "last_batch_time": self.last_batch_time,
            "buffer_file_count": waiting,
            "archive_file_count": ledger.archived,
            "files_skipped_old": counts[buffer.STALE],
            "files_rejected": counts[buffer.REJECTED],
            "files_misfit": self.misfits,
            "last_misfit": self.last_misfit,
            "files_duplicate": counts[buffer.DUPLICATE],
            "model_version": version,
            "rollbacks": counts[ROLLED_BACK],
            "guard": guard,
            "mean_return": manifest.get("last_batch", {}).get("mean_return", 0.0),
        }
