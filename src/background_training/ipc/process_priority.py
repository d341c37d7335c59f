"""Make this process a quiet neighbour: low priority, idle disk class."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import psutil

NICENESS = 10
_SESSION_NICENESS = Path("/proc/self/autogroup")


def lower_priority() -> None:
    """Run this process below the game's: for the processor on every system, for the disk where it has classes."""
    process = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        process.nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", NICENESS))
    if sys.platform == "linux":
        _lower_priority_of_session()
    with contextlib.suppress(OSError, psutil.Error, AttributeError):
        if sys.platform == "win32":
            process.ionice(psutil.IOPRIO_LOW)
        elif sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)


def _lower_priority_of_session() -> None:
    """Lower that of the session as well, if it is all ours.

    Linux shares the processor out between sessions first ("autogroup"), and a process's own niceness counts only among
    those of its session: a worker in a session of its own would get as much as the whole game, however nice it is.
    """
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _SESSION_NICENESS.write_text(str(NICENESS))
