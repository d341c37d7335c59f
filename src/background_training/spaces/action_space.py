"""The interface of action spaces and of the distributions over their actions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError

Array = npt.NDArray[Any]


class Choice(NamedTuple):
    """One action, chosen."""

    action: Any
    """A number for Discrete, else an array [D]."""
    probability: float
    """Of the action; for real numbers the density, which may be above 1."""
    log_prob: float


class ActionDistribution(ABC):
    """A distribution over actions in each of B states. Actions are [B] for Discrete, otherwise [B, D]."""

    @abstractmethod
    def log_probs(self, actions: Array) -> Array:
        """log pi of one action per state, [B]; for real numbers the logarithm of the density."""

    @abstractmethod
    def gradient(self, actions: Array, strengths: Array, entropy: float) -> tuple[Array, Array]:
        """The gradient of -strength * log pi(action) - entropy * H(pi) by the network's outputs, [B, A], and H(pi), [B].

        Args:
            strengths: [B], weight of each action's log-probability.
            entropy: weight of the entropy bonus.
        """

    @abstractmethod
    def kl_divergence(self, other: ActionDistribution) -> float:
        """Mean over the states of KL(self, other), in nats."""

    @abstractmethod
    def sampled(self, noise: Array | None) -> tuple[Array, Array]:
        """Sample an action for each state; return it with its log-probability [B] float32. None: the most likely actions.

        Args:
            noise: of `ActionSpace.noise`.
        """


class ActionSpace(ABC):
    """All actions of a game; frozen and hashable. An action consists of D numbers."""

    kind: ClassVar[str]
    """Its name in files."""
    has_masks: ClassVar[bool] = False
    """Whether some actions may be illegal at times."""
    has_densities: ClassVar[bool] = False
    """Whether log-probabilities are those of a density, which may be above 0."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """A, number of network outputs."""

    @property
    @abstractmethod
    def words(self) -> str:
        """Description of an action, for messages: "actions 0 to 3"."""

    @property
    @abstractmethod
    def name_count(self) -> int:
        """Number of names: one for each of A actions, or for each of D numbers of an action."""

    @abstractmethod
    def as_json(self) -> Any:
        """Its JSON form in files; `registry.of_json` is the inverse."""

    @abstractmethod
    def checked(self, raw: Array, steps: int) -> Array:
        """The actions [T] or [T, D] of an episode, in the type of the learner.

        Raises:
            EpisodeError: "wrong-dtype", "wrong-shape", "not-finite" or "action-out-of-range".
        """

    @abstractmethod
    def distribution(self, outputs: Array, mask: Array | None = None) -> ActionDistribution:
        """The distribution given by outputs [B, A]; with a mask [B, A], bool, over the legal actions only."""

    @abstractmethod
    def noise(self, rng: np.random.Generator, count: int) -> Array:
        """Random numbers for `ActionDistribution.sampled` to draw this many actions."""

    @abstractmethod
    def none(self, count: int) -> Array:
        """This many placeholder actions."""

    def check_legal(self, mask: Array, actions: Array) -> None:
        """Refuse a mask [T, A], or actions that it forbids.

        Raises:
            EpisodeError: "wrong-shape", "illegal-action", or "unexpected-mask" where there can't be any.
        """
        raise self._no_masks()

    @property
    def meta(self) -> dict[str, Any]:
        """Its entries in an episode's meta."""
        return {"action_space": self.as_json()}

    def check_mask(self, mask: Array, states: tuple[int, ...] = ()) -> None:
        """Refuse a mask [A], or [B, A] for `states` (B,), that is of another shape, or leaves no action.

        Raises:
            EpisodeError: "wrong-shape", "illegal-action", or "unexpected-mask" where there can't be any.
        """
        raise self._no_masks()

    def choose(self, outputs: Array, mask: Array | None, rng: np.random.Generator, greedy: bool) -> Choice:
        """Choose an action for the outputs [A] of one state.

        Raises:
            EpisodeError: they hold NaN or infinity, or no action is legal.
        """
        if not np.isfinite(outputs).all():
            raise not_finite()
        if mask is not None:
            self.check_mask(mask)
            mask = mask[None]
        actions, log_probs = self.distribution(outputs[None], mask).sampled(None if greedy else self.noise(rng, 1))
        log_prob = float(log_probs[0])
        return Choice(actions[0], math.exp(min(log_prob, 700.0)), log_prob)

    def recorded(self, actions: Sequence[Any]) -> Array:
        """Chosen actions as the array of a file."""
        return np.array(actions, self.none(0).dtype)

    def name_of(self, action: Any, names: Sequence[str]) -> str:
        """The name of an action."""
        numbers = [f"{number:.4g}" for number in np.asarray(action).tolist()]
        return ", ".join(f"{name} {number}" for name, number in zip(names, numbers, strict=True)) if names else " ".join(numbers)

    def _no_masks(self) -> EpisodeError:
        return EpisodeError("unexpected-mask", "there is an action_mask", f"none is possible for {self.words}")


def not_finite() -> EpisodeError:
    return EpisodeError("not-finite", "the state or the policy holds NaN or infinity", "finite numbers are needed")


def no_legal_action() -> EpisodeError:
    return EpisodeError("illegal-action", "the mask allows no action", "at least one must be legal")


def check_rows(raw: Array, steps: int, width: int, words: str) -> None:
    """Refuse actions that are not `width` numbers for each step.

    Raises:
        EpisodeError: "wrong-shape".
    """
    if raw.ndim == 2 and len(raw) == steps and raw.shape[1] != width:
        raise EpisodeError("wrong-shape", f"actions has {raw.shape[1]} numbers per step", f"{width} are needed: {words}")
    if raw.shape != (steps, width):
        raise EpisodeError("wrong-shape", f"actions has shape {raw.shape}", f"({steps}, {width}) is needed: {words}")
