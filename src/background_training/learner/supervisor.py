"""Keeps one worker process running and handles its messages: the only part of the learner in the game's process.

No loading, no maths and no moving of files happens here; the thread sleeps until the worker sends a message.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from background_training import settings_file
from background_training.errors import AnotherLearnerError, BackgroundTrainingError, LockUnavailableError
from background_training.ipc import child, supervision
from background_training.ipc.child import Child
from background_training.ipc.json_lines import Message
from background_training.ipc.supervision import RestartBudget
from background_training.learner.poison_files import PoisonFiles
from background_training.learner.training_log import TroubleLog
from background_training.paths import Paths
from background_training.records import status
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings
from background_training.storage import atomic_files

Result = TypeVar("Result")

WORKER = "background_training.learner.worker"
STOP_SECONDS = 1.4
_UNSTARTED_BACK_OFF_SECONDS = (0.5, 30.0)


class Supervisor:
    """Starts the worker, starts it again when it dies, and keeps the newest counts.

    It promises that after `stop` no worker of it is running. It does not promise that the last batch was finished:
    a batch that is cut short is trained by the next start, exactly once.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Prepare a supervisor; nothing happens before `start`.

        Args:
            report: receives sentences for the console.
            prepare: called before the first worker starts, and retried with back-off as long as it raises OSError.
        """
        self._settings = settings
        self._report = report
        self._prepare = prepare
        self._lock = threading.Lock()
        self._stats: dict[str, Any] = {**EMPTY_STATS, "max_workers": settings.learner.max_workers}
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._child: Child | None = None
        self._thread = threading.Thread(target=self._run, name="background-learner", daemon=True)
        self._budget = RestartBudget(settings.learner.restart_limit)
        self._poison_files = PoisonFiles()
        self._fault_log = TroubleLog(settings.paths, settings.learner.log_bytes)
        self._refused_because = ""
        self._replaced_because = ""
        self._restarts = 0
        self._former_errors = 0
        self._former_misfits = 0

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether a worker runs or will be started again."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def wait_until_ready(self, longest_seconds: float) -> bool:
        """Wait until the first worker has read the root's records, or until it is known that this takes longer.

        Returns:
            False if neither has happened within that time.
        """
        return self._answered.wait(longest_seconds)

    def stop(self) -> None:
        """End the worker, by force if it does not end by itself in time."""
        self._stopping.set()
        with self._lock:
            process = self._child
        if process is not None:
            process.send("stop")
            if process.wait(STOP_SECONDS) is None:
                process.kill()
        self._thread.join()
        # A commit that was cut short leaves this; the next start would remove it too, but may never come.
        atomic_files.remove_if_abandoned(atomic_files.partial_path(self._settings.paths.model))

    def stats(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._stats)

    def _run(self) -> None:
        try:
            self._keep_a_worker()
        finally:
            self._answered.set()

    def _keep_a_worker(self) -> None:
        if not self._prepared():
            return
        self._publish_start()
        while not self._stopping.is_set():
            process = self._retried(self._started, "the worker process can't be started")
            if process is None:
                break
            exit_code = self._handle_messages(process)
            with self._lock:
                # Facts about a running worker; otherwise "governor" would keep its last value.
                self._stats.update(active_workers=0, governor="")
            if self._stopping.is_set():
                break
            if self._refused_because:
                self._give_up(self._refused_because)
                return
            if not self._after_death(exit_code):
                return
        status.write(self._settings.paths, "stopped", self.stats())

    def _publish_start(self) -> None:
        """Replace an earlier learner's status: a game waits for a learner that starts, and not for one that was stopped.

        The counts stay; the worker reads them from the root's records.
        """
        found = (status.read(self._settings.paths) or {}).get("stats")
        counts = {key: value for key, value in found.items() if key in EMPTY_STATS} if isinstance(found, dict) else {}
        stats = {**self.stats(), **counts, "active_workers": 0, "governor": "", "last_error": ""}
        status.write(self._settings.paths, "starting", stats, settings=settings_file.as_sections(self._settings))

    def _prepared(self) -> bool:
        """Call `prepare`, with retries; False when there will be no worker."""
        try:
            if self._prepare is not None:
                self._retried(self._prepare, "the learner can't start yet")
        except BackgroundTrainingError as error:
            self._report_failure(str(error))  # without a status, since the root's status is another learner's
            return False
        return not self._stopping.is_set()

    def _retried(self, action: Callable[[], Result], fault: str) -> Result | None:
        """The result of an action, retried with back-off while the machine fails; None if the learner is stopped meanwhile.

        A full disk, or no memory or process to spare, is not the worker's fault, so it does not count as a death.

        Raises:
            BackgroundTrainingError: another learner runs, or the folder can't be locked: a retry would not help.
        """
        wait_seconds, longest = _UNSTARTED_BACK_OFF_SECONDS
        while not self._stopping.is_set():
            try:
                result = action()
                self._fault_log.recovered()
                return result
            except (AnotherLearnerError, LockUnavailableError):
                raise
            except OSError as error:
                self._report_fault(f"{fault} ({error})", wait_seconds)
            self._stopping.wait(wait_seconds)
            wait_seconds = min(2 * wait_seconds, longest)
        return None

    def _report_fault(self, sentence: str, wait_seconds: float) -> None:
        with self._lock:
            self._stats["errors"] += 1
            self._stats["last_error"] = sentence
        self._report(f"[WARNING] {sentence}; trying again in {wait_seconds:.1f} s")
        self._answered.set()
        self._fault_log.failed(sentence)
        status.write(self._settings.paths, "waiting", self.stats())

    def _handle_messages(self, process: Child) -> int:
        """Handle the worker's messages until it ends; its exit code."""
        with self._lock:
            self._child = process
            self._former_errors = self._stats["errors"]
            self._former_misfits = self._stats["files_misfit"]
        if self._stopping.is_set():
            process.kill()
        while (message := process.receive(supervision.HANG_SECONDS)) is not None:
            self._handle(message)
        if process.hung:
            self._replaced_because = f"it hung: no heartbeat for {supervision.HANG_SECONDS:g} s"
        return process.close(exit_seconds=child.EXIT_SECONDS)

    def _started(self) -> Child:
        paths = self._settings.paths
        with _error_file(paths) as errors:
            process = Child(child.start(WORKER, stderr=errors))
        sections = settings_file.as_sections(self._settings)
        is_careful = bool(self._budget.deaths)
        process.send("begin", root=str(paths.root), settings=sections, careful=is_careful, **self._poison_files.orders())
        return process

    def _handle(self, message: Message) -> None:
        kind = message["event"]
        if kind == "reading":
            self._poison_files.reading(message["name"])
        elif kind == "training":
            self._poison_files.training(message["names"])
        elif kind == "set_aside":
            self._poison_files.file_left(message["name"])
        elif kind in ("stats", "trouble"):
            self._update_stats(message["stats"])
            self._answered.set()
        if kind == "trouble":
            self._report(f"[WARNING] {message['sentence']}; trying again in {message['retry_seconds']:.1f} s")
        elif kind == "warning":
            self._report(f"[WARNING] {message['sentence']}")
        elif kind == "refused":
            self._refused_because = message["sentence"]
        elif kind == "limit_exceeded":
            self._replaced_because = message["sentence"]

    def _update_stats(self, stats: dict[str, Any]) -> None:
        with self._lock:
            errors = self._former_errors + stats["errors"]
            # A new worker has had no error yet; the newest one is still the cause of the last death.
            last_error = stats["last_error"] or self._stats["last_error"]
            misfits = {
                "files_misfit": self._former_misfits + stats["files_misfit"],
                "last_misfit": stats["last_misfit"] or self._stats["last_misfit"],
            }
            self._stats.update({**stats, **misfits, "errors": errors, "last_error": last_error}, worker_restarts=self._restarts)

    def _after_death(self, exit_code: int) -> bool:
        """Report it, and wait before the next start; False when there will be none."""
        self._answered.set()
        self._poison_files.worker_died()
        wait_seconds = self._budget.back_off(time.monotonic())
        sentence = f"the worker process died (exit code {exit_code}{_last_error_line(self._settings)})"
        if self._replaced_because:
            sentence = f"the worker process is replaced: {self._replaced_because}"
            self._replaced_because = ""
        if wait_seconds is None:
            self._give_up(f"{sentence}, {len(self._budget.deaths)} times in ten minutes")
            return False
        self._restarts += 1
        with self._lock:
            self._stats["errors"] += 1
            self._stats["worker_restarts"] = self._restarts
            self._stats["last_error"] = sentence
        self._report(f"[WARNING] {sentence}; starting another in {wait_seconds:.1f} s")
        status.write(self._settings.paths, "restarting", self.stats())
        self._stopping.wait(wait_seconds)
        return True

    def _report_failure(self, sentence: str) -> None:
        with self._lock:
            self._stats["errors"] += 1
            self._stats["last_error"] = sentence
        self._report(f"[WARNING] Background learner stopped: {sentence}")

    def _give_up(self, sentence: str) -> None:
        self._report_failure(sentence)
        status.write(self._settings.paths, "failed", self.stats())


def _error_file(paths: Paths) -> IO[bytes]:
    """The file for the worker's stderr; the null device if the logs can't be written, since training does not need them."""
    try:
        os.makedirs(paths.logs, exist_ok=True)
        return open(paths.worker_stderr, "wb")
    except OSError:
        return open(os.devnull, "wb")


def _last_error_line(settings: Settings) -> str:
    """The last line the dead worker wrote to stderr, if any."""
    try:
        text = settings.paths.worker_stderr.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return f": {text.splitlines()[-1][:300]}" if text else ""
