"""One of A actions: a softmax over the outputs of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionDistribution, ActionSpace, Choice, no_legal_action, not_finite

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Discrete(ActionSpace):
    """Actions 0 to count - 1."""

    count: int

    kind: ClassVar[str] = "discrete"
    has_masks: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        return self.count

    @property
    def words(self) -> str:
        return f"actions 0 to {self.count - 1}"

    @property
    def name_count(self) -> int:
        return self.count

    @property
    def meta(self) -> dict[str, Any]:
        return {"action_count": self.count}

    def as_json(self) -> int:
        return self.count

    def checked(self, raw: Array, steps: int) -> Array:
        if raw.dtype.kind not in "iu":
            raise EpisodeError("wrong-dtype", f"actions is of type {raw.dtype}", "whole numbers are needed")
        if raw.shape != (steps,):
            raise shape_error(raw, steps)
        lowest, highest = int(raw.min()), int(raw.max())
        if lowest < 0 or highest >= self.count:
            worst = lowest if lowest < 0 else highest
            raise EpisodeError("action-out-of-range", f"there is an action {worst}", f"{self.words} are needed")
        return raw.astype(np.int64)

    def distribution(self, outputs: Array, mask: Array | None = None) -> Categorical:
        return Categorical(outputs, mask)

    def noise(self, rng: np.random.Generator, count: int) -> Array:
        return rng.random(count)

    def none(self, count: int) -> Array:
        return np.zeros(count, np.int64)

    def check_legal(self, mask: Array, actions: Array) -> None:
        if mask.shape[1] != self.count:
            raise EpisodeError("wrong-shape", f"action_mask has {mask.shape[1]} actions", f"{self.words} are needed")
        check_taken(mask, actions)

    def check_mask(self, mask: Array, states: tuple[int, ...] = ()) -> None:
        if mask.shape != (*states, self.count):
            found = f"the mask has shape {mask.shape}"
            raise EpisodeError("wrong-shape", found, f"{(*states, self.count)}, one per action, is needed")
        if not mask.any(axis=-1).all():
            raise no_legal_action()

    def choose(self, outputs: Array, mask: Array | None, rng: np.random.Generator, greedy: bool) -> Choice:
        """As in the base class, but with Python floats: NumPy's overhead would dominate for a few numbers."""
        logits: list[float] = outputs.tolist()
        if mask is not None:
            logits = [logit if legal else -math.inf for logit, legal in zip(logits, mask, strict=True)]
        highest = max(logits)
        if highest == -math.inf:
            raise no_legal_action()
        weights = [math.exp(logit - highest) for logit in logits]
        total = sum(weights)
        if not total > 0.0:
            raise not_finite()
        action = logits.index(highest) if greedy else _one_of(weights, rng.random() * total)
        return Choice(action, weights[action] / total, logits[action] - highest - math.log(total))

    def name_of(self, action: Any, names: Sequence[str]) -> str:
        return str(names[action])


class Categorical(ActionDistribution):
    """pi(a) = exp(logit(a)) / sum exp(logits)."""

    def __init__(self, logits: Array, mask: Array | None = None) -> None:
        self._log_pi = log_softmax(logits, mask)

    def log_probs(self, actions: Array) -> Array:
        return np.asarray(self._log_pi[np.arange(len(actions)), actions])

    def gradient(self, actions: Array, strengths: Array, entropy: float) -> tuple[Array, Array]:
        """d log pi(a) / d logit = onehot(a) - pi;  dH / d logit = -pi * (log pi + H)."""
        pi = np.exp(self._log_pi)
        strengths = strengths.astype(pi.dtype, copy=False)
        gradient = strengths[:, None] * pi
        gradient[np.arange(len(actions)), actions] -= strengths
        log_pi = np.where(pi == 0.0, pi, self._log_pi)  # 0 * log 0 counts as 0
        entropies = -(pi * log_pi).sum(axis=1)
        if entropy:
            gradient += entropy * pi * (log_pi + entropies[:, None])
        return gradient, entropies

    def kl_divergence(self, other: ActionDistribution) -> float:
        """Mean of sum p (log p - log q); illegal actions (-inf in both) count 0."""
        assert isinstance(other, Categorical)
        log_p, log_q = self._log_pi, other._log_pi
        legal = np.isfinite(log_p)
        difference = np.where(legal, log_p, 0.0) - np.where(legal, log_q, 0.0)
        return float((np.exp(log_p) * difference).sum(axis=1).mean(dtype=np.float64))

    def sampled(self, noise: Array | None) -> tuple[Array, Array]:
        """`noise`: [B] in [0, 1)."""
        probabilities = np.exp(self._log_pi)
        actions = probabilities.argmax(axis=1) if noise is None else _sampled(probabilities, noise)
        picked = probabilities[np.arange(len(probabilities)), actions]
        # float32 rounding may leave 1 + 1e-7; a log-probability above 0 would be refused.
        return actions.astype(np.int64), np.minimum(np.log(picked), 0.0).astype(np.float32)


def log_softmax(logits: Array, mask: Array | None = None) -> Array:
    """log pi(a) = logit(a) - log sum exp(logits), over the legal actions; -inf for the others.

    Args:
        logits: [B, A].
        mask: [B, A] bool, True where legal; at least one per row. None: all are legal.
    """
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def check_taken(mask: Array, actions: Array) -> None:
    """Refuse actions [T] that a mask [T, A] forbids.

    Raises:
        EpisodeError: "action-out-of-range" or "illegal-action".
    """
    if int(actions.max()) >= mask.shape[1]:
        found = f"there is an action {int(actions.max())}, and action_mask has {mask.shape[1]} actions"
        raise EpisodeError("action-out-of-range", found, "every action must be among them")
    illegal = np.flatnonzero(~mask[np.arange(len(actions)), actions])
    if illegal.size:
        found = f"the action of step {illegal[0]} is masked out ({illegal.size} such steps)"
        raise EpisodeError("illegal-action", found, "an action that was taken must be legal in action_mask")


def shape_error(raw: Array, steps: int) -> EpisodeError:
    if raw.ndim == 1:
        found = f"actions has {len(raw)} steps, states has {steps}"
        return EpisodeError("wrong-shape", found, "one of each per step is needed")
    return EpisodeError("wrong-shape", f"actions has shape {raw.shape}", f"shape {(steps,)} is needed")


def _one_of(weights: list[float], point: float) -> int:
    last = 0
    for action, weight in enumerate(weights):
        if weight > 0.0:
            last = action
            point -= weight
            if point < 0.0:
                break
    return last


def _sampled(probabilities: Array, points: Array) -> Array:
    """Draw from each row: the first action whose cumulated probability passes the point; never one of probability 0."""
    cumulated = np.cumsum(probabilities, axis=1, dtype=np.float64)
    cumulated /= cumulated[:, -1:]  # otherwise rounding could leave a gap below 1, above which no action lies
    return np.asarray((cumulated <= points[:, None]).sum(axis=1))
