"""Roots for the doctor's tests: a healthy one, made by a real learner, and what was found in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from background_training.commands import doctor
from background_training.doctor import examination
from background_training.doctor.facts import DoctorFacts
from background_training.paths import Paths
from background_training.storage import model_store
from tests import episodes, learner_runs

WIDTH, ACTIONS = 2, 2


def game(seed: int, version: int = 0, steps: int = 30, **more: Any) -> dict[str, Any]:
    """A sound game: the right action depends on the first number of the state."""
    rng = np.random.default_rng(seed)
    states = rng.choice([-1.0, 1.0], size=(steps, WIDTH)).astype(np.float32)
    actions = rng.integers(0, ACTIONS, steps)
    made: dict[str, Any] = {
        "states": states,
        "actions": actions,
        "rewards": ((actions == 1) == (states[:, 0] > 0)).astype(np.float32),
        "log_probs": np.full(steps, np.log(0.5), np.float32),
        "policy_version": np.int64(version),
        "meta": np.array('{"action_count": 2}'),
    } | more
    return {name: value for name, value in made.items() if value is not None}


def drop(folder: Path, name: str, seed: int, version: int = 0, *, age_seconds: float = 0.0, **more: Any) -> Path:
    """Write a game's file as a foreign writer does."""
    path = episodes.write(folder, name, seed, **(dict.fromkeys(("states", "actions", "rewards")) | game(seed, version, **more)))
    if age_seconds:
        moment = path.stat().st_mtime - age_seconds
        os.utime(path, (moment, moment))
    return path


def play(root: Path, count: int = 12, first: int = 0, **more: Any) -> Paths:
    """Let a learner train on games one by one, each played with the newest version."""
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        drop(paths.buffer, f"g{number:03d}.npz", number, number, **more)
    learner_runs.drain(root, batch_size=1)
    return paths


def look(root: Path, *flags: str) -> DoctorFacts:
    return doctor.look(doctor.parser().parse_args(["--root", str(root), *flags]))


def found(root: Path, *flags: str) -> dict[str, str]:
    """Cause and cure of each finding, by the name of its check."""
    return {finding.check: f"{finding.cause}\n{finding.cure}" for finding in examination.examine(look(root, *flags))}


def rewrite_model(paths: Paths, **arrays: Any) -> None:
    """Replace arrays of the model file, as a trainer of somebody's own might."""
    model = model_store.read(paths.model)
    paths.model.write_bytes(model_store.pack({**model.arrays, **arrays}, model.version, model.manifest))
