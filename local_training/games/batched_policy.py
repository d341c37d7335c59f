"""Actions for all envs of a batch in one forward pass, with the log-probabilities the learner needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from local_training import policy
from local_training.policy import Network

Array = npt.NDArray[Any]


class BatchedChoice(NamedTuple):
    """actions [N] int64; log_probs [N] float32, of these actions; policy_version; masks [N, A] bool or None."""

    actions: Array
    log_probs: Array
    policy_version: int
    masks: Array | None


class BatchedPolicy:
    """A network that plays many games at once."""

    def __init__(self, network: Network, version: int = 0, rng: np.random.Generator | None = None) -> None:
        """Play with this network; replace `network` and `version` when a newer model is there.

        Args:
            network: of policy.py.
            version: the model version it is, recorded with every episode.
            rng: draws the actions; N numbers per choice.
        """
        self.network = network
        self.version = version
        self._rng = rng or np.random.default_rng()

    def choose(self, observations: Array, masks: Array | None = None, *, greedy: bool = False) -> BatchedChoice:
        """Choose one action per env.

        Args:
            observations: [N, ...]; further axes are flattened, uint8 is scaled by 1/255, as in an episode file.
            masks: [N, A] bool, True where legal.
            greedy: take the likeliest action instead of drawing one.

        Raises:
            EpisodeError: states of another width than the network's, or a mask that leaves no action.
        """
        chances = policy.probabilities(self.network, state_rows(observations), masks)
        actions = chances.argmax(axis=1) if greedy else _drawn(chances, self._rng.random(len(chances)))
        picked = chances[np.arange(len(chances)), actions]
        # float32 rounding may leave 1 + 1e-7; a log-probability above 0 would be refused.
        log_probs = np.minimum(np.log(picked), 0.0).astype(np.float32)
        return BatchedChoice(actions.astype(np.int64), log_probs, self.version, masks)


def _drawn(chances: Array, points: Array) -> Array:
    """Draw from each row: the first action whose cumulated probability passes the point; never one of probability 0."""
    cumulated = np.cumsum(chances, axis=1, dtype=np.float64)
    cumulated /= cumulated[:, -1:]  # otherwise rounding could leave a gap below 1, above which no action lies
    return np.asarray((cumulated <= points[:, None]).sum(axis=1))


def state_rows(observations: Array) -> Array:
    """[N, ...] as the [N, S] float32 that the policy sees."""
    raw = np.asarray(observations)
    flat = raw.reshape(len(raw), -1)
    return flat.astype(np.float32) / np.float32(255) if raw.dtype == np.uint8 else flat.astype(np.float32)
