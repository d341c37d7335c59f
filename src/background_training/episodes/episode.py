"""An episode: the checked steps of one game, or of a segment of one."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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

REQUIRED = ("states", "actions", "rewards")
OPTIONAL = ("log_probs", "policy_version", "action_mask", "terminated", "final_state", "episode_id", "meta")

_DEEPEST_META = 100
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


@dataclass(frozen=True)
class Episode:
    """The checked steps of one game: finite values, one of each array per step.

    Letters: T steps, S features, A actions.

    states: [T, S] float32, input of the policy.
    actions: [T] int64, 0..A-1; for other kinds than Discrete [T, D], see their `ActionSpace`.
    rewards: [T] float32, reward of the action.
    log_probs: [T] float32 or None, log-probability of the action under the policy that played.
    policy_version: model version that played, or None.
    action_mask: [T, A] bool or None, True where an action was legal.
    terminated: False when the game was cut off, or this is a segment of a longer one.
    final_state: [S] float32 or None, the state after the last step.
    episode_id: unique text, or "".
    meta: further facts by the writer.
    action_space: the writer's declaration by mask or meta; None: Discrete, of unknown size.
    """

    states: Array
    actions: Array
    rewards: Array
    log_probs: Array | None = None
    policy_version: int | None = None
    action_mask: Array | None = None
    terminated: bool = True
    final_state: Array | None = None
    episode_id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    action_space: ActionSpace | None = None

    @property
    def steps(self) -> int:
        return len(self.actions)

    @property
    def state_width(self) -> int:
        return int(self.states.shape[1])

    @property
    def episode_return(self) -> float:
        """Sum of the rewards, undiscounted."""
        return float(np.sum(self.rewards, dtype=np.float64))

    def as_arrays(self) -> dict[str, Array]:
        """Copies of the arrays of the steps by name."""
        named = {"states": self.states, "actions": self.actions, "rewards": self.rewards}
        optional = {"log_probs": self.log_probs, "action_mask": self.action_mask, "final_state": self.final_state}
        return {name: array.copy() for name, array in {**named, **optional}.items() if array is not None}


def from_arrays(arrays: Mapping[str, Any], limits: LimitSettings | None = None) -> Episode:
    """Check raw arrays of a game or a file and make an Episode of them.

    Args:
        arrays: at least `states` [T, ...], `actions` [T] or [T, D], `rewards` [T]; further keys of the format are optional,
            unknown keys are ignored. uint8 states are scaled by 1/255, further axes of a state are flattened. For writers
            in other languages, which may lack scalars, integers and texts: [T, 1] counts as [T], one element as a scalar,
            floats without a fraction as whole numbers, 0 and 1 as a bool, and bytes that are UTF-8 as a text.

    Raises:
        EpisodeError: with the reason "missing-array", "wrong-dtype", "wrong-shape", "too-large", "not-finite",
            "absurd-magnitude", "action-out-of-range", "illegal-action", "bad-mask", "unexpected-mask" or
            "bad-meta".
    """
    limits = limits or LimitSettings()
    for name in REQUIRED:
        if name not in arrays:
            raise EpisodeError("missing-array", f"there is no array {name}", "states, actions and rewards are needed")
    states = _states(np.asarray(arrays["states"]), limits)
    steps = len(states)
    meta = _meta(arrays.get("meta"))
    played = _checked_actions(np.asarray(arrays["actions"]), arrays.get("action_mask"), meta, steps, limits)
    rewards = _finite_floats("rewards", without_column(np.asarray(arrays["rewards"])), (steps,), limits)
    return Episode(
        states=states,
        actions=played.actions,
        rewards=rewards,
        log_probs=_log_probs(arrays.get("log_probs"), steps, played.space, limits),
        policy_version=_policy_version(arrays.get("policy_version")),
        action_mask=played.mask,
        terminated=_terminated(arrays.get("terminated")),
        final_state=_final_state(arrays.get("final_state"), states, limits),
        episode_id=_text("episode_id", arrays.get("episode_id"), 200),
        meta=meta,
        action_space=played.space,
    )


def with_rewards(episode: Episode, rewards: Any, limits: LimitSettings | None = None) -> Episode:
    """The same episode with other rewards [T].

    Raises:
        EpisodeError: they are not one finite number per step.
    """
    checked = _finite_floats("rewards", np.asarray(rewards), (episode.steps,), limits or LimitSettings())
    return dataclasses.replace(episode, rewards=checked)


def _states(raw: Array, limits: LimitSettings) -> Array:
    if raw.ndim < 1 or raw.shape[0] == 0:
        raise EpisodeError("wrong-shape", f"states has shape {raw.shape}", "at least one step, [T, S], is needed")
    steps = raw.shape[0]
    if steps > limits.max_steps:
        raise EpisodeError("too-large", f"there are {steps} steps", f"at most {limits.max_steps} (limits.max_steps) are allowed")
    flat = raw.reshape(steps, -1)
    if flat.shape[1] == 0:
        raise EpisodeError("wrong-shape", f"states has shape {raw.shape}", "at least one number per state is needed")
    if flat.shape[1] > limits.max_state_width:
        found = f"a state holds {flat.shape[1]} numbers"
        raise EpisodeError("too-large", found, f"at most {limits.max_state_width} (limits.max_state_width) are allowed")
    return _finite_floats("states", scaled_pixels(flat), flat.shape, limits)


def scaled_pixels(raw: Array) -> Array:
    """uint8 numbers as float32 divided by 255; any others as they are."""
    if raw.dtype != np.uint8:
        return raw
    scaled = raw.astype(np.float32, order="C")
    scaled /= np.float32(255)  # in place: a second copy would exceed the reader's memory limit
    return scaled


def _finite_floats(name: str, raw: Array, shape: tuple[int, ...], limits: LimitSettings) -> Array:
    if raw.dtype.kind not in "fiub":
        raise EpisodeError("wrong-dtype", f"{name} is of type {raw.dtype}", "real numbers are needed")
    if raw.shape != shape:
        raise _shape_error(name, raw.shape, shape)
    # Before the cast: a float64 beyond float32's range would become an infinity. By minimum and maximum, which carry
    # NaN along and take no memory, unlike the absolute values.
    largest = max(-float(raw.min()), float(raw.max())) if raw.size else 0.0
    if not np.isfinite(largest):
        bad = int(np.count_nonzero(~np.isfinite(raw)))
        raise EpisodeError("not-finite", f"{name} holds {bad} values that are NaN or infinite", "finite numbers are needed")
    if largest > limits.max_magnitude:
        needed = f"at most {limits.max_magnitude:g} (limits.max_magnitude) is allowed; scale the numbers down"
        raise EpisodeError("absurd-magnitude", f"{name} holds a value of size {largest:g}", needed)
    return np.ascontiguousarray(raw, dtype=np.float32)


def _log_probs(raw: Any, steps: int, space: ActionSpace | None, limits: LimitSettings) -> Array | None:
    if raw is None:
        return None
    values = _finite_floats("log_probs", without_column(np.asarray(raw)), (steps,), limits)
    if space is not None and space.has_densities:
        return values
    if values.max() > 1e-5:
        found = f"log_probs holds {float(values.max()):g}"
        raise EpisodeError("bad-log-prob", found, "logarithms of probabilities, 0 at most, are needed")
    return np.asarray(np.minimum(values, np.float32(0)))


def _policy_version(raw: Any) -> int | None:
    if raw is None:
        return None
    value = whole_numbers(np.asarray(raw))
    if value.size != 1 or value.dtype.kind not in "iu":
        found = f"policy_version is of type {value.dtype}, shape {value.shape}"
        raise EpisodeError("wrong-dtype", found, "one whole number is needed")
    version = int(value.reshape(()))
    if not 0 <= version < 2**62:
        raise EpisodeError("bad-version", f"policy_version is {version}", "a version, 0 or more, is needed")
    return version


def _terminated(raw: Any) -> bool:
    if raw is None:
        return True
    value = np.asarray(raw)
    if value.size != 1 or not (value.dtype.kind in "biu" or (value.dtype.kind == "f" and value.reshape(()) in (0.0, 1.0))):
        found = f"terminated is of type {value.dtype}, shape {value.shape}"
        raise EpisodeError("wrong-dtype", found, "one true or false, or 1 or 0, is needed")
    return bool(value.reshape(()))


def _final_state(raw: Any, states: Array, limits: LimitSettings) -> Array | None:
    if raw is None:
        return None
    value = np.asarray(raw)
    return _finite_floats("final_state", scaled_pixels(value.reshape(-1)), (states.shape[1],), limits)


def _text(name: str, raw: Any, longest: int) -> str:
    if raw is None:
        return ""
    value = np.asarray(raw)
    if value.dtype.kind == "S" or (value.dtype in (np.uint8, np.int8) and value.ndim == 1):
        value = _decoded(name, value, longest)
    if value.size != 1 or value.dtype.kind != "U":
        raise EpisodeError("wrong-dtype", f"{name} is of type {value.dtype}, shape {value.shape}", "one text is needed")
    value = value.reshape(())
    # NumPy accepts code points beyond Unicode, which raise later when the text is written.
    if value.dtype.itemsize and int(np.frombuffer(value.astype("=" + value.dtype.str[1:]).tobytes(), np.uint32).max()) > 0x10FFFF:
        raise EpisodeError("wrong-dtype", f"{name} holds letters beyond Unicode", "a text is needed")
    text = str(value)
    if len(text) > longest:
        raise EpisodeError("too-large", f"{name} is {len(text)} characters long", f"at most {longest} are allowed")
    return text


def _decoded(name: str, raw: Array, longest: int) -> Array:
    """The text that bytes hold in UTF-8: one element of type S, or a vector of single bytes."""
    if raw.size != 1 and not (raw.ndim == 1 and raw.dtype.itemsize == 1):
        raise EpisodeError("wrong-dtype", f"{name} is of type {raw.dtype}, shape {raw.shape}", "one text is needed")
    if raw.nbytes > 4 * longest:  # a letter takes four bytes at most
        raise EpisodeError("too-large", f"{name} is {raw.nbytes} bytes long", f"at most {longest} letters are allowed")
    try:
        return np.array(raw.tobytes().rstrip(b"\0").decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise EpisodeError("wrong-dtype", f"{name} holds bytes that are no UTF-8", "a text is needed") from None


def _meta(raw: Any) -> Mapping[str, Any]:
    text = json.dumps(dict(raw)) if isinstance(raw, Mapping) else _text("meta", raw, 100_000)
    if not text:
        return {}
    # Python's own limit depends on the depth of the caller's stack: recovery might fail to read a trained episode.
    if (depth := _nesting(text)) > _DEEPEST_META:
        raise EpisodeError("bad-meta", f"meta is nested {depth} deep", f"{_DEEPEST_META} at most is needed")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EpisodeError("bad-meta", f"meta is not JSON ({error})", "the text of a JSON object is needed") from None
    if not isinstance(meta, dict):
        raise EpisodeError("bad-meta", f"meta holds a JSON {type(meta).__name__}", "a JSON object is needed")
    return meta


def _nesting(text: str) -> int:
    """Maximum nesting of lists and objects in a JSON text."""
    if text.count("[") + text.count("{") <= _DEEPEST_META:
        return 1
    depth = deepest = 0
    for bracket in _BRACKET.findall(_JSON_TEXT.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _shape_error(name: str, found: tuple[int, ...], needed: tuple[int, ...]) -> EpisodeError:
    if len(found) == 1 and len(needed) == 1:
        words = f"{name} has {found[0]} steps, states has {needed[0]}"
        return EpisodeError("wrong-shape", words, "one of each per step is needed")
    return EpisodeError("wrong-shape", f"{name} has shape {found}", f"shape {needed} is needed")


_OR_DECLARED = "for other kinds of actions, an action_space in meta (docs/reference/episode-format.md)"


class _CheckedActions(NamedTuple):
    """Actions, legal actions, and the declared action space; None: Discrete, of unknown size."""

    actions: Array
    mask: Array | None
    space: ActionSpace | None


def _checked_actions(raw: Array, raw_mask: Any, meta: Mapping[str, Any], steps: int, limits: LimitSettings) -> _CheckedActions:
    """Check the arrays `actions` and `action_mask` of an episode of this many steps.

    Raises:
        EpisodeError: "wrong-dtype", "wrong-shape", "not-finite", "action-out-of-range", "illegal-action",
            "bad-mask", "unexpected-mask" or "bad-meta".
    """
    declared = _declared(meta, limits)
    if declared is None or isinstance(declared, Discrete):
        return _discrete(raw, raw_mask, declared, steps, limits)
    if declared.name_count == 1 and raw.shape == (steps,):
        raw = raw[:, None]
    actions = declared.checked(raw if declared.has_densities else whole_numbers(raw), steps)
    mask = None if raw_mask is None else _mask(raw_mask, steps, limits)
    if mask is not None:
        declared.check_legal(mask, actions)
    return _CheckedActions(actions, mask, declared)


def _discrete(raw: Array, raw_mask: Any, declared: Discrete | None, steps: int, limits: LimitSettings) -> _CheckedActions:
    actions = _numbers(raw, steps, limits)
    mask = None if raw_mask is None else _mask(raw_mask, steps, limits)
    if mask is not None:
        Discrete(mask.shape[1]).check_legal(mask, actions)
    if declared is not None and declared.count <= int(actions.max()):
        found = f"there is an action {int(actions.max())}, and meta declares {declared.count} actions"
        raise EpisodeError("action-out-of-range", found, "every action must be among them")
    return _CheckedActions(actions, mask, declared if mask is None else Discrete(mask.shape[1]))


def _numbers(raw: Array, steps: int, limits: LimitSettings) -> Array:
    raw = whole_numbers(without_column(raw))
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
    """[T, 1] as [T], for languages that have matrices only; any other shape unchanged."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def whole_numbers(values: Array) -> Array:
    """Floats without a fraction as int64, for languages without integers; anything else unchanged."""
    if values.dtype.kind != "f" or not values.size or not max(-float(values.min()), float(values.max())) <= 2**53:
        return values
    numbers = values.astype(np.int64)
    return numbers if (numbers == values).all() else values


def _whole_json(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _declared(meta: Mapping[str, Any], limits: LimitSettings) -> ActionSpace | None:
    """The action space that the meta declares. Anything else under action_space is ignored."""
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
    # A new model gets as many actions as its first episodes declare.
    if count is not None and (type(count) is not int or not 1 <= count <= limits.max_actions):
        needed = f"a whole number from 1 to {limits.max_actions} (limits.max_actions) is needed"
        raise EpisodeError("bad-meta", f"action_count in meta is {ascii(count)[:40]}", needed)
    return None if count is None else Discrete(count)
