"""An Episode as an .npz file: the format of docs/reference/episode-format.md, read within bounds, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from background_training.episodes import episode
from background_training.episodes.episode import OPTIONAL, REQUIRED, Episode
from background_training.errors import EpisodeError, NpzError
from background_training.settings import LimitSettings
from background_training.storage import atomic_files, npz

_ARRAYS = frozenset((*REQUIRED, *OPTIONAL))
_PER_STEP = (*REQUIRED, "log_probs", "action_mask")
_OTHER_BYTES = 2_000_000
"""Allowance for everything but the steps: a meta of 100,000 characters, headers, a final state."""


def read(data: bytes, limits: LimitSettings | None = None) -> Episode:
    """Make an Episode of the bytes of a file.

    Raises:
        EpisodeError: anything about them is unusable; `reason` is one of those of npz.read and
            episode.from_arrays, or "unreadable". "unfinished" and "empty" may be temporary while a writer is running.
    """
    limits = limits or LimitSettings()
    try:
        arrays = npz.read(data, limits.max_memory_bytes, _ARRAYS)
        return episode.from_arrays(arrays, limits)
    except NpzError as error:
        raise EpisodeError(error.reason, error.found, error.needed) from None
    except (EpisodeError, MemoryError):
        raise
    except Exception as error:  # the parser's boundary: any exception is a fault of the file
        found = f"the episode can't be read ({type(error).__name__}: {ascii(str(error))[1:-1][:100]})"
        raise EpisodeError("unreadable", found, "an episode as docs/reference/episode-format.md has it is needed") from error


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
    return npz.write(plain)


def in_parts(arrays: Mapping[str, Any], limits: LimitSettings | None = None) -> list[Mapping[str, Any]]:
    """The episode itself, or segments of it if it exceeds the limits of a reader.

    Every part but the last is not terminated and has the first state of the next part as its `final_state`; the number of the
    part is appended to `episode_id` and stored as `part` in the meta. Invalid arrays are rejected by `pack`.
    """
    limits = limits or LimitSettings()
    plain = {name: np.asarray(arrays[name]) for name in _PER_STEP if arrays.get(name) is not None}
    steps = len(plain["states"]) if plain.keys() >= {*REQUIRED} and plain["states"].ndim else 0
    if not steps or any(value.shape[:1] != (steps,) for value in plain.values()):
        return [arrays]
    # As npz counts: the file, a float32 copy, and another one for unaligned arrays; int64 actions.
    bytes_per_step = sum(value.nbytes * (1 if value.itemsize == 1 else 2) + 8 * value.size for value in plain.values()) // steps
    longest = min(limits.max_steps, (limits.max_memory_bytes - _OTHER_BYTES) // max(bytes_per_step, 1))
    if steps <= longest or longest < 1:
        return [arrays]
    meta = arrays.get("meta")
    if isinstance(meta, (str, np.ndarray)):
        meta = json.loads(str(meta))
    identity = str(arrays.get("episode_id") or "")
    parts: list[Mapping[str, Any]] = []
    for start in range(0, steps, longest):
        part = {**arrays, **{name: value[start : start + longest] for name, value in plain.items()}}
        part["meta"] = {**(meta or {}), "part": len(parts)}
        if identity:
            part["episode_id"] = np.array(f"{identity}-{len(parts)}")
        if start + longest < steps:
            part |= {"terminated": np.array(False), "final_state": plain["states"][start + longest]}
        parts.append(part)
    return parts


def write(path: Path, arrays: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write an episode file, whole or not at all, replacing a file of that name.

    Raises:
        EpisodeError: the arrays make no episode; nothing was written.
        OSError: the machine failed; nothing is under the name `path` that was not there before.
    """
    atomic_files.write_atomically(path, pack(arrays), durable=durable)
