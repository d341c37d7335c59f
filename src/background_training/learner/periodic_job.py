"""Work beside training: a function called periodically in a process of its own, while training leaves room for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from background_training.errors import WorkerError
from background_training.ipc.job_process import JobProcess
from background_training.ipc.supervision import RestartBudget
from background_training.settings import LearnerSettings

_NEXT_CALL_SECONDS = 0.1


class PeriodicJob:
    """A thread that calls a function, and waits while there is nothing to do.

    The function returns a dict: how much it has "read", and how much is "left". A failure is counted, and reported unless it
    is the one reported last; the next call follows all the same, unless the processes die more often than the restart budget
    allows: then the job is given up. It promises that after `stop` neither its thread nor a process of it is left.

    Attributes:
        done: how much has been read in all.
        errors: calls that failed.
    """

    def __init__(
        self,
        function: str,
        arguments: dict[str, Any],
        rest_seconds: float,
        must_wait: Callable[[], bool],
        report: Callable[[str], None],
        limits: LearnerSettings,
    ) -> None:
        """Prepare.

        Args:
            function: "module:name".
            rest_seconds: the time between two calls when nothing is left.
            must_wait: called before each call; true puts it off.
            report: receives sentences for the console.
            limits: `worker_memory_bytes` and `restart_limit` apply to the job's process too.
        """
        self._function = function
        self._arguments = arguments
        self._rest_seconds = rest_seconds
        self._must_wait = must_wait
        self._report = report
        self._process = JobProcess(limits.worker_memory_bytes)
        self._budget = RestartBudget(limits.restart_limit)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-learner-job", daemon=True)
        self._last_reported = ""
        self.done = 0
        self.errors = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Kill the process, in the middle of a call or not."""
        self._stopping.set()
        self._process.stop()
        self._thread.join()

    def _run(self) -> None:
        left = 0
        while not self._stopping.wait(_NEXT_CALL_SECONDS if left else self._rest_seconds):
            if self._must_wait():
                continue
            deaths = self._process.deaths
            try:
                counts = self._process.call(self._function, self._arguments)
            except (WorkerError, OSError) as error:
                left = 0
                self._note(str(error))
                if self._process.deaths > deaths and not self._may_continue():
                    break
            else:
                left = counts["left"]
                self.done += counts["read"]
        self._process.close()

    def _may_continue(self) -> bool:
        """Wait after a death; False if the restart budget is spent."""
        wait_seconds = self._budget.back_off(time.monotonic())
        if wait_seconds is None:
            times = len(self._budget.deaths)
            self._note(f"its process died {times} times in ten minutes; it is given up until the learner is started again")
            return False
        self._stopping.wait(wait_seconds)
        return True

    def _note(self, sentence: str) -> None:
        if self._stopping.is_set():
            return
        self.errors += 1
        if sentence != self._last_reported:
            self._last_reported = sentence
            self._report(f"[WARNING] {self._function.partition(':')[0]}: {sentence}")
