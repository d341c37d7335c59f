"""All files and folders of a root; no other module spells these names."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE_PARENT = Path(__file__).resolve().parents[1]
"""The folder that holds this package: src/ of a checkout, or site-packages. Child processes find the package there."""

_CHECKOUT = PACKAGE_PARENT.parent
# By the name src/ too: a bot may have scripts and folders of these names, and a folder vendor/ with our wheel beside them.
_IS_CHECKOUT = PACKAGE_PARENT.name == "src" and (_CHECKOUT / "run_with_training.py").is_file() and (_CHECKOUT / "tools").is_dir()
CHECKOUT = _CHECKOUT if _IS_CHECKOUT else None
"""The folder that holds run_with_training.py, local_training/ and tools/; None where the package is installed from a wheel."""

CHILD_FOLDER = Path(sys.prefix) if CHECKOUT is None else PACKAGE_PARENT
"""Where child processes start: `python -m` looks here first. Not in site-packages, as packages bring backports of modules that
Python has (`pip install argparse`), and those would come before the real ones."""


def default_root() -> Path:
    """The root when none is given: local_training/ of the checkout, else local_training/ in the current folder.

    Never a folder inside site-packages.
    """
    return (Path.cwd() if CHECKOUT is None else CHECKOUT) / "local_training"


EPISODE_SUFFIX = ".npz"
PARTIAL_SUFFIX = ".part"
REASON_SUFFIX = ".reason.txt"
MODEL_NAME = "rl_agent_model.npz"


@dataclass(frozen=True)
class Paths:
    """All folders and files of one root. Accessing them creates nothing."""

    root: Path

    @cached_property
    def data(self) -> Path:
        return self.root / "data"

    @cached_property
    def buffer(self) -> Path:
        """Episodes waiting."""
        return self.data / "buffer"

    @cached_property
    def leaving(self) -> Path:
        """Files on their way out of the buffer, briefly; on the same disk, so that a rename suffices."""
        return self.data / ".leaving"

    @cached_property
    def archive(self) -> Path:
        """Episodes trained on, and below it those that were not."""
        return self.data / "archive"

    @cached_property
    def stale(self) -> Path:
        return self.archive / "stale"

    @cached_property
    def duplicate(self) -> Path:
        return self.archive / "duplicate"

    @cached_property
    def rejected(self) -> Path:
        return self.archive / "rejected"

    @cached_property
    def ledger(self) -> Path:
        """The fate of every episode, one JSON line each."""
        return self.data / "ledger.jsonl"

    @cached_property
    def ledger_index(self) -> Path:
        """Index of the ledger; rebuilt where it is missing or does not match."""
        return self.data / ".ledger_index"

    @cached_property
    def game_voice(self) -> Path:
        """Load hints of games for the learner, one file each."""
        return self.data / "game_voice"

    @cached_property
    def paused(self) -> Path:
        """Exists while the user has paused training, see records/pause_file.py."""
        return self.data / "paused.json"

    @cached_property
    def pauses(self) -> Path:
        """Past pauses, which do not count towards the age of waiting files."""
        return self.data / "pauses.json"

    @cached_property
    def learner_lock(self) -> Path:
        """Held by the learner of this root as long as it runs."""
        return self.data / ".learner.lock"

    @cached_property
    def worker_lock(self) -> Path:
        """Held by the process that changes the model; it may outlive a killed learner briefly."""
        return self.data / ".worker.lock"

    @cached_property
    def models(self) -> Path:
        return self.root / "models"

    @cached_property
    def model(self) -> Path:
        return self.models / MODEL_NAME

    @cached_property
    def history(self) -> Path:
        """Earlier versions of the model."""
        return self.models / "history"

    @cached_property
    def build_orders(self) -> Path:
        return self.models / "learned_build_orders.json"

    @cached_property
    def replay_results(self) -> Path:
        """Result of each replay, by the hash of its content."""
        return self.data / "replay_results"

    @cached_property
    def replay_report(self) -> Path:
        return self.models / "replay_report.html"

    @cached_property
    def logs(self) -> Path:
        return self.root / "logs"

    @cached_property
    def training_log(self) -> Path:
        return self.logs / "background_training.log"

    @cached_property
    def governor_log(self) -> Path:
        """When the learner was throttled, why, and when it continued."""
        return self.logs / "governor.log"

    @cached_property
    def metrics(self) -> Path:
        """One record per batch and per trained game, see metrics.py."""
        return self.logs / "metrics.sqlite3"

    @cached_property
    def old_batch_metrics(self) -> Path:
        """Batch records of versions before SQLite; imported once."""
        return self.logs / "metrics_batches.bin"

    @cached_property
    def old_game_metrics(self) -> Path:
        """Game records of versions before SQLite."""
        return self.logs / "metrics_games.bin"

    @cached_property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard, made by tools/export_tensorboard.py."""
        return self.logs / "tensorboard"

    @cached_property
    def games_log(self) -> Path:
        """The games of run_with_training.py, one line each."""
        return self.logs / "games.csv"

    @cached_property
    def reports_log(self) -> Path:
        """The learner's reports during a run of the games."""
        return self.logs / "reports.log"

    @cached_property
    def lost_games_log(self) -> Path:
        """The games of run_with_training.py that raised, each with its traceback."""
        return self.logs / "lost_games.log"

    @cached_property
    def game(self) -> Path:
        """Which game run_with_training.py plays in this root, see root_game.py."""
        return self.logs / "game.json"

    @cached_property
    def run_state(self) -> Path:
        """State of the current or interrupted run of run_with_training.py."""
        return self.logs / "run.json"

    @cached_property
    def run_lock(self) -> Path:
        """Held by the run whose state that is."""
        return self.logs / ".run.lock"

    @cached_property
    def greedy_log(self) -> Path:
        """The greedy games beside those of run_with_training.py, one line each."""
        return self.logs / "greedy_games.csv"

    @cached_property
    def evaluations_log(self) -> Path:
        """Results of evaluations, one JSON line each."""
        return self.logs / "evaluations.jsonl"

    @cached_property
    def worker_stderr(self) -> Path:
        """Standard error of the last worker process that died."""
        return self.logs / "worker_stderr.txt"

    @cached_property
    def status(self) -> Path:
        return self.logs / "status.json"

    @cached_property
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


def is_episode_name(name: str) -> bool:
    """Whether a file of this name is an episode; hidden names are still being written."""
    return name.casefold().endswith(EPISODE_SUFFIX) and not name.startswith(".")
