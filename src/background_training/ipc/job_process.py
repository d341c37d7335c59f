"""Plain functions called by name in a process of their own: the caller's side, and the process's main."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from typing import Any

from background_training.errors import WorkerError
from background_training.ipc import child, json_lines, process_limits, supervision
from background_training.ipc.child import Child
from background_training.ipc.json_lines import Message
from background_training.ipc.supervision import BEAT_SECONDS, Heartbeat

MODULE = "background_training.ipc.job_process"


class JobProcess:
    """Starts its process with the first call, and again when it has died.

    It promises that no process is left after `stop`, and that a waiting call then ends with a WorkerError. One that sends no
    heartbeat while it works is killed; one whose memory has grown is replaced after the call.

    Attributes:
        deaths: how many processes have ended in the middle of a call.
    """

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: memory above which the process is replaced."""
        self._max_bytes = max_bytes
        self.deaths = 0
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def call(self, function: str, arguments: dict[str, Any]) -> Any:
        """Run a function in the process and wait for what it returns.

        Args:
            function: "module:name".
            arguments: by name; they and the result must fit into JSON.

        Raises:
            WorkerError: the function raised, or its process died.
            OSError: the machine can't start another process.
        """
        process = self._started()
        process.send("call", function=function, arguments=arguments)
        answer = process.receive(supervision.HANG_SECONDS)
        if answer is None:
            self.deaths += 1
            code = self._end(process, exit_seconds=child.EXIT_SECONDS)
            hung = f"hung: no sign of life for {supervision.HANG_SECONDS:g} s"
            raise WorkerError(f"the process that ran {function} {hung if process.hung else f'died (exit code {code})'}")
        if answer["memory_bytes"] > self._max_bytes:
            self._end(process)
        if answer["event"] == "error":
            raise WorkerError(answer["sentence"])
        return answer["value"]

    def stop(self) -> None:
        """Kill the process; jobs are of the kind that may be cut short at any moment."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """Collect the process after `stop`; called by the one thread that calls `call`."""
        if self._child is not None:
            self._end(self._child)

    def _started(self) -> Child:
        with self._lock:
            if self._stopped:
                raise WorkerError("the learner is stopping")
            if self._child is None:
                self._child = Child(child.start(MODULE))
            return self._child

    def _end(self, process: Child, exit_seconds: float = 0.0) -> int:
        code = process.close(exit_seconds=exit_seconds)
        with self._lock:
            self._child = None
        return code


def main() -> int:
    """Run as `python -m background_training.ipc.job_process`; ends when the parent closes the channel or dies."""
    channel = json_lines.parent_channel()
    process_limits.lower_priority()
    calls: SimpleQueue[Message] = SimpleQueue()
    is_working = threading.Event()
    channel.listen(calls.put, json_lines.exit_at_once)
    threading.Thread(target=_beat, args=(Heartbeat(channel.send), is_working), daemon=True).start()
    while True:
        call = calls.get()
        is_working.set()
        event, facts = _result_of(call)
        is_working.clear()
        channel.send(event, **facts, memory_bytes=process_limits.memory_in_use())


def _beat(heartbeat: Heartbeat, is_working: threading.Event) -> None:
    """Send heartbeats while a function runs. They prove that the interpreter runs, not that the function makes progress."""
    while is_working.wait():
        heartbeat.beat()
        time.sleep(BEAT_SECONDS)


def _result_of(call: Message) -> tuple[str, dict[str, Any]]:
    module, _, name = call["function"].partition(":")
    try:
        return "result", {"value": getattr(importlib.import_module(module), name)(**call["arguments"])}
    except Exception as error:  # noqa: BLE001  # the process's main: what a function raised is its answer
        traceback.print_exc()
        return "error", {"sentence": " ".join(f"{type(error).__name__}: {error}".split())}


if __name__ == "__main__":
    sys.exit(main())
