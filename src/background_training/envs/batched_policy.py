"""Actions for all envs of a batch in one forward pass, with the log-probabilities the learner needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.algo import policy
from background_training.algo.policy import Network
from background_training.plain_values import truth_values
from background_training.spaces import ActionSpace, Discrete

Array = npt.NDArray[Any]


class BatchedChoice(NamedTuple):
    """actions [N] int64, or [N, D] for other kinds than Discrete; log_probs [N] float32, of these actions; policy_versions [N];
    masks [N, A] bool or None."""

    actions: Array
    log_probs: Array
    policy_versions: Array
    masks: Array | None


class BatchedPolicy:
    """A network that chooses for many games at once."""

    def __init__(
        self,
        network: Network,
        version: int = 0,
        rng: np.random.Generator | None = None,
        actions: ActionSpace | None = None,
    ) -> None:
        """Play with this network; replace `network` and `version` for a newer model.

        Args:
            network: of policy.py.
            version: the model version it is, recorded with every episode.
            rng: draws the actions.
            actions: what the network chooses among; None: each of its outputs is an action.
        """
        self.network = network
        self.version = version
        self._rng = rng or np.random.default_rng()
        self._actions = actions

    def choose(self, observations: Array, masks: Array | None = None, *, greedy: bool = False) -> BatchedChoice:
        """Choose one action per env.

        Args:
            observations: [N, ...]; further axes are flattened, uint8 is scaled by 1/255, as in an episode file.
            masks: [N, A], True or 1 where legal, False or 0 elsewhere.
            greedy: take the likeliest action instead of drawing one.

        Raises:
            EpisodeError: states of another width than the network's, a mask that leaves no action, or one that holds
                anything but truth values.
        """
        states = state_rows(observations)
        masks = None if masks is None else truth_values(masks).copy()  # the caller may write the next step's into the same array
        space = self._actions or Discrete(len(self.network.b3))
        noise = None if greedy else space.noise(self._rng, len(states))
        actions, log_probs = chosen(self.network, space, states, masks, noise)
        return BatchedChoice(actions, log_probs, np.full(len(states), self.version, np.int64), masks)


def chosen(network: Network, space: ActionSpace, states: Array, masks: Array | None, noise: Array | None) -> tuple[Array, Array]:
    """Actions and their log-probabilities [B] for states [B, S].

    Args:
        masks: [B, A] bool.
        noise: of the space; None takes the likeliest.

    Raises:
        EpisodeError: states of another width than the network's, or a mask that leaves no action.
    """
    outputs = policy.outputs(network, states)
    if masks is not None:
        space.check_mask(masks, (len(states),))
    return space.distribution(outputs, masks).sampled(noise)


def state_rows(observations: Array) -> Array:
    """[N, ...] as the [N, S] float32 that the policy sees."""
    raw = np.asarray(observations)
    flat = raw.reshape(len(raw), -1)
    return flat.astype(np.float32) / np.float32(255) if raw.dtype == np.uint8 else flat.astype(np.float32)
