"""Work beside training: a task that is called again and again in a process of its own, when training lets it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from background_training.errors import WorkerError
from background_training.ipc.job_process import TaskProcess
from background_training.ipc.restart_budget import RestartBudget
from background_training.settings import LearnerSettings

_GO_ON_SECONDS = 0.1


class RepeatedTask:
    """A thread that calls a task, and waits while it has nothing to do.

    The task answers with a dict: how much it has "read", and how much is "left". What goes wrong is counted and said
    once; the next call comes all the same, unless the processes die more often than the budget allows: then it is given up.
    It promises that after `stop` no thread and no process of it is left.

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
        say: Callable[[str], None],
        limits: LearnerSettings,
    ) -> None:
        """Prepare.

        Args:
            function: "module:name".
            rest_seconds: the time between two calls when nothing is left.
            must_wait: asked before each call.
            say: is given sentences for the console.
            limits: `worker_memory_bytes` and `restart_limit` hold for the task's process too.
        """
        self._function = function
        self._arguments = arguments
        self._rest_seconds = rest_seconds
        self._must_wait = must_wait
        self._say = say
        self._process = TaskProcess(limits.worker_memory_bytes)
        self._budget = RestartBudget(limits.restart_limit)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-learner-task", daemon=True)
        self._said = ""
        self.done = 0
        self.errors = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the present call, by force."""
        self._stopping.set()
        self._process.stop()
        self._thread.join()

    def _run(self) -> None:
        left = 0
        while not self._stopping.wait(_GO_ON_SECONDS if left else self._rest_seconds):
            if self._must_wait():
                continue
            deaths = self._process.deaths
            try:
                counts = self._process.call(self._function, self._arguments)
            except (WorkerError, OSError) as error:
                left = 0
                self._note(str(error))
                if self._process.deaths > deaths and not self._may_go_on():
                    break
            else:
                left = counts["left"]
                self.done += counts["read"]
        self._process.close()

    def _may_go_on(self) -> bool:
        """Wait after a death; False if there were too many."""
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
        if sentence != self._said:
            self._said = sentence
            self._say(f"[WARNING] {self._function.partition(':')[0]}: {sentence}")
