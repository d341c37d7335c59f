"""Limits that a process sets on itself: threads of the BLAS, priority, memory. Nothing heavy is imported before its use."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from background_training.ipc.json_lines import Send

BLAS_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

NICENESS = 10
LOWEST_NICENESS = 19
_SESSION_NICENESS = Path("/proc/self/autogroup")


def limit_blas_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask the BLAS for one thread, as the bits of a matrix product depend on how many share it.

    It has no effect on a process that has loaded its BLAS already.
    """
    for variable in BLAS_THREAD_VARIABLES:
        environment[variable] = "1"


def lower_priority(niceness: int = NICENESS) -> None:
    """Run this process below the game's: for the processor on every system, for the disk where it has classes.

    Args:
        niceness: 1 to 19; a process that is nicer already stays as it is.
    """
    import psutil

    process = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "win32":
            is_lowest = niceness >= LOWEST_NICENESS
            process.nice(psutil.IDLE_PRIORITY_CLASS if is_lowest else psutil.BELOW_NORMAL_PRIORITY_CLASS)
        elif niceness > process.nice():
            process.nice(niceness)
    if sys.platform == "linux":
        _lower_priority_of_session(niceness)
    with contextlib.suppress(OSError, psutil.Error, AttributeError):
        if sys.platform == "win32":
            process.ionice(psutil.IOPRIO_LOW)
        elif sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)


def _lower_priority_of_session(niceness: int) -> None:
    """Lower that of the session as well, if it is all ours.

    Linux shares the processor out between sessions first ("autogroup"), and a process's own niceness counts only among
    those of its session: a worker in a session of its own would get as much as the whole game, however nice it is.
    """
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _SESSION_NICENESS.write_text(str(niceness))


def lower_limit(name: str, wanted: int) -> None:
    """Set a limit of this process as far as its hard limit allows, so that it can be raised again; nothing on Windows.

    Args:
        name: RLIMIT_AS (bytes of address space) or RLIMIT_CPU (seconds of processor time).
    """
    if sys.platform != "win32":
        import resource

        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):  # some systems refuse RLIMIT_AS
            resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def memory_in_use() -> int:
    """Bytes of memory that this process takes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


class MemoryLimit:
    """Whether this process has grown beyond the memory it may take, so that its parent should replace it."""

    def __init__(self, max_bytes: int, send: Send) -> None:
        self._max = max_bytes
        self._send = send
        self._at_start = 0

    def begin(self) -> None:
        """Note what the process takes at the start of its work; later calls have no effect."""
        self._at_start = self._at_start or memory_in_use()

    def is_exceeded(self) -> bool:
        """Whether it takes more than it may, which is reported to the parent.

        False if it did so from the start: then a replacement would, too.
        """
        if not self._at_start or self._at_start > self._max:
            return False
        present = memory_in_use()
        if present <= self._max:
            return False
        sentence = f"it takes {present >> 20} MiB, more than learner.worker_memory_bytes, {self._max >> 20} MiB"
        self._send("limit_exceeded", sentence=sentence)
        return True
