"""The manifest of a model file: facts about its training state and how much was trained; written by learner and agents."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from background_training.algo.network import ACTIVATION, WIDE_HIDDEN, WIDE_PART_STEPS
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
        "activation": ACTIVATION,
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


_LINKED_WITH_BLAS = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # of NumPy 2, of NumPy 1
_THREAD_COUNTERS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
    "MKL_Get_Max_Threads",
    "bli_thread_get_num_threads",
)


def numeric_fingerprint(hidden: int) -> str:
    """NumPy's version, the number of BLAS threads, and a hash over a fixed product, exp and tanh.

    For wide networks also the partition of gradients (see `network.parts_of`): earlier versions of this program used another
    one, which gives other last bits.

    Matrix products change with the processor's kernels and the number of BLAS threads, exp and tanh with its vector
    units. Where this text is the same, training the same episodes gives the same bits. Not every product shows how many
    threads shared it, so these are counted; "?" stands for a BLAS that can't be asked.
    """
    parts = f" parts {WIDE_PART_STEPS}" if hidden >= WIDE_HIDDEN else ""
    return _fingerprint_with(blas_threads()) + parts


@functools.cache  # NumPy and the processor do not change during a process
def _fingerprint_with(threads: int) -> str:
    rng = np.random.Generator(np.random.PCG64(20260125))
    left = rng.standard_normal((256, 96), dtype=np.float32)
    right = rng.standard_normal((96, 64), dtype=np.float32)
    product = left @ right
    parts = (product, left.T @ left, np.exp(product / 8), np.tanh(product), np.log1p(np.abs(product)))
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    return f"numpy {np.__version__} threads {threads or '?'} {digest[:16]}"


def blas_threads() -> int:
    """Into how many threads NumPy's BLAS of this process may split a product now; 0 if it can't be asked."""
    counter = _thread_counter()
    return int(counter()) if counter else 0


@functools.cache
def _thread_counter() -> Callable[[], Any] | None:
    """The BLAS's own thread counter, looked up in the module that NumPy linked against it."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _LINKED_WITH_BLAS]
    try:
        linked = [ctypes.CDLL(file) for file in files if file]
    except OSError:
        return None
    found = (getattr(library, name, None) for library in linked for name in _THREAD_COUNTERS)
    return next((counter for counter in found if counter is not None), None)
