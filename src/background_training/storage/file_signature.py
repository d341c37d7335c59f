"""What tells a file from what has replaced it, or was written into it, for the price of one stat()."""

from __future__ import annotations

import os
from pathlib import Path

Signature = tuple[int, int, int]
"""Number in the file system, size in bytes, time of the last change in nanoseconds."""


def signature_of(status: os.stat_result) -> Signature:
    """The signature of a file whose status is known already."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def signature(path: Path) -> Signature | None:
    """The signature of what bears this name now; None if there is no such file.

    Raises:
        OSError: it can't be asked for; that does not mean that it is not there.
    """
    try:
        return signature_of(os.stat(path))
    except FileNotFoundError:
        return None
