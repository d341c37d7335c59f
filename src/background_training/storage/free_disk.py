"""How much room is left where a root lies, or would lie."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(folder: Path) -> float | None:
    """Bytes that are free on the disk of a folder that need not be there yet; None if the system does not say."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return float(shutil.disk_usage(folder).free)
    except OSError:
        return None
