"""The manifest of a model file: facts about its training state and how much was trained; written by learner and agents."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from background_training.algo import policy
from background_training.algo.fingerprint import numeric_fingerprint
from background_training.algo.train_step import BatchReport
from background_training.algo.training_state import TrainingState
from background_training.errors import ModelError, ModelMissingError
from background_training.paths import Paths
from background_training.settings import LearningSettings
from background_training.storage import model_store

Manifest = Mapping[str, Any]

LIFE_COUNTERS = ("batches_trained", "samples_trained")
"""Totals over the root's lifetime, including what a rollback undid; `steps_trained` counts only what is in the weights."""


def facts(state: TrainingState, settings: LearningSettings) -> dict[str, Any]:
    """The entries that follow from a state and the settings it was trained with."""
    return {
        "format": model_store.FORMAT,
        "state_width": state.state_width,
        **state.actions.meta,
        "hidden": [state.hidden, state.hidden],
        "activation": policy.ACTIVATION,
        "hyper_parameters": dataclasses.asdict(settings),
        "episodes_trained": state.episodes,
        "steps_trained": state.steps,
        "numeric_fingerprint": numeric_fingerprint(state.hidden),
    }


def after_batch(before: Manifest, state: TrainingState, report: BatchReport) -> dict[str, Any]:
    """The entries that change with one more batch; `before` is the manifest of the file that holds `state`."""
    counted = _counters(before, state.steps)
    counted = {"batches_trained": counted["batches_trained"] + 1, "samples_trained": counted["samples_trained"] + report.steps}
    return {"last_batch": dataclasses.asdict(report), **counted}


def life_of(paths: Paths) -> dict[str, int]:
    """The lifetime counters of a root, from its model and the newest version in its history; 0 if neither is readable."""
    life: dict[str, Any] = {}
    for path in (paths.model, *(model_store.history_path(paths, version) for version in _history(paths)[-1:])):
        with contextlib.suppress(ModelMissingError, ModelError):
            life = with_life(model_store.read(path, model_store.POLICY_KEYS).manifest, life)
    return _counters(life, 0)


def with_life(manifest: Manifest, life: Manifest) -> dict[str, Any]:
    """The manifest of a model that replaces another one: counters never decrease."""
    own, others = _counters(manifest, 0), _counters(life, 0)
    return {**manifest, **{name: max(own[name], others[name]) for name in LIFE_COUNTERS}}


def _history(paths: Paths) -> list[int]:
    try:
        return model_store.history_versions(paths)
    except FileNotFoundError:
        return []


def _counters(manifest: Manifest, steps: int) -> dict[str, int]:
    """The lifetime counters of an untrusted manifest."""
    known = {"batches_trained": 0, "samples_trained": manifest.get("steps_trained", steps)}
    found = {name: manifest.get(name, known[name]) for name in LIFE_COUNTERS}
    return {name: value if type(value) is int and value >= 0 else 0 for name, value in found.items()}
