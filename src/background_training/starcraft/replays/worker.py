"""The process that reads replays: takes one job a line from its standard input, gives one result a line on its output.

It holds nothing that can't be lost. It ends when its parent does: its input ends then. While it hangs in a file, the
system ends it, by its processor time and by the clock, even when the parent was killed and nobody is left to do so.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import psutil

from background_training.errors import ReplayError
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.results_store import is_current, read_result

ALARM_GRACE_SECONDS = 5.0
"""By how much the worker's own alarms come later than the pool's: the pool's leaves a cleaner record."""

PATIENCE = 5.0
"""How many times its time limit, by the clock, a file may take on a machine that has no processor time to spare."""

POLITE, HUMBLE = 5, 19
"""Niceness: of a command that somebody waits for, and of work beside training, which goes first."""

MEMORY_BYTES = 2_000_000_000
"""Address space of a worker; a file that unpacks to more than that is unreadable, and not the end of the machine."""


def main() -> None:
    """Answer jobs until the input ends."""
    answers = _take_over_output()
    _take_back_seat(int(sys.argv[1]) if len(sys.argv) > 1 else POLITE)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    analysis.demand_library()
    from background_training.starcraft.replays import (
        replay_file,  # loaded before the first job, whose time limit it would eat into
    )

    _answer(answers, {"ready": replay_file.LIBRARY})
    alarm = open(os.devnull, "w")  # noqa: SIM115 - faulthandler needs it as long as the process lives
    while True:
        job = jobs.get()
        settings = ReplaySettings(**job["settings"])
        _set_alarms(settings.timeout_seconds, alarm)
        result = _analyse(job["path"], settings, job["results"])
        faulthandler.cancel_dump_traceback_later()
        _answer(answers, {"result": result, "rss": psutil.Process().memory_info().rss})


def _analyse(path: str, settings: ReplaySettings, results: str) -> Any:
    """The kept result if this content is known under another name, else a new one."""
    try:
        data = analysis.read_replay(path, settings)
    except ReplayError as error:
        return analysis.failed_result("", settings, error)
    known = read_result(Path(results, f"{analysis.content_hash(data)}.json")) if results else None
    if known is not None and is_current(known, analysis.made_with(settings), analysis.library_version()):
        return known
    return analysis.analyse_bytes(data, settings)


def _take_over_output() -> BinaryIO:
    """Keep the way to the parent for answers alone: libraries print."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _take_back_seat(niceness: int) -> None:
    """Training goes first, and memory has an end. Ctrl+C is the parent's business, which ends us in its own way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        psutil.Process().nice(psutil.IDLE_PRIORITY_CLASS if niceness > POLITE else psutil.BELOW_NORMAL_PRIORITY_CLASS)
        return
    import resource

    os.nice(niceness)
    _lower_limit(resource.RLIMIT_AS, MEMORY_BYTES)


def _set_alarms(timeout_seconds: float, file: TextIO) -> None:
    """Let the system end us if a file takes far too long; no Python code may be able to run by then."""
    faulthandler.dump_traceback_later(timeout_seconds * PATIENCE + ALARM_GRACE_SECONDS, exit=True, file=file)
    if sys.platform != "win32":
        import resource

        used = time.process_time()
        _lower_limit(resource.RLIMIT_CPU, math.ceil(used + timeout_seconds + ALARM_GRACE_SECONDS))


def _lower_limit(kind: int, wanted: int) -> None:
    """Set a limit of this process that can be raised again, up to what we were given."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _read_jobs(jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(0)


def _answer(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
