"""What an episode's file says of its actions: of what kind they are, what was done, and what was legal; checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.plain_values import truth_values
from background_training.settings import LimitSettings
from background_training.spaces import registry
from background_training.spaces.action_space import ActionSpace
from background_training.spaces.discrete import Discrete, shape_error

Array = npt.NDArray[Any]

_OR_DECLARED = "for other kinds of actions, an action_space in meta (docs/file-formats.md)"


class ActionsRead(NamedTuple):
    """What was done, which actions were legal, and the kind that the writer declares; None: Discrete, of unknown number."""

    actions: Array
    mask: Array | None
    space: ActionSpace | None


def read(raw: Array, raw_mask: Any, meta: Mapping[str, Any], steps: int, limits: LimitSettings) -> ActionsRead:
    """Check the arrays `actions` and `action_mask` of an episode of so many steps.

    Raises:
        EpisodeError: "wrong-dtype", "wrong-shape", "not-finite", "action-out-of-range", "illegal-action",
            "bad-mask", "unexpected-mask" or "bad-meta".
    """
    declared = _declared(meta, limits)
    if declared is None or isinstance(declared, Discrete):
        return _discrete(raw, raw_mask, declared, steps, limits)
    if declared.name_count == 1 and raw.shape == (steps,):
        raw = raw[:, None]
    actions = declared.checked(raw if declared.has_densities else whole(raw), steps)
    mask = None if raw_mask is None else _mask(raw_mask, steps, limits)
    if mask is not None:
        declared.check_legal(mask, actions)
    return ActionsRead(actions, mask, declared)


def _discrete(raw: Array, raw_mask: Any, declared: Discrete | None, steps: int, limits: LimitSettings) -> ActionsRead:
    actions = _numbers(raw, steps, limits)
    mask = None if raw_mask is None else _mask(raw_mask, steps, limits)
    if mask is not None:
        Discrete(mask.shape[1]).check_legal(mask, actions)
    if declared is not None and declared.count <= int(actions.max()):
        found = f"there is an action {int(actions.max())}, and meta declares {declared.count} actions"
        raise EpisodeError("action-out-of-range", found, "every action must be among them")
    return ActionsRead(actions, mask, declared if mask is None else Discrete(mask.shape[1]))


def _numbers(raw: Array, steps: int, limits: LimitSettings) -> Array:
    raw = whole(without_column(raw))
    if raw.dtype.kind not in "iu":
        needed = f"whole numbers are needed, or {_OR_DECLARED}"
        raise EpisodeError("wrong-dtype", f"actions is of type {raw.dtype}", needed)
    if raw.shape != (steps,):
        error = shape_error(raw, steps)
        raise error if raw.ndim == 1 else EpisodeError(error.reason, error.found, f"{error.needed}, or {_OR_DECLARED}")
    lowest, highest = int(raw.min()), int(raw.max())
    if lowest < 0 or highest >= limits.max_actions:
        worst = lowest if lowest < 0 else highest
        needed = f"0 to {limits.max_actions - 1} (limits.max_actions) is allowed"
        raise EpisodeError("action-out-of-range", f"there is an action {worst}", needed)
    return raw.astype(np.int64)


def _mask(raw: Any, steps: int, limits: LimitSettings) -> Array:
    mask = truth_values(raw)
    if mask.ndim != 2 or mask.shape[0] != steps or not 1 <= mask.shape[1] <= limits.max_actions:
        raise EpisodeError("wrong-shape", f"action_mask has shape {mask.shape}", f"({steps}, number of actions) is needed")
    return np.ascontiguousarray(mask)


def without_column(values: Array) -> Array:
    """[T, 1] as [T], which languages of matrices can't write; any other shape as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def whole(values: Array) -> Array:
    """Floats without a fraction as int64, for writers whose language has no integers; anything else as it is."""
    if values.dtype.kind != "f" or not values.size or not max(-float(values.min()), float(values.max())) <= 2**53:
        return values
    numbers = values.astype(np.int64)
    return numbers if (numbers == values).all() else values


def _whole_json(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _declared(meta: Mapping[str, Any], limits: LimitSettings) -> ActionSpace | None:
    """The kind that the meta declares. What is no object with a kind is a remark of the writer's own."""
    said = meta.get("action_space")
    if isinstance(said, dict) and "kind" in said:
        said = {**said, **{name: _whole_json(said[name]) for name in ("count", "size") if name in said}}
        if isinstance(said.get("sizes"), list):
            said["sizes"] = [_whole_json(size) for size in said["sizes"]]
        try:
            return registry.of_json(said, limits.max_actions)
        except ValueError as error:
            found, needed = error.args
            raise EpisodeError("bad-meta", f"action_space in meta: {found}", f"{needed} (limits.max_actions)") from None
    count = _whole_json(meta.get("action_count"))
    # A new model is made with as many actions as its first episodes declare.
    if count is not None and (type(count) is not int or not 1 <= count <= limits.max_actions):
        needed = f"a whole number from 1 to {limits.max_actions} (limits.max_actions) is needed"
        raise EpisodeError("bad-meta", f"action_count in meta is {ascii(count)[:40]}", needed)
    return None if count is None else Discrete(count)
