"""The training state: all that training needs and changes, and its arrays in a model file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.algo import adam, network, normalizer
from background_training.algo.adam import Moments
from background_training.algo.network import Network
from background_training.algo.normalizer import Normalizer
from background_training.errors import ModelError
from background_training.settings import LearningSettings
from background_training.spaces.action_space import ActionSpace

Array = npt.NDArray[Any]

COUNTERS = ("updates", "episodes", "steps", "refused_updates")


@dataclass(frozen=True)
class Trainable:
    """The weights of one network as one vector, with the optimiser's moments."""

    weights: Array
    """[P] float32, in the order of `network.Network`."""
    moments: Moments

    def copied(self) -> Trainable:
        """A deep copy, which may be changed in place."""
        first, second, steps = self.moments
        return Trainable(self.weights.copy(), Moments(first.copy(), second.copy(), steps))


@dataclass(frozen=True)
class TrainingState:
    """Everything a training step starts from and results in; never changed in place.

    Both networks take observations that `observations` has scaled; `policy` is the first one with that scaling folded
    in: it takes raw states, and it is what games play with.
    """

    actions: ActionSpace
    """The action space."""
    policy: Network
    actor: Trainable
    critic: Trainable
    observations: Normalizer
    """Of states, [S]."""
    returns: Normalizer
    """Of returns-to-go, [1]; the critic predicts in its units."""
    advantages: Normalizer
    """Of advantages in units of the critic, [1]."""
    updates: int = 0
    episodes: int = 0
    steps: int = 0
    refused_updates: int = 0
    """Updates that were rejected."""

    @property
    def state_width(self) -> int:
        """S"""
        return int(self.policy.W1.shape[0])

    @property
    def hidden(self) -> int:
        """H"""
        return int(self.policy.W1.shape[1])

    def actor_network(self, weights: Array | None = None) -> Network:
        """The policy for scaled states, as views of its weights or of a vector of that size."""
        vector = self.actor.weights if weights is None else weights
        return network.network_of(vector, self.state_width, self.hidden, self.actions.outputs)

    def critic_network(self, weights: Array | None = None) -> Network:
        """The value network for scaled states, as views of its weights or of a vector of that size."""
        vector = self.critic.weights if weights is None else weights
        return network.network_of(vector, self.state_width, self.hidden, 1)


def new_state(state_width: int, actions: ActionSpace, settings: LearningSettings) -> TrainingState:
    """The untrained state; the same seed gives the same bits."""
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    actor = network.new_network(rng, state_width, settings.hidden_size, actions.outputs, output_gain=0.01)
    critic = network.new_network(rng, state_width, settings.hidden_size, 1, output_gain=1.0)
    return TrainingState(
        actions=actions,
        policy=actor,
        actor=_untrained(actor),
        critic=_untrained(critic),
        observations=normalizer.new_normalizer(state_width),
        returns=normalizer.new_normalizer(1),
        advantages=normalizer.new_normalizer(1),
    )


def _untrained(initial: Network) -> Trainable:
    weights = network.flattened(initial)
    return Trainable(weights, adam.new_moments(len(weights)))


def to_arrays(state: TrainingState) -> dict[str, Array]:
    """The state as named arrays of numbers, for an .npz file; W1 b1 W2 b2 W3 b3 are the policy for raw states."""
    arrays: dict[str, Array] = dict(zip(Network._fields, state.policy, strict=True))
    for name, trainable in (("actor", state.actor), ("critic", state.critic)):
        arrays[f"{name}_weights"] = trainable.weights
        arrays[f"{name}_first_moment"] = trainable.moments.first
        arrays[f"{name}_second_moment"] = trainable.moments.second
        arrays[f"{name}_optimizer_steps"] = np.array(trainable.moments.steps, np.int64)
    for name in ("observations", "returns", "advantages"):
        arrays[f"{name}_normaliser"] = _packed(getattr(state, name))
    arrays["training_counters"] = np.array([getattr(state, name) for name in COUNTERS], np.int64)
    return arrays


def from_arrays(arrays: Mapping[str, Array], actions: ActionSpace, source: str) -> TrainingState:
    """The inverse of `to_arrays`, for these actions.

    Raises:
        ModelError: an array is missing, of another shape or type, or holds NaN or infinity; `source` is named.
    """
    reader = _Reader(arrays, source)
    width, hidden = reader.sizes("W1")
    parts = network.shapes(width, hidden, actions.outputs)
    return TrainingState(
        actions=actions,
        policy=Network(*(reader.floats(name, shape) for name, shape in zip(Network._fields, parts, strict=True))),
        actor=reader.trainable("actor", network.size_of(width, hidden, actions.outputs)),
        critic=reader.trainable("critic", network.size_of(width, hidden, 1)),
        observations=reader.normalizer("observations", width),
        returns=reader.normalizer("returns", 1),
        advantages=reader.normalizer("advantages", 1),
        **dict(zip(COUNTERS, reader.counters(), strict=True)),
    )


def is_finite(state: TrainingState) -> bool:
    """Whether every number of the state is finite."""
    return all(bool(np.isfinite(values).all()) for values in to_arrays(state).values())


_MAX_COUNT = 2**53
_LARGEST_ROW = 1e80
"""Far above the squares of any returns; larger values would overflow in the next batch."""

_ROWS = ("mean", "squares", "lowest", "highest")


def _packed(values: Normalizer) -> Array:
    """[5, S] float64: mean, squares, lowest, highest, and in the last row the count, usually the same for every feature."""
    return np.stack([*(getattr(values, row) for row in _ROWS), np.full_like(values.mean, values.count)])


@dataclasses.dataclass
class _Reader:
    """Extracts checked arrays from a model file."""

    arrays: Mapping[str, Array]
    source: str

    def array(self, name: str, kinds: str) -> Array:
        if name not in self.arrays:
            raise ModelError(self.source, f"there is no array {name}", "a model of this project, trained or new, has it")
        values = np.asarray(self.arrays[name])
        if values.dtype.kind not in kinds:
            raise ModelError(self.source, f"{name} is of type {values.dtype}", "numbers are needed")
        if not np.isfinite(values).all():
            raise ModelError(self.source, f"{name} holds NaN or infinity", "finite numbers are needed")
        return values

    def sizes(self, name: str) -> tuple[int, int]:
        values = self.array(name, "f")
        if values.ndim != 2 or 0 in values.shape:
            raise ModelError(self.source, f"{name} has shape {values.shape}", "a matrix is needed")
        return int(values.shape[0]), int(values.shape[1])

    def floats(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
        values = self.array(name, "f")
        if values.shape != shape:
            raise ModelError(self.source, f"{name} has shape {values.shape}", f"shape {shape} is needed")
        return np.ascontiguousarray(values, dtype)

    def trainable(self, name: str, size: int) -> Trainable:
        weights, first, second = (self.floats(f"{name}_{part}", (size,)) for part in ("weights", "first_moment", "second_moment"))
        if second.size and float(second.min()) < 0.0:
            raise ModelError(self.source, f"{name}_second_moment holds a negative number", "means of squares are needed")
        return Trainable(weights, Moments(first, second, self._count(f"{name}_optimizer_steps")))

    def normalizer(self, name: str, width: int) -> Normalizer:
        rows = self.floats(f"{name}_normaliser", (len(_ROWS) + 1, width), np.float64)
        counts = rows[-1]
        count = float(counts[0]) if (counts == counts[0]).all() else counts.copy()
        squares, lowest, highest = rows[_ROWS.index("squares")], rows[_ROWS.index("lowest")], rows[_ROWS.index("highest")]
        possible = counts.min() >= 0.0 and squares.min() >= 0.0 and (lowest <= highest).all()
        if not possible or max(-rows.min(), rows.max()) > _LARGEST_ROW:
            found = f"{name}_normaliser holds numbers that no data have"
            raise ModelError(self.source, found, "counts, squares, lowest and highest values of what was seen are needed")
        return Normalizer(count, *(rows[index].copy() for index in range(len(_ROWS))))

    def counters(self) -> list[int]:
        values = self.array("training_counters", "iu")
        if values.shape != (len(COUNTERS),):
            found = f"training_counters has shape {values.shape}"
            raise ModelError(self.source, found, f"{len(COUNTERS)} counters are needed: {', '.join(COUNTERS)}")
        counters = [int(value) for value in values]
        if not all(0 <= counter < _MAX_COUNT for counter in counters):
            raise ModelError(self.source, f"training_counters are {counters}", "whole numbers, 0 or more, are needed")
        return counters

    def _count(self, name: str) -> int:
        values = self.array(name, "iu")
        if values.shape != () or not 0 <= int(values) < _MAX_COUNT:
            found = f"{name} has shape {values.shape}" if values.shape else f"{name} is {int(values)}"
            raise ModelError(self.source, found, "one whole number, 0 or more, is needed")
        return int(values)
