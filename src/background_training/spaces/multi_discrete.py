"""Several discrete numbers at once: an independent softmax for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionDistribution, ActionSpace, check_rows, no_legal_action
from background_training.spaces.discrete import Categorical, check_taken

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MultiDiscrete(ActionSpace):
    """D whole numbers, number d from 0 to sizes[d] - 1. Outputs and masks are concatenated."""

    sizes: tuple[int, ...]

    kind: ClassVar[str] = "multi_discrete"
    has_masks: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    @property
    def words(self) -> str:
        below = " ".join(str(size) for size in self.sizes[:10]) + (" ..." if len(self.sizes) > 10 else "")
        return f"actions of {len(self.sizes)} whole numbers from 0, below {below}"

    @property
    def name_count(self) -> int:
        return len(self.sizes)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "sizes": list(self.sizes)}

    def checked(self, raw: Array, steps: int) -> Array:
        if raw.dtype.kind not in "iu":
            raise EpisodeError("wrong-dtype", f"actions is of type {raw.dtype}", f"whole numbers are needed: {self.words}")
        check_rows(raw, steps, len(self.sizes), self.words)
        wrong = np.argwhere((raw < 0) | (raw >= np.array(self.sizes)))
        if wrong.size:
            step, place = (int(index) for index in wrong[0])
            found = f"number {place} of the action of step {step} is {int(raw[step, place])}"
            raise EpisodeError("action-out-of-range", found, f"0 to {self.sizes[place] - 1} is needed there")
        return raw.astype(np.int64)

    def distribution(self, outputs: Array, mask: Array | None = None) -> Categoricals:
        masks = [None if mask is None else mask[:, part] for part in self._parts()]
        return Categoricals([Categorical(outputs[:, part], legal) for part, legal in zip(self._parts(), masks, strict=True)])

    def noise(self, rng: np.random.Generator, count: int) -> Array:
        return rng.random((count, len(self.sizes)))

    def none(self, count: int) -> Array:
        return np.zeros((count, len(self.sizes)), np.int64)

    def check_legal(self, mask: Array, actions: Array) -> None:
        if mask.shape[1] != self.outputs:
            found = f"action_mask has {mask.shape[1]} places per step"
            raise EpisodeError("wrong-shape", found, f"{self.outputs} are needed, those of all numbers behind one another")
        for place, part in enumerate(self._parts()):
            check_taken(mask[:, part], actions[:, place])

    def check_mask(self, mask: Array, states: tuple[int, ...] = ()) -> None:
        if mask.shape != (*states, self.outputs):
            needed = f"{(*states, self.outputs)}, those of all numbers behind one another, is needed"
            raise EpisodeError("wrong-shape", f"the mask has shape {mask.shape}", needed)
        if not all(mask[..., part].any(axis=-1).all() for part in self._parts()):
            raise no_legal_action()

    def _parts(self) -> Iterator[slice]:
        """Slices of the outputs of each number."""
        start = 0
        for size in self.sizes:
            yield slice(start, start + size)
            start += size


class Categoricals(ActionDistribution):
    """pi(a) = product over d of pi_d(a_d): logarithms, entropies and divergences are sums."""

    def __init__(self, parts: list[Categorical]) -> None:
        self._parts = parts

    def log_probs(self, actions: Array) -> Array:
        parts = zip(self._parts, actions.T, strict=True)
        return np.asarray(np.sum([part.log_probs(column) for part, column in parts], axis=0))

    def gradient(self, actions: Array, strengths: Array, entropy: float) -> tuple[Array, Array]:
        found = [part.gradient(column, strengths, entropy) for part, column in zip(self._parts, actions.T, strict=True)]
        return np.concatenate([gradient for gradient, _ in found], axis=1), np.sum([entropies for _, entropies in found], axis=0)

    def kl_divergence(self, other: ActionDistribution) -> float:
        assert isinstance(other, Categoricals)
        return sum(mine.kl_divergence(theirs) for mine, theirs in zip(self._parts, other._parts, strict=True))

    def sampled(self, noise: Array | None) -> tuple[Array, Array]:
        """`noise`: [B, D] in [0, 1)."""
        found = [part.sampled(None if noise is None else noise[:, place]) for place, part in enumerate(self._parts)]
        return np.stack([actions for actions, _ in found], axis=1), np.sum([log_probs for _, log_probs in found], axis=0)
