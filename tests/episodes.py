"""Episodes for tests: arrays, files, and what lies where afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from background_training.paths import Paths
from background_training.storage import npz

WIDTH, ACTIONS = 4, 3


def arrays(seed: int = 0, steps: int = 12, width: int = WIDTH, action_count: int = ACTIONS, **more: Any) -> dict[str, Any]:
    """The three arrays of an episode, another one for each seed; `more` adds to them or replaces them, None removes."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "states": rng.normal(size=(steps, width)).astype(np.float32),
        "actions": rng.integers(0, action_count, steps),
        "rewards": rng.normal(size=steps).astype(np.float32),
    } | more
    return {name: value for name, value in made.items() if value is not None}


def full_arrays(seed: int = 0, steps: int = 12, width: int = WIDTH, action_count: int = ACTIONS) -> dict[str, Any]:
    """An episode with every array of the format."""
    rng = np.random.default_rng(seed + 10_000)
    return arrays(
        seed,
        steps,
        width,
        action_count,
        log_probs=np.log(rng.uniform(0.1, 1.0, steps)).astype(np.float32),
        policy_version=np.int64(seed),
        action_mask=np.ones((steps, action_count), bool),
        terminated=np.array(False),
        final_state=rng.normal(size=width).astype(np.float32),
        episode_id=np.array(f"episode {seed} ✓"),
        meta=np.array('{"result": "Victory", "map": "Süd"}'),
    )


def packed(seed: int = 0, **more: Any) -> bytes:
    """The bytes of an episode file."""
    return npz.write(arrays(seed, **more))


def write(folder: Path, name: str, seed: int = 0, *, age_seconds: float = 0.0, **more: Any) -> Path:
    """Write an episode file as a foreign writer does, with plain NumPy and in place."""
    path = folder / name
    with open(path, "wb") as file:
        np.savez(file, **arrays(seed, **more))
    if age_seconds:
        moment = time.time() - age_seconds
        os.utime(path, (moment, moment))
    return path


def fates(paths: Paths) -> dict[str, list[str]]:
    """The names of what lies in the buffer and in each folder of the archive, reason files left out."""
    folders = {
        "buffer": paths.buffer,
        "trained": paths.archive,
        "stale": paths.stale,
        "duplicate": paths.duplicate,
        "rejected": paths.rejected,
    }
    return {
        fate: sorted(name for name in os.listdir(folder) if name.casefold().endswith(".npz") and not name.startswith("."))
        for fate, folder in folders.items()
    }
