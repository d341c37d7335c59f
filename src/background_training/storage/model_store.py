"""The model file: read whole, committed by one rename, kept for a while in models/history.

A model is a flat dict of arrays (policy, value network, optimiser, normalizers: see training_state.py), a version that
counts commits, and a manifest: a JSON object with facts for readers and the commit record for recovery.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.errors import ModelError, ModelMissingError, NpzError
from background_training.paths import Paths
from background_training.settings import LimitSettings
from background_training.spaces import layout as layouts
from background_training.spaces import registry
from background_training.spaces.action_space import ActionSpace
from background_training.spaces.discrete import Discrete
from background_training.spaces.layout import ModelLayout
from background_training.storage import atomic_files, npz
from background_training.storage.npz import NpyHeader

Array = npt.NDArray[Any]

FORMAT = 1
POLICY_KEYS = ("W1", "b1", "W2", "b2", "W3", "b3")
MAX_MODEL_BYTES = 2_000_000_000
MAX_VERSION = 999_999_999
"""Limit of the nine digits of a name in models/history; 31 years at one commit a second."""

MAX_HIDDEN = 4096
"""The maximum of learning.hidden_size."""

LARGEST_WEIGHT = 1e20
"""Of any layer but the first, which holds the scaling of the states as well; the outputs of such layers stay within float32."""

LARGEST_FIRST_SUM = 1e38
"""Of the first layer's sums for any state that may be played: beyond it a float32 overflows in the middle of a game."""

_LARGEST_STATE = LimitSettings().max_magnitude
_PARTS_PER_POLICY = 16
"""How many times the policy's size all arrays of a model may have together: two networks, two moments each, normalisers."""

_PACKED_SHARE = 20
"""How many times the file's size its arrays may have: trained weights are hardly compressible."""

_SMALL_BYTES = 1_000_000
_LARGE_FILE_BYTES = 64_000_000
"""Above it a file's headers are checked before it is read. Smaller ones are read at once: a mapped file can't be replaced on
Windows, and models are replaced all the time."""

_MANIFEST_LETTERS = 9_999_999
_MANIFEST_VALUES = 500_000
"""Enough for the ledger lines of the largest batch; Python takes about 50 MB for them at most."""

_MAX_COUNT = 2**53
_COUNTS = ("episodes_trained", "steps_trained", "batches_trained", "samples_trained")
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
        """The action space: from the manifest, otherwise Discrete with one action per output."""
        outputs = int(self.arrays["W3"].shape[1])
        said = self.manifest.get("action_space")
        return Discrete(outputs) if said is None else registry.of_json(said, outputs)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions, or of the numbers of an action."""
        return self.given_action_names or tuple(f"action_{index}" for index in range(self.actions.name_count))

    @property
    def given_action_names(self) -> tuple[str, ...]:
        """The manifest's names of the actions; empty if it has none or a wrong number."""
        names = tuple(self.manifest.get("action_names") or ())
        return names if len(names) == self.actions.name_count else ()

    @property
    def layout(self) -> ModelLayout:
        """Names of features and actions, in the model's order."""
        return layouts.of_model(self.manifest, self.state_width, self.actions)


def pack(arrays: Mapping[str, Array], version: int, manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a model file; the same model always gives the same bytes."""
    text = json.dumps(dict(manifest), ensure_ascii=True)
    return npz.write({**arrays, "version": np.int64(version), "manifest": np.array(text)})


def unpack(
    data: bytes, file: str, wanted: Collection[str] | None = None, check_sizes: Callable[[int, int], None] | None = None
) -> Model:
    """Make a Model of the bytes of an untrusted file, checking all of it.

    Sizes are checked by the headers of the arrays, before any large one is unpacked: beside `data`, the wanted arrays are all
    the memory that is taken, and some 100 MB at most for the text of the manifest.

    Args:
        file: its name, for messages.
        wanted: arrays to unpack beside version and manifest; None unpacks all.
        check_sizes: called with state width and number of outputs before any large array is unpacked; may raise ModelError.

    Raises:
        ModelError: it is damaged, of an unknown format, its policy does not fit together or could overflow while it plays, or
            its manifest is impossible.
    """

    def approve(headers: Mapping[str, NpyHeader]) -> None:
        _check_shapes(headers, len(data), file)
        if check_sizes is not None:
            check_sizes(headers["W1"].shape[0], headers["W3"].shape[1])

    try:
        names = None if wanted is None else {*wanted, *POLICY_KEYS, "version", "manifest"}
        arrays = npz.read(data, MAX_MODEL_BYTES, names, approve)
        version = arrays.pop("version", None)
        number = int(version.reshape(())) if version is not None and version.size == 1 and version.dtype.kind in "iu" else -1
        if not 0 <= number <= MAX_VERSION:
            raise ModelError(file, "there is no usable version", f"a whole number from 0 to {MAX_VERSION} is needed")
        model = Model(arrays, number, _manifest(arrays.pop("manifest", None), file))
        _check_manifest(model.manifest, file)
        _check_actions(model, file)
        _check_weights(arrays, file)
        return model
    except NpzError as error:
        raise ModelError(file, error.found, error.needed) from None
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # the parser's boundary: any exception is a fault of the file
        found = f"it can't be read ({type(error).__name__}: {ascii(str(error))[1:-1][:100]})"
        raise ModelError(file, found, "a model committed by this project is needed") from error


def read(path: Path, wanted: Collection[str] | None = None, check_sizes: Callable[[int, int], None] | None = None) -> Model:
    """Read a model file.

    Raises:
        ModelMissingError: there is none.
        ModelError: it can't be used.
        OSError: the machine failed.
    """
    return unpack(read_bytes(path), str(path), wanted, check_sizes)


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file; raises as `read` does."""
    try:
        if _LARGE_FILE_BYTES < os.lstat(path).st_size <= MAX_MODEL_BYTES:
            _check_headers(path)
        return atomic_files.read_regular_file(path, MAX_MODEL_BYTES)
    except FileNotFoundError:
        raise ModelMissingError(str(path)) from None
    except OverflowError as error:
        raise ModelError(str(path), f"it is {error} long", f"at most {MAX_MODEL_BYTES} bytes are allowed") from None
    except atomic_files.NotARegularFileError as error:
        raise ModelError(str(path), f"it is {error.strerror}", "a regular file is needed") from None


def _check_headers(path: Path) -> None:
    """Refuse a large file that is no model before it is read: only its directory and the headers of its arrays are looked at.

    Raises:
        ModelError: it can't be a model.
        OSError: as `atomic_files.read_regular_file`.
    """
    headers, trouble = {}, None
    with atomic_files.open_regular_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        file_bytes = len(content)
        try:
            headers = npz.headers(content, MAX_MODEL_BYTES)
        except NpzError as error:  # raised again below: its traceback holds views of the mapping, which then can't be closed
            trouble = error.found, error.needed
    if trouble is not None:
        raise ModelError(str(path), *trouble)
    _check_shapes(headers, file_bytes, str(path))
    policy_bytes = 4 * sum(math.prod(headers[name].shape) for name in POLICY_KEYS)
    most = _PARTS_PER_POLICY * policy_bytes + 4 * _MANIFEST_LETTERS + _SMALL_BYTES
    if file_bytes > most:
        needed = f"at most {most} are allowed for a policy of {policy_bytes} bytes"
        raise ModelError(str(path), f"the file is {file_bytes} bytes long", needed)


def commit(paths: Paths, data: bytes, *, durable: bool) -> None:
    """Publish the bytes of a model. The rename is the commit point of a batch."""
    atomic_files.write_atomically(paths.model, data, durable=durable)


def history_path(paths: Paths, version: int) -> Path:
    return paths.history / f"rl_agent_model_v{version:09d}.npz"


def history_versions(paths: Paths) -> list[int]:
    """Versions in the history, oldest first."""
    with os.scandir(paths.history) as entries:
        matches = [_HISTORY_NAME.match(entry.name) for entry in entries]
    return sorted(int(match.group(1)) for match in matches if match)


def keep_in_history(paths: Paths, version: int, data: bytes, *, durable: bool) -> None:
    """Store this version in the history unless it is there."""
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
    manifest = None
    if raw is not None and raw.dtype.kind == "U" and raw.size == 1:
        text = str(raw.reshape(())[()])
        if sum(map(text.count, "[{,")) > _MANIFEST_VALUES:
            raise ModelError(file, "its manifest holds too many values", f"at most {_MANIFEST_VALUES} are allowed")
        with contextlib.suppress(ValueError, RecursionError):
            manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ModelError(file, "there is no usable manifest", "a model committed by this project is needed")
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        raise ModelError(file, f"its format is {_shown(manifest.get('format'))}", f"format {FORMAT} is needed")
    return manifest


def _check_manifest(manifest: Mapping[str, Any], file: str) -> None:
    """Reject a manifest with values of unexpected types."""

    def is_text_list(value: Any) -> bool:
        return isinstance(value, list) and all(type(name) is str for name in value)

    def is_report(value: Any) -> bool:
        return isinstance(value, dict) and is_number(value.get("mean_return", 0.0))

    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        **dict.fromkeys(_COUNTS, (is_count, "a whole number, 0 or more, is needed")),
        "action_names": (is_text_list, "a list of texts is needed"),
        "hyper_parameters": (lambda value: isinstance(value, dict), "a JSON object is needed"),
        "last_batch": (is_report, "a JSON object with a finite mean_return is needed"),
        "numeric_fingerprint": (lambda value: type(value) is str, "a text is needed"),
        "commit": (lambda value: isinstance(value, dict), "a JSON object is needed"),
    }
    for name, (allowed, needed) in rules.items():
        if manifest.get(name) is not None and not allowed(manifest[name]):
            raise ModelError(file, f"{name} in its manifest is {_shown(manifest[name])}", needed)


def is_count(value: Any) -> bool:
    """Whether a JSON value is a valid counter."""
    return type(value) is int and 0 <= value < _MAX_COUNT


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < _MAX_COUNT)


def _shown(value: Any) -> str:
    return ascii(value)[:40]


def _check_shapes(headers: Mapping[str, NpyHeader], file_bytes: int, file: str) -> None:
    """Reject by the headers alone what is no network or would take too much memory."""
    missing = [name for name in POLICY_KEYS if name not in headers]
    if missing:
        raise ModelError(file, f"{', '.join(missing)} is missing", "the arrays W1 b1 W2 b2 W3 b3 are needed")
    shapes = [headers[name].shape for name in POLICY_KEYS]
    layers = [(shapes[index], shapes[index + 1]) for index in (0, 2, 4)]
    chained = all(len(weight) == 2 and bias == weight[1:] and 0 not in weight for weight, bias in layers) and (
        shapes[0][1:] == shapes[2][:1] and shapes[2][1:] == shapes[4][:1]
    )
    if not chained:
        raise ModelError(file, f"the policy's shapes are {shapes}", "three layers that fit together are needed")
    hidden = max(shapes[1][0], shapes[3][0])
    if hidden > MAX_HIDDEN:
        raise ModelError(file, f"the policy has {hidden} hidden units", f"at most {MAX_HIDDEN} are allowed")
    if not all(headers[name].dtype.kind == "f" for name in POLICY_KEYS):
        raise ModelError(file, "the policy holds values that are not finite numbers", "finite numbers are needed")
    sizes = {name: math.prod(header.shape) * header.dtype.itemsize for name, header in headers.items()}
    if sizes.pop("manifest", 0) > 4 * _MANIFEST_LETTERS:
        raise ModelError(file, "its manifest is too long", f"at most {_MANIFEST_LETTERS} letters are allowed")
    policy_bytes = 4 * sum(math.prod(shape) for shape in shapes)
    together = sum(sizes.values())
    most = min(_PARTS_PER_POLICY * policy_bytes, _PACKED_SHARE * file_bytes) + _SMALL_BYTES
    if together > most:
        needed = f"at most {most} are allowed for a policy of {policy_bytes} bytes in a file of {file_bytes}"
        raise ModelError(file, f"its arrays take {together} bytes", needed)


def _check_weights(arrays: Mapping[str, Array], file: str) -> None:
    """Reject a policy that holds NaN, or that could overflow for an allowed state."""
    if not all(np.isfinite(arrays[name]).all() for name in POLICY_KEYS):
        raise ModelError(file, "the policy holds values that are not finite numbers", "finite numbers are needed")
    later = max(float(np.abs(arrays[name]).max()) for name in POLICY_KEYS[2:])
    # The largest input of a first hidden unit over all states within the limits.
    first = np.abs(arrays["W1"]).sum(axis=0, dtype=np.float64) * _LARGEST_STATE + np.abs(arrays["b1"]).astype(np.float64)
    if later > LARGEST_WEIGHT or float(first.max()) > LARGEST_FIRST_SUM:
        needed = f"weights of size {LARGEST_WEIGHT:g} at most, and a first layer that no state can make overflow, are needed"
        raise ModelError(file, "a weight of the policy is too large", needed)


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
