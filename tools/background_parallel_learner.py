"""The background learner: a bot plays, and what it deposits in the buffer makes its model better.

As a class for bots, and as a command: python tools/background_parallel_learner.py --help
"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from local_training import blas_threads, pausing, settings_file
from local_training.errors import LockUnavailableError, ModelError, PausedError
from local_training.paths import Paths
from local_training.root_lock import LearnerLock
from local_training.settings import Settings
from tools import command_line
from tools.learner import child_process, console
from tools.learner.child_process import StartWorker
from tools.learner.repeated_task import RepeatedTask
from tools.learner.stats import EMPTY
from tools.learner.supervisor import Supervisor

# By name: the learner hands tasks on without knowing what they do, and a game that has no replays loads nothing.
_REPLAY_TASK = "tools.replay.learner_task:analyse_new"


class BackgroundParallelLearner:
    """Trains in a process of its own on the episodes of one root, beside a game that it does not disturb.

    It promises: at most one learner per root; `stop` returns within two seconds with nothing left running; every
    episode ends as trained once, or aside with a reason, whatever is killed in between. It does not promise that
    everything in the buffer has been trained when `stop` returns; the next start goes on.

    Attributes:
        data_dir: where episodes wait.
        archive_dir: where trained episodes lie.
        model_path: the model file.
        log_dir: logs and status.json.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        enable_replay_analysis: bool | None = None,
        enable_model_training: bool | None = None,
        verbose: bool | None = None,
        max_file_age: float | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        start_worker: StartWorker = child_process.start_worker,
    ) -> None:
        """Prepare a learner; nothing happens before `start`.

        Args:
            max_workers: 2: replays are analysed beside the training; 1: while no episodes wait (2).
            enable_replay_analysis: analyse StarCraft II replays beside the training (True).
            enable_model_training: train on episodes (True).
            verbose: print a report every 30 s (True).
            max_file_age: seconds after which a waiting episode is too old; 0: never (3600).
            root: the folder that holds data/, models/ and logs/; by default the settings' one.
            settings: all other settings; by default config/default.yaml and the environment.
            start_worker: how a worker process is started; by default in a new interpreter.

        Raises:
            SettingsError: a value is not allowed.
        """
        given = {
            "max_workers": max_workers,
            "enable_replay_analysis": enable_replay_analysis,
            "enable_model_training": enable_model_training,
            "verbose": verbose,
            "max_file_age": max_file_age,
        }
        base = settings if settings is not None else settings_file.load(environment=os.environ)
        base = base.with_values("BackgroundParallelLearner", learner={k: v for k, v in given.items() if v is not None})
        self.settings = base if root is None else dataclasses.replace(base, root=Path(root).absolute())
        paths = self._paths = self.settings.paths
        self.data_dir: Path = paths.buffer
        self.archive_dir: Path = paths.archive
        self.model_path: Path = paths.model
        self.log_dir: Path = paths.logs
        self._start_worker = start_worker
        self._lock: LearnerLock | None = None
        self._supervisor: Supervisor | None = None
        self._reporter: _Reporter | None = None
        self._replays: RepeatedTask | None = None

    @property
    def running(self) -> bool:
        """Whether the learner is at work; False again when it has given up."""
        return self._supervisor is not None and self._supervisor.alive

    def start(self) -> bool:
        """Start to learn; True, or False if this learner runs already.

        Raises:
            AnotherLearnerError: another one is at work in this root; the message names its process.
            LockUnavailableError: the folder can't be locked.
            NotADirectoryError, FileExistsError: there can be no such folder. Other faults of the machine are waited for.
        """
        if self.running:
            return False
        self.stop()
        prepare: Callable[[], None] | None = None
        try:
            self._take_root()
        except (LockUnavailableError, NotADirectoryError, FileExistsError):
            raise
        except OSError:
            # A full disk, say. The learner begins when there is room, as it would have gone on had it filled up later.
            prepare = self._take_root
        self._supervisor = Supervisor(self.settings, command_line.say, prepare, self._start_worker)
        self._supervisor.start()
        if (pause := pausing.read(self._paths)) is not None:
            command_line.say(f"[WARNING] {PausedError(str(self._paths.root), pause.words)}")
        if self.settings.learner.enable_replay_analysis and self.settings.replays.folder:
            self._replays = self._replay_analysis()
            self._replays.start()
        if self.settings.learner.verbose:
            self._reporter = _Reporter(self)
            self._reporter.start()
        return True

    def _take_root(self) -> None:
        """Make the root's folders and take its lock.

        Raises:
            AnotherLearnerError, LockUnavailableError: as `start` does.
            OSError: the machine failed; try again later.
        """
        for folder in self._paths.folders:
            folder.mkdir(parents=True, exist_ok=True)
        lock = LearnerLock(self._paths)
        lock.acquire()
        self._lock = lock

    def stop(self) -> None:
        """Finish or abandon the present batch; when this returns, no worker and no thread is left. Safe to repeat."""
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None
        if self._replays is not None:
            self._replays.stop()
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def get_stats(self) -> dict[str, Any]:
        """The newest counts; keys as in tools/learner/stats.py. Costs a copy of a small dict.

        While this learner does not run, `model_version` is read from the model file, which others may have replaced.
        """
        if self._supervisor is None:
            stats = {**EMPTY, "max_workers": self.settings.learner.max_workers}
        else:
            stats = self._supervisor.stats()
        if not self.running:
            stats["model_version"] = _published_version(self._paths, stats["model_version"])
        if self._replays is not None:
            stats["replays_analyzed"] += self._replays.done
            stats["errors"] += self._replays.errors
        return stats

    def _replay_analysis(self) -> RepeatedTask:
        # One reader: more would take turns with training on a machine that also runs a game.
        replays = {**dataclasses.asdict(self.settings.replays), "workers": 1}
        arguments = {"root": str(self.settings.root), "settings": replays}
        rest, limits = self.settings.replays.rescan_seconds, self.settings.learner
        return RepeatedTask(_REPLAY_TASK, arguments, rest, self._training_goes_first, command_line.say, limits)

    def _training_goes_first(self) -> bool:
        """Whether no further replays may be read now; those that are being read are finished in any case.

        Training counts as one of the workers that are allowed, as long as episodes wait.
        """
        stats = self.get_stats()
        trains = self.settings.learner.enable_model_training and stats["buffer_file_count"] and stats["active_workers"]
        return bool(stats["workers_allowed"] < (2 if trains else 1))

    def __enter__(self) -> BackgroundParallelLearner:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()


def _published_version(paths: Paths, known: int) -> int:
    """The version in the model file; what is known if that can't be read."""
    # Only now, as it loads NumPy, which a learner that runs needs in its worker only.
    from local_training import model_store

    try:
        return model_store.read(paths.model, model_store.POLICY_KEYS).version
    except (ModelError, OSError):  # a missing model is an OSError, too
        return known


class _Reporter:
    """Prints the status report from time to time."""

    def __init__(self, learner: BackgroundParallelLearner) -> None:
        self._learner = learner
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-learner-report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        learner = self._learner.settings.learner
        while not self._stopping.wait(learner.report_seconds):
            command_line.say(console.status_report(self._learner.get_stats(), learner.max_file_age))


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="background_parallel_learner.py",
        description="Train on the episodes that games drop into the buffer, until Ctrl+C; or on those that wait now (--drain).",
    )
    command_line.add_common(parser)
    parser.add_argument("--drain", action="store_true", help="train on what lies in the buffer, then exit")
    parser.add_argument("--max-file-age", type=float, metavar="S", help="seconds after which an episode is too old; 0: never")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="2: analyse replays beside the training; 1: while no episodes wait"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="episodes in one batch, at most")
    parser.add_argument("--durability", choices=("full", "fast"), help="full: survives a power cut; fast: survives a crash")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def _run(options: argparse.Namespace) -> int:
    learner_flags = {
        "max_file_age": options.max_file_age,
        "max_workers": options.workers,
        "batch_size": options.batch_size,
        "durability": options.durability,
        "verbose": False if options.quiet else None,
    }
    settings = command_line.settings_of(options, learner=learner_flags)
    command_line.make_root(settings.root)
    return _drain(settings, options.quiet) if options.drain else _learn_until_interrupted(settings)


def _drain(settings: Settings, quiet: bool) -> int:
    # Before NumPy is loaded: the bits of the model depend on the number of its threads.
    blas_threads.limit_blas_threads()
    from tools.learner.drain import drain

    def tell(event: str, **facts: Any) -> None:
        if not quiet:
            command_line.say(console.event_line(event, facts))

    stats = drain(settings, tell)
    if not quiet:
        command_line.say(console.drained(stats))
        if console.misfits(stats):
            command_line.say(f"[WARNING] Episodes that do not fit: {console.misfits(stats)}")
    return 0


def _learn_until_interrupted(settings: Settings) -> int:
    learner = BackgroundParallelLearner(settings=settings)
    started = False
    try:
        # Within the try: the user may press Ctrl+C while the learner starts.
        started = learner.start()
        command_line.say("[OK] Background parallel learner initialized and started")
        command_line.say(f"[INFO] Monitoring directory: {learner.data_dir}")
        while learner.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        return 0
    finally:
        learner.stop()
        if started:
            command_line.say("[OK] Background parallel learner stopped")
    return 1
