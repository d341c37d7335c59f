"""A process that runs plain functions by name: orders on stdin, answers on stdout, one JSON object a line.

It knows no function beforehand; whoever starts it says which. When stdin ends, so does it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from typing import Any, BinaryIO

import psutil

from background_training.ipc import process_priority
from background_training.ipc.heartbeat import BEAT_SECONDS


def main() -> int:
    """Run as `python -m background_training.ipc.job_worker`."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    process_priority.lower_priority()
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    mouth = _Mouth(answers)
    threading.Thread(target=_listen, args=(orders, waiting), daemon=True).start()
    threading.Thread(target=mouth.beat, daemon=True).start()
    while True:
        order = waiting.get()
        mouth.busy = True
        answer = _answer(order)
        mouth.busy = False
        mouth.say({**answer, "memory_bytes": psutil.Process().memory_info().rss})


class _Mouth:
    """Says answers, and between them, while there is work in hand, that there is life here."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self.busy = False

    def say(self, content: dict[str, Any]) -> None:
        with self._lock:
            self._answers.write(json.dumps(content).encode() + b"\n")
            self._answers.flush()

    def beat(self) -> None:
        """For ever; an idle process says nothing, as nobody would read it."""
        while True:
            time.sleep(BEAT_SECONDS)
            if self.busy:
                self.say({"alive": True})


def _listen(orders: BinaryIO, waiting: SimpleQueue[dict[str, Any]]) -> None:
    for line in orders:
        waiting.put(json.loads(line))
    # The parent is gone or wants no more; a task in progress is of the kind that may be cut short.
    os._exit(0)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    module, _, name = order["function"].partition(":")
    try:
        return {"result": getattr(importlib.import_module(module), name)(**order["arguments"])}
    except Exception as error:  # noqa: BLE001  # the process's main: what a task died of is its answer
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


if __name__ == "__main__":
    sys.exit(main())
