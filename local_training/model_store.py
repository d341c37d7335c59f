"""The model file: read whole, committed by one rename, kept for a while in models/history.

A model is a flat dict of arrays (policy, value network, optimiser, normalisers: see learning.py), a version that
counts commits, and a manifest: a JSON object with what a reader may want to know and what recovery needs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from local_training import atomic_files, bounded_npz
from local_training import layout as layouts
from local_training.actions import kinds
from local_training.actions.discrete import Discrete
from local_training.actions.space import ActionSpace
from local_training.errors import ModelError, ModelMissingError, NpzError
from local_training.layout import Layout
from local_training.paths import Paths

Array = npt.NDArray[Any]

FORMAT = 1
POLICY_KEYS = ("W1", "b1", "W2", "b2", "W3", "b3")
MAX_MODEL_BYTES = 2_000_000_000
_HISTORY_NAME = re.compile(r"rl_agent_model_v(\d{9})\.npz\Z")


@dataclass(frozen=True)
class Model:
    """What a model file holds."""

    arrays: Mapping[str, Array]
    version: int
    manifest: Mapping[str, Any]

    @property
    def state_width(self) -> int:
        return int(self.arrays["W1"].shape[0])

    @property
    def actions(self) -> ActionSpace:
        """What the policy chooses among: as the manifest says, or else one of as many actions as it has outputs."""
        outputs = int(self.arrays["W3"].shape[1])
        said = self.manifest.get("action_space")
        return Discrete(outputs) if said is None else kinds.of_json(said, outputs)

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the actions are called, or the numbers that make one."""
        names = self.manifest.get("action_names") or [f"action_{index}" for index in range(self.actions.name_count)]
        return tuple(str(name) for name in names)

    @property
    def layout(self) -> Layout:
        """What its features and actions are called, in its order."""
        return layouts.of_model(self.manifest, self.state_width, self.actions)


def pack(arrays: Mapping[str, Array], version: int, manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a model file; the same model always gives the same bytes."""
    text = json.dumps(dict(manifest), ensure_ascii=True)
    return bounded_npz.write({**arrays, "version": np.int64(version), "manifest": np.array(text)})


def unpack(data: bytes, file: str, wanted: Collection[str] | None = None) -> Model:
    """Make a Model of the bytes of a file.

    Args:
        file: its name, for messages.
        wanted: arrays to unpack beside version and manifest; None unpacks all.

    Raises:
        ModelError: it is damaged, of an unknown format, or its policy does not fit together.
    """
    try:
        names = None if wanted is None else {*wanted, "version", "manifest"}
        arrays = bounded_npz.read(data, MAX_MODEL_BYTES, names)
    except NpzError as error:
        raise ModelError(file, error.found, error.needed) from None
    version, manifest = arrays.pop("version", None), arrays.pop("manifest", None)
    if version is None or version.shape != () or version.dtype.kind not in "iu" or int(version) < 0:
        raise ModelError(file, "there is no usable version", "a model committed by this project is needed")
    model = Model(arrays, int(version), _manifest(manifest, file))
    _check_policy(model, file)
    return model


def read(path: Path, wanted: Collection[str] | None = None) -> Model:
    """Read a model file.

    Raises:
        ModelMissingError: there is none.
        ModelError: it can't be used.
        OSError: the machine failed.
    """
    return unpack(read_bytes(path), str(path), wanted)


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file; raises as `read` does."""
    try:
        return atomic_files.read_regular_file(path, MAX_MODEL_BYTES)
    except FileNotFoundError:
        raise ModelMissingError(str(path)) from None
    except OverflowError as error:
        raise ModelError(str(path), f"it is {error} long", f"at most {MAX_MODEL_BYTES} bytes are allowed") from None
    except atomic_files.NotARegularFileError as error:
        raise ModelError(str(path), f"it is {error.strerror}", "a regular file is needed") from None


def commit(paths: Paths, data: bytes, *, durable: bool) -> None:
    """Publish the bytes of a model. The rename inside is the commit point of a batch."""
    atomic_files.write_atomically(paths.model, data, durable=durable)


def history_path(paths: Paths, version: int) -> Path:
    return paths.history / f"rl_agent_model_v{version:09d}.npz"


def history_versions(paths: Paths) -> list[int]:
    """Versions that lie in the history, oldest first."""
    with os.scandir(paths.history) as entries:
        matches = [_HISTORY_NAME.match(entry.name) for entry in entries]
    return sorted(int(match.group(1)) for match in matches if match)


def keep_in_history(paths: Paths, version: int, data: bytes, *, durable: bool) -> None:
    """Make sure that the history holds this version."""
    path = history_path(paths, version)
    try:
        if len(data) == os.stat(path).st_size:
            return
    except FileNotFoundError:
        pass
    atomic_files.write_atomically(path, data, durable=durable)


def prune_history(paths: Paths, keep: int) -> None:
    """Remove all but the newest `keep` versions."""
    for version in history_versions(paths)[:-keep]:
        atomic_files.remove_if_there(history_path(paths, version))


def _manifest(raw: Array | None, file: str) -> dict[str, Any]:
    try:
        manifest = json.loads(str(raw[()])) if raw is not None and raw.dtype.kind == "U" and raw.shape == () else None
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise ModelError(file, "there is no usable manifest", "a model committed by this project is needed")
    if manifest.get("format") != FORMAT:
        raise ModelError(file, f"its format is {manifest.get('format')!r}", f"format {FORMAT} is needed")
    return manifest


def _check_policy(model: Model, file: str) -> None:
    arrays = model.arrays
    missing = [name for name in POLICY_KEYS if name not in arrays]
    if missing:
        raise ModelError(file, f"{', '.join(missing)} is missing", "the arrays W1 b1 W2 b2 W3 b3 are needed")
    shapes = [arrays[name].shape for name in POLICY_KEYS]
    layers = [(shapes[index], shapes[index + 1]) for index in (0, 2, 4)]
    chained = all(len(weight) == 2 and bias == weight[1:] for weight, bias in layers) and (
        shapes[0][1:] == shapes[2][:1] and shapes[2][1:] == shapes[4][:1]
    )
    if not chained:
        raise ModelError(file, f"the policy's shapes are {shapes}", "three layers that fit together are needed")
    _check_actions(model, file)
    if not all(arrays[name].dtype.kind == "f" and np.isfinite(arrays[name]).all() for name in POLICY_KEYS):
        raise ModelError(file, "the policy holds values that are not finite numbers", "finite numbers are needed")


def _check_actions(model: Model, file: str) -> None:
    outputs = model.arrays["W3"].shape[1]
    try:
        actions = model.actions
    except ValueError as error:
        found, needed = error.args
        raise ModelError(file, f"action_space in the manifest: {found}", needed) from None
    if actions.outputs != outputs:
        found = f"the policy has {outputs} outputs"
        raise ModelError(file, found, f"{actions.outputs} are needed for {actions.words}, as the manifest says")
