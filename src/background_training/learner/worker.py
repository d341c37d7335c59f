"""The worker process: reads orders from stdin, trains, and reports on stdout, one JSON object per line.

It holds no state that can't be lost. When its parent dies, stdin ends, and the process exits.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from background_training import settings_file
from background_training.algo import ppo_update
from background_training.errors import BackgroundTrainingError, LockUnavailableError, MachineError, ModelError
from background_training.ipc import json_lines, process_limits
from background_training.ipc.json_lines import Message, Send
from background_training.ipc.process_limits import MemoryLimit
from background_training.ipc.supervision import Heartbeat
from background_training.learner.counters import BatchResult, Counters
from background_training.learner.data_warnings import DataWarnings
from background_training.learner.metrics_writer import BatchContext
from background_training.learner.throttle import Throttle
from background_training.learner.trainer import Precautions, Trainer, open_trainer
from background_training.learner.training_log import TroubleLog
from background_training.learner.triage import CLOCK, send_excluded
from background_training.learner.watcher import BufferWatcher
from background_training.records import status
from background_training.settings import Settings
from background_training.storage.file_lock import FORMER_WORKER_SECONDS, RootLock

logger = logging.getLogger(__name__)

LONGEST_BACK_OFF_SECONDS = 30.0
_UNFINISHED_WAIT_SECONDS = 0.25
_CAREFUL_ROUNDS = 50
_EXIT_GRACE_SECONDS = 1.0
_FAULTS_UNTIL_LEFT_ALONE = 3
_RETENTION_SECONDS = 600.0


class Worker:
    """The loop of the worker process."""

    def __init__(
        self,
        settings: Settings,
        send: Send,
        *,
        careful: bool,
        deadly: dict[str, str],
        alone: Collection[str] = (),
        lock: RootLock | None = None,
    ) -> None:
        self._settings = settings
        self._paths = settings.paths
        self._send = send
        self._lock = lock
        self._careful = careful
        self._deadly = deadly
        self._alone = frozenset(alone)
        self._counters = Counters()
        self._faults: Counter[str] = Counter()
        self._hint = threading.Event()
        self._stopping = threading.Event()
        self._back_off_seconds = 0.0
        self._fault_log = TroubleLog(self._paths, settings.learner.log_bytes)
        self._data_warnings = DataWarnings(self._paths, settings.learner.log_bytes)
        self._trainer: Trainer | None = None
        self._status_due = 0.0
        self._retention_due = math.inf
        self._watcher: BufferWatcher | None = None
        self._known: dict[str, Any] = {}
        self._heartbeat = Heartbeat(send)
        self._memory_limit = MemoryLimit(settings.learner.worker_memory_bytes, send)
        self.throttle = Throttle(settings, self._stopping, self._show, self._heartbeat.beat)

    def stop(self) -> None:
        self._stopping.set()
        self._hint.set()

    def run(self) -> None:
        """Train until `stop`, or until this process has grown too large and should be replaced.

        Raises:
            LedgerError: model and ledger contradict each other; the user has to decide.
            AnotherLearnerError: a former worker, or another learner, holds the root's lock.
            LockUnavailableError: the folder can't be locked. Only at the start; later on this is retried.
        """
        rounds = 0
        while not self._stopping.is_set() and not self._memory_limit.is_exceeded():
            self._hint.clear()
            self._heartbeat.beat()
            try:
                # If the folder was deleted and made again, another learner may have locked the new one.
                self._paths.data.mkdir(parents=True, exist_ok=True)
                if self._lock is not None and self._lock.renew(FORMER_WORKER_SECONDS):
                    self._trainer = None
                if self._trainer is None or time.monotonic() >= self._retention_due:
                    self._open()  # and delete what is above the bounds
                    self._publish("idle")
                self._watch()
                busy = self._one_round()
            except ModelError as error:
                self._trainer = None
                self._note_failure(str(error))
                busy = False
            except OSError as error:
                if isinstance(error, LockUnavailableError) and rounds == 0:
                    raise
                if isinstance(error, MachineError):
                    self._faults[error.doing] += 1
                # Recover from the disk, never from memory: after a failed write the kernel's pages can't be trusted.
                self._trainer = None
                self._note_failure(f"{type(error).__name__}: {error}")
                busy = False
            rounds += 1
            self._careful = self._careful and rounds < _CAREFUL_ROUNDS
            if not busy:
                self._wait_for_work()
        if self._watcher is not None:
            self._watcher.stop()

    def _wait_for_work(self) -> None:
        """Wait for files, for the end of a pause, or for the next attempt after a fault."""
        rescan = self._settings.learner.rescan_seconds
        if self.throttle.update() and self.throttle.paused_by_user:
            self._publish("paused")
            self.throttle.wait_resumed(rescan)
        elif self._back_off_seconds:
            self._publish("waiting")
            self._heartbeat.wait(self._stopping, self._back_off_seconds)
        else:
            self._publish("idle")
            self._heartbeat.wait(self._hint, min(rescan, _UNFINISHED_WAIT_SECONDS) if self._counters.deferred else rescan)

    def _watch(self) -> None:
        """Watch the buffer; watch the new folder if it has been removed and made again."""
        if self._watcher is not None and self._watcher.sees():
            return
        if self._watcher is not None:
            self._watcher.stop()
        self._watcher = BufferWatcher(self._paths.buffer, self._hint)
        self._watcher.start()
        if self._watcher.trouble:
            self._send("warning", sentence=self._watcher.trouble)

    def _open(self) -> None:
        precautions = Precautions(
            self._announce_file, lambda names: self._send("training", names=list(names)), self._alone, self._lock
        )
        trainer, triage = open_trainer(self._paths, self._settings, self._send, patient=True, precautions=precautions)
        for name, reason in self._deadly.items():
            triage.always_reject(name, reason)
        for doing, times in self._faults.items():
            if times >= _FAULTS_UNTIL_LEFT_ALONE:
                triage.always_defer(Path(doing.removeprefix("reading ")).name)
        self._trainer = trainer
        self._memory_limit.begin()
        bounded = any(dataclasses.asdict(self._settings.retention).values())
        self._retention_due = time.monotonic() + _RETENTION_SECONDS if bounded else math.inf

    def _announce_file(self, name: str) -> None:
        if self._careful:
            self._send("reading", name=name)

    def _one_round(self) -> bool:
        assert self._trainer is not None
        CLOCK.look()
        if not self._trainer.waiting():
            self._counters.deferred = 0
        self._trainer.take_snapshot()
        if not self._settings.learner.enable_model_training or not self._trainer.waiting():
            self._note_success()
            return False
        if not self.throttle.wait_open():
            return False
        done = self._trainer.train_next_batch()
        self.throttle.batch_ended(done.seconds)
        self._counters.add(done, time.time())
        self._trainer.history.add(done, BatchContext.of(self._trainer.waiting(), self.throttle.facts()))
        self._note_success()
        notices = (
            self._trainer.guard.taken_notices() + done.notices + self._data_warnings.after(done.episodes, self._trainer.actions)
        )
        for sentence in notices + [
            f"{trouble}; it is retried later, the other files are trained on" for trouble in done.troubles
        ]:
            self._send("warning", sentence=sentence)
        self._report(done)
        return done.did_something or self._trainer.waiting() > 0

    def _report(self, done: BatchResult) -> None:
        if done.did_something:
            for item in done.excluded:
                self._deadly.pop(item.name, None)
                send_excluded(self._send, item)
            self._send("stats", stats=self._stats(), batch=dict(done.trained.report) if done.trained else None)
            self._publish("training")

    def _note_success(self) -> None:
        self._back_off_seconds = 0.0
        self._fault_log.recovered()

    def _note_failure(self, sentence: str) -> None:
        self._fault_log.failed(sentence)
        self._counters.add_error(sentence)
        self._back_off_seconds = min(max(0.5, 2 * self._back_off_seconds), LONGEST_BACK_OFF_SECONDS)
        logger.warning("%s; trying again in %.1f s", sentence, self._back_off_seconds)
        self._send("trouble", sentence=sentence, retry_seconds=self._back_off_seconds, stats=self._stats())

    def _stats(self) -> dict[str, Any]:
        """The newest counts; without a trainer, those from before the fault, with the error."""
        if self._trainer is None:
            return {**self._known, "errors": self._counters.errors, "last_error": self._counters.last_error}
        present = self._trainer.present
        manifest = dict(present.manifest) if present else {}
        waiting = self._trainer.waiting() + self._counters.deferred
        stats = self._counters.as_stats(
            self._trainer.ledger, manifest, present.version if present else 0, waiting, self._trainer.guard.text()
        )
        self._known = {
            **stats,
            "governor": self.throttle.text(),
            "workers_allowed": self.throttle.workers_allowed,
            "traps": self._data_warnings.text(),
            "active_workers": 1,
            "max_workers": self._settings.learner.max_workers,
        }
        return self._known

    def _show(self, state: str) -> None:
        """Report at once that the throttle has stopped a batch, or has let it continue."""
        self._status_due = 0.0
        self._publish(state)
        self._send("stats", stats=self._stats(), batch=None)

    def _publish(self, state: str) -> None:
        """Write the status for monitors, at most twice a second between batches."""
        moment = time.monotonic()
        if state == "training" and moment < self._status_due:
            return
        self._status_due = moment + 0.5
        present = self._trainer.present if self._trainer else None
        last_batch = dict(present.report) if present and "last_batch" in present.manifest else None
        self.throttle.update()
        stats, settings = self._stats(), settings_file.as_sections(self._settings)
        status.write(self._paths, state, stats, last_batch=last_batch, governor=self.throttle.facts(), settings=settings)
        if state != "training":
            self._send("stats", stats=stats, batch=None)


def main() -> int:
    """Run as `python -m background_training.learner.worker`; the first message holds the settings."""
    channel = json_lines.parent_channel()
    process_limits.lower_priority()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    first = channel.receive()
    if first is None:
        return 0  # the parent has died meanwhile
    settings = settings_file.from_sections(Path(first["root"]), first["settings"])
    lock = RootLock(settings.paths.worker_lock)
    worker = Worker(settings, channel.send, lock=lock, **{key: first[key] for key in ("careful", "deadly", "alone")})
    ppo_update.set_rest(worker.throttle.rest)
    channel.listen(lambda message: _handle(message, worker), lambda: _stop(worker))
    try:
        worker.run()
    except BackgroundTrainingError as error:
        channel.send("refused", sentence=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception:  # noqa: BLE001  # the process's main: the supervisor reads the traceback and starts another worker
        traceback.print_exc()
        return 1
    return 0


def _handle(message: Message, worker: Worker) -> None:
    if message["event"] == "stop":
        _stop(worker)


def _stop(worker: Worker) -> None:
    """Stop because the parent asked for it, or is gone."""
    worker.stop()
    # Give a batch in progress a moment to finish; an interrupted one is trained again at the next start.
    time.sleep(_EXIT_GRACE_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: a daemon thread inside a read of stdin makes the interpreter abort while it shuts down.
    os._exit(code)
