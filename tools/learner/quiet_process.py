"""Make this process a quiet neighbour: low priority, idle disk class."""

from __future__ import annotations

import contextlib
import sys

import psutil

NICENESS = 10


def lower_priority() -> None:
    """Run this process below the game's: for the processor on every system, for the disk where it has classes."""
    process = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        process.nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", NICENESS))
    with contextlib.suppress(OSError, psutil.Error, AttributeError):
        if sys.platform == "win32":
            process.ionice(psutil.IOPRIO_LOW)
        elif sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)
