"""An Episode as an .npz file: the format of docs/file-formats.md, read within bounds, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from local_training import atomic_files, bounded_npz, episode
from local_training.episode import OPTIONAL, REQUIRED, Episode
from local_training.errors import EpisodeError, NpzError
from local_training.settings import LimitSettings

_ARRAYS = frozenset((*REQUIRED, *OPTIONAL))


def read(data: bytes, limits: LimitSettings | None = None) -> Episode:
    """Make an Episode of the bytes of a file.

    Raises:
        EpisodeError: anything about them is unusable; `reason` is one of those of bounded_npz.read and
            episode.from_arrays. "unfinished" and "empty" may mend themselves while a writer is at work.
    """
    limits = limits or LimitSettings()
    try:
        arrays = bounded_npz.read(data, limits.max_memory_bytes, _ARRAYS)
    except NpzError as error:
        raise EpisodeError(error.reason, error.found, error.needed) from None
    return episode.from_arrays(arrays, limits)


def pack(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an episode file. `meta` may be a dict or JSON text; None means "not there".

    Raises:
        EpisodeError: the arrays make no episode, or there is an unknown one; better here than in archive/rejected.
    """
    unknown = set(arrays) - _ARRAYS
    if unknown:
        raise EpisodeError("unknown-array", f"there is an array {min(unknown)}", "known are " + ", ".join(sorted(_ARRAYS)))
    present = {name: value for name, value in arrays.items() if value is not None}
    meta = present.get("meta")
    if isinstance(meta, Mapping):
        present["meta"] = json.dumps(dict(meta), ensure_ascii=True)
    plain = {name: np.asarray(value) for name, value in present.items()}
    episode.from_arrays(plain)
    return bounded_npz.write(plain)


def write(path: Path, arrays: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write an episode file, whole or not at all, replacing a file of that name.

    Raises:
        EpisodeError: the arrays make no episode; nothing was written.
        OSError: the machine failed; nothing is under the name `path` that was not there before.
    """
    atomic_files.write_atomically(path, pack(arrays), durable=durable)
