"""Where everything lies below one root; no other file spells these names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
"""The folder that holds run_with_training.py, local_training/ and tools/."""

DEFAULT_ROOT = Path(__file__).resolve().parent
"""The root when nobody names one: the folder local_training/ of the checkout."""

EPISODE_SUFFIX = ".npz"
PARTIAL_SUFFIX = ".part"
REASON_SUFFIX = ".reason.txt"
MODEL_NAME = "rl_agent_model.npz"


@dataclass(frozen=True)
class Paths:
    """All folders and files of one root. It names them; it makes none."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def buffer(self) -> Path:
        """Episodes waiting."""
        return self.data / "buffer"

    @property
    def leaving(self) -> Path:
        """Files on their way out of the buffer, for a moment each; on the same disk, so that a rename leads there."""
        return self.data / ".leaving"

    @property
    def archive(self) -> Path:
        """Episodes trained on, and below it those that were not."""
        return self.data / "archive"

    @property
    def stale(self) -> Path:
        return self.archive / "stale"

    @property
    def duplicate(self) -> Path:
        return self.archive / "duplicate"

    @property
    def rejected(self) -> Path:
        return self.archive / "rejected"

    @property
    def ledger(self) -> Path:
        """The fate of every episode, one JSON line each."""
        return self.data / "ledger.jsonl"

    @property
    def game_voice(self) -> Path:
        """What games say to the learner, a file each; made by the first that speaks."""
        return self.data / "game_voice"

    @property
    def learner_lock(self) -> Path:
        """Held for life by the one learner of this root."""
        return self.data / ".learner.lock"

    @property
    def worker_lock(self) -> Path:
        """Held by the process that changes the model; it may outlive a killed learner by a moment."""
        return self.data / ".worker.lock"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def model(self) -> Path:
        return self.models / MODEL_NAME

    @property
    def history(self) -> Path:
        """Earlier versions of the model."""
        return self.models / "history"

    @property
    def build_orders(self) -> Path:
        return self.models / "learned_build_orders.json"

    @property
    def replay_results(self) -> Path:
        """What was read in each replay, by the hash of its content."""
        return self.data / "replay_results"

    @property
    def replay_report(self) -> Path:
        return self.models / "replay_report.html"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def training_log(self) -> Path:
        return self.logs / "background_training.log"

    @property
    def governor_log(self) -> Path:
        """When the learner gave way, to whom, and when it went on."""
        return self.logs / "governor.log"

    @property
    def games_log(self) -> Path:
        """The games of run_with_training.py, one line each."""
        return self.logs / "games.csv"

    @property
    def worker_stderr(self) -> Path:
        """What the worker process last said before it died, if it did."""
        return self.logs / "worker_stderr.txt"

    @property
    def status(self) -> Path:
        return self.logs / "status.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder, parents first."""
        return (
            self.root,
            self.data,
            self.buffer,
            self.leaving,
            self.archive,
            self.stale,
            self.duplicate,
            self.rejected,
            self.models,
            self.history,
            self.logs,
        )
