"""BackgroundParallelLearner: the learner as a bot starts it, beside its game."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from background_training import printable, settings_file
from background_training.errors import LockUnavailableError, ModelError, PausedError
from background_training.learner import console
from background_training.learner.periodic_job import PeriodicJob
from background_training.learner.supervisor import Supervisor
from background_training.paths import Paths
from background_training.records import back_pressure, pause_file
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings
from background_training.storage.file_lock import LearnerLock

START_SECONDS = 30.0
"""How long `start` waits for the worker: a slow disk or a virus scanner delays it, and games would be played meanwhile."""
DRAIN_SECONDS, STALLED_SECONDS = 60.0, 15.0
"""How long `stop(drain=True)` waits for the last episodes: in all, and without any progress."""
_ANNOUNCE_SECONDS = 2.0
_LOOK_SECONDS, _READY_LOOK_SECONDS = 0.02, 0.1

# By name, so that a game without replays does not load the module.
_REPLAY_TASK = "background_training.starcraft.replays.replay_archive:analyse_new"


class BackgroundParallelLearner:
    """Trains on the episodes of one root in a process of its own, without disturbing the game beside it.

    It promises: at most one learner per root; `stop` returns within two seconds with nothing left running; every
    episode is trained on once or moved aside with a reason, whatever is killed in between. It does not promise that
    everything in the buffer has been trained on when `stop` returns; the next start continues. A `with` block that ends
    without an exception trains on what waits first, within a minute.

    Attributes:
        data_dir: the folder of waiting episodes.
        archive_dir: the folder of trained episodes.
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
        report: Callable[[str], None] = printable.say,
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
            report: takes the report of every 30 s; prints it by default.

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
        self._report = report
        self._lock: LearnerLock | None = None
        self._supervisor: Supervisor | None = None
        self._reporter: _Reporter | None = None
        self._replays: PeriodicJob | None = None

    @property
    def running(self) -> bool:
        """Whether the learner runs; False again when it has given up."""
        return self._supervisor is not None and self._supervisor.alive

    def start(self) -> bool:
        """Start the learner, and wait until its worker is ready, for 30 s at most; True, or False if it runs already.

        A worker that takes longer, or that can't start yet, starts in the background.

        Raises:
            AnotherLearnerError: another learner runs in this root; the message names its process.
            LockUnavailableError: the folder can't be locked.
            NotADirectoryError, FileExistsError: the folder can't be made. Other faults of the machine are retried.
        """
        if self.running:
            return False
        self._stop()
        prepare: Callable[[], None] | None = None
        try:
            self._take_root()
        except (LockUnavailableError, NotADirectoryError, FileExistsError):
            raise
        except OSError:
            # For example a full disk: the learner starts when there is room, as it would continue if the disk filled up later.
            prepare = self._take_root
        self._supervisor = Supervisor(self.settings, printable.say, prepare)
        self._supervisor.start()
        if (pause := pause_file.read(self._paths)) is not None:
            printable.say(f"[WARNING] {PausedError(str(self._paths.root), pause.words)}")
        if self.settings.learner.enable_replay_analysis and self.settings.replays.folder:
            self._replays = self._replay_analysis()
            self._replays.start()
        if self.settings.learner.verbose:
            self._reporter = _Reporter(self, self._report)
            self._reporter.start()
        try:
            self._wait_for_worker(self._supervisor)
        except BaseException:  # Ctrl+C: a `with` block that was not entered has no end that would stop the learner
            self._stop()
            raise
        return True

    def _wait_for_worker(self, supervisor: Supervisor) -> None:
        began, is_announced = time.monotonic(), False
        while not supervisor.wait_until_ready(_READY_LOOK_SECONDS):  # in short waits: Windows handles Ctrl+C only between them
            waited = time.monotonic() - began
            if waited >= START_SECONDS:
                break
            if waited >= _ANNOUNCE_SECONDS and not is_announced:
                is_announced = True
                printable.say(f"[INFO] Waiting for the learner's process to start, for {START_SECONDS:g} s at most")
        else:
            return
        printable.say("[WARNING] The learner's process is not ready yet; the game starts without it, and its episodes wait")

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

    def stop(self, *, drain: bool = False, report: bool = True) -> None:
        """Finish or abandon the present batch; when this returns, no worker and no thread is left. Safe to repeat.

        Args:
            drain: train on the waiting episodes first: for a minute at most, or 15 s without progress. The rest is left to the
                next start.
            report: print how many episodes still wait, unless `verbose` is False.
        """
        was_running = self.running
        try:
            if drain:
                self.drain()
        finally:  # also after Ctrl+C, which leaves the waiting episodes to the next start
            self._stop()
        if report and was_running and self.settings.learner.verbose and (waiting := back_pressure.waiting_episodes(self._paths)):
            printable.say(f"[INFO] Episodes still waiting: {console.still_waiting(waiting, self._paths.root)}")

    def drain(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until no episode waits: for a minute at most, or 15 s without progress; prints a line every few seconds.

        Args:
            meanwhile: called again and again while it waits.
        """
        began = progress_at = time.monotonic()
        announce_at, last = began + _ANNOUNCE_SECONDS, -1
        trains = self.settings.learner.enable_model_training
        while trains and self.running and pause_file.read(self._paths) is None:
            waiting, moment = back_pressure.waiting_episodes(self._paths), time.monotonic()
            if waiting != last:
                last, progress_at = waiting, moment
            if not waiting or moment - began > DRAIN_SECONDS or moment - progress_at > STALLED_SECONDS:
                return
            if moment >= announce_at:
                announce_at = moment + 3 * _ANNOUNCE_SECONDS
                printable.say(
                    f"[INFO] Training on the last {back_pressure.counted(waiting)} (Ctrl+C leaves them to the next start)"
                )
            meanwhile()
            time.sleep(_LOOK_SECONDS)

    def _stop(self) -> None:
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
        """The newest counts; keys as in records/status.py, EMPTY_STATS. Costs a copy of a small dict.

        While this learner does not run, `model_version` is read from the model file, which others may have replaced.
        """
        if self._supervisor is None:
            stats = {**EMPTY_STATS, "max_workers": self.settings.learner.max_workers}
        else:
            stats = self._supervisor.stats()
        if not self.running:
            stats["model_version"] = _published_version(self._paths, stats["model_version"])
        if self._replays is not None:
            stats["replays_analyzed"] += self._replays.done
            stats["errors"] += self._replays.errors
        return stats

    def _replay_analysis(self) -> PeriodicJob:
        # One reader: more would compete with training on a machine that also runs a game.
        replays = {**dataclasses.asdict(self.settings.replays), "workers": 1}
        arguments = {"root": str(self.settings.root), "settings": replays}
        rest, limits = self.settings.replays.rescan_seconds, self.settings.learner
        return PeriodicJob(_REPLAY_TASK, arguments, rest, self._training_goes_first, printable.say, limits)

    def _training_goes_first(self) -> bool:
        """Whether no further replay may be read now; the present ones are finished in any case.

        Training counts as one of the allowed workers as long as episodes wait.
        """
        stats = self.get_stats()
        trains = self.settings.learner.enable_model_training and stats["buffer_file_count"] and stats["active_workers"]
        return bool(stats["workers_allowed"] < (2 if trains else 1))

    def __enter__(self) -> BackgroundParallelLearner:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop(drain=kind is None)


def _published_version(paths: Paths, known: int) -> int:
    """The version in the model file; `known` if that can't be read."""
    # Imported only here: it loads NumPy, which a running learner needs in its worker only.
    from background_training.storage import model_store

    try:
        return model_store.read(paths.model, model_store.POLICY_KEYS).version
    except (ModelError, OSError):  # a missing model is an OSError, too
        return known


class _Reporter:
    """Reports the status every `report_seconds`."""

    def __init__(self, learner: BackgroundParallelLearner, report: Callable[[str], None]) -> None:
        self._learner = learner
        self._report = report
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
            self._report(console.status_report(self._learner.get_stats(), learner.max_file_age))
