"""How many files of a kind lie in a folder and below it, without an end to be waited for."""

from __future__ import annotations

import os
from pathlib import Path

REPLAY_SUFFIX = ".sc2replay"


def count_files(folder: Path, suffix: str, most: int) -> int:
    """How many names end with the suffix, whatever their case; once there are `most`, no further folder is counted.

    Args:
        suffix: in small letters.
    """
    count = 0
    for _, _, names in os.walk(folder):
        count += sum(name.casefold().endswith(suffix) for name in names)
        if count >= most:
            break
    return count
