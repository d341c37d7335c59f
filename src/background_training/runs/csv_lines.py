"""Adds a line to a CSV file of a run, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from background_training.storage import atomic_files


def append(path: Path, fields: Sequence[str], row: Iterable[object]) -> None:
    """Add a row, with the names of the fields above it in a file that is new or empty.

    Raises:
        OSError: the machine failed; there may be no folder.
    """
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    if not path.exists() or not path.stat().st_size:
        lines.writerow(fields)
    lines.writerow(row)
    atomic_files.append_whole(path, text.getvalue().encode(), durable=False)
