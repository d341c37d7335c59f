"""A process that runs plain functions by name: orders on stdin, answers on stdout, one JSON object a line.

It knows no function beforehand; whoever starts it says which. When stdin ends, so does it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any, BinaryIO

from tools.learner import quiet_process


def main() -> int:
    """Run as `python -m tools.learner.task_worker`."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    quiet_process.lower_priority()
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders, waiting), daemon=True).start()
    while True:
        answer = _answer(waiting.get())
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


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
