"""The learner's side of a task worker: calls a plain function in a process of its own, again and again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

from background_training.errors import WorkerError
from background_training.ipc import child_process, heartbeat
from background_training.ipc.blas_threads import limit_blas_threads
from background_training.ipc.heartbeat import Watch
from background_training.paths import PACKAGE_PARENT


class TaskProcess:
    """Starts its process with the first call, and anew when it has died.

    It promises that no process is left after `stop`, and that a waiting call then ends with a WorkerError. One that gives no
    sign of life while it works is killed (see `pulse`); one that has grown is replaced after the call.

    Attributes:
        deaths: how many processes have ended in the middle of a call.
    """

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: memory above which a process is too large."""
        self._most_bytes = most_bytes
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def call(self, function: str, arguments: dict[str, Any]) -> Any:
        """Run a function in the process and wait for what it returns.

        Args:
            function: "module:name".
            arguments: by name; they and the result must fit into JSON.

        Raises:
            WorkerError: the function raised, or its process died.
        """
        process = self._living()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"function": function, "arguments": arguments}).encode() + b"\n")
            process.stdin.flush()
            content, hung = _heard(process)
        except (OSError, ValueError):
            content, hung = {}, False
        if not content:
            self.deaths += 1
            self._end(process)
            how = f"hung: no sign of life for {heartbeat.HANG_SECONDS:g} s" if hung else f"died (exit code {process.returncode})"
            raise WorkerError(f"the process that ran {function} {how}")
        if content["memory_bytes"] > self._most_bytes:
            self._end(process)
        if "error" in content:
            raise WorkerError(content["error"])
        return content["result"]

    def stop(self) -> None:
        """Kill the process; tasks are of the kind that may be cut short at any moment."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Collect the process after `stop`; called by the one thread that calls `call`."""
        if self._process is not None:
            self._end(self._process)

    def _living(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise WorkerError("the learner is stopping")
            if self._process is None:
                environment = child_process.child_environment(dict(os.environ))
                limit_blas_threads(environment)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "background_training.ipc.job_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=PACKAGE_PARENT,
                    env=environment,
                    **child_process.apart_from_terminal(),
                )
            return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with self._lock:
            self._process = None


def _heard(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], bool]:
    """The answer, empty if the process has died; and whether it was killed because it hung."""
    assert process.stdout is not None
    with Watch(process) as watch:
        while line := process.stdout.readline():
            watch.heard()
            content: dict[str, Any] = json.loads(line)
            if "alive" not in content:
                return content, False
    return {}, watch.killed
