"""The process that reads replays: receives one job after another from its parent, and sends back one result each.

It holds nothing that can't be lost, and ends when its parent closes the channel or dies. While it hangs in a file, the
system ends it, by its processor time and by the clock, even when the parent was killed.
"""

from __future__ import annotations

import faulthandler
import math
import os
import queue
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from background_training.errors import ReplayError
from background_training.ipc import json_lines, process_limits
from background_training.ipc.json_lines import Message
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.results_store import is_current, read_result

ALARM_GRACE_SECONDS = 5.0
"""By how much the worker's own alarms come later than the pool's: the pool's leaves a cleaner record."""

PATIENCE = 5.0
"""How many times its time limit, by the clock, a file may take on a machine that has no processor time to spare."""

POLITE, HUMBLE = 5, process_limits.LOWEST_NICENESS
"""Niceness of a command in the foreground, and of work beside training, which has priority."""

MEMORY_BYTES = 2_000_000_000
"""Address space of a worker. A file that unpacks to more counts as unreadable; otherwise it could exhaust the machine."""


def main() -> None:
    """Answer jobs until the parent closes its end."""
    channel = json_lines.parent_channel()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends its workers in its own way
    process_limits.lower_priority(int(sys.argv[1]) if len(sys.argv) > 1 else POLITE)
    process_limits.lower_limit("RLIMIT_AS", MEMORY_BYTES)
    jobs: queue.SimpleQueue[Message] = queue.SimpleQueue()
    channel.listen(jobs.put, json_lines.exit_at_once)
    analysis.demand_library()
    from background_training.starcraft.replays import (
        replay_file,  # loaded before the first job, whose time limit it would count towards
    )

    channel.send("ready", library=replay_file.LIBRARY)
    alarm = open(os.devnull, "w")  # noqa: SIM115 - faulthandler needs it as long as the process lives
    while True:
        job = jobs.get()
        settings = ReplaySettings(**job["settings"])
        _set_alarms(settings.timeout_seconds, alarm)
        result = _analyse(job["path"], settings, job["results"])
        faulthandler.cancel_dump_traceback_later()
        channel.send("result", result=result, memory_bytes=process_limits.memory_in_use())


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


def _set_alarms(timeout_seconds: float, file: TextIO) -> None:
    """Let the system end this process if a file takes far too long; Python code may be unable to run by then."""
    faulthandler.dump_traceback_later(timeout_seconds * PATIENCE + ALARM_GRACE_SECONDS, exit=True, file=file)
    process_limits.lower_limit("RLIMIT_CPU", math.ceil(time.process_time() + timeout_seconds + ALARM_GRACE_SECONDS))


if __name__ == "__main__":
    main()
