"""Choose actions with a policy network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.algo.network import (
    Network,
    flattened,
    folded,
    forward,
    network_of,
    new_network,
    shapes,
    size_of,
)
from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionSpace, Choice, no_legal_action
from background_training.spaces.discrete import Discrete, log_softmax

__all__ = [
    "Network",
    "choose",
    "flattened",
    "folded",
    "forward",
    "network_of",
    "new_network",
    "outputs",
    "probabilities",
    "shapes",
    "size_of",
]

Array = npt.NDArray[Any]


def outputs(network: Network, states: Array) -> Array:
    """As `forward`, for states [B, S] of any numeric type.

    Raises:
        EpisodeError: a state is of another width than the policy's.
    """
    states = np.asarray(states, dtype=np.float32)
    _check_width(network, states.shape[-1])
    return forward(network, states)


def probabilities(network: Network, states: Array, mask: Array | None = None) -> Array:
    """Probabilities of Discrete actions for one state [S] or several [B, S]; an illegal action gets exactly 0.

    Raises:
        EpisodeError: a state is of another width than the policy's, or a mask leaves no action.
    """
    if mask is not None and not np.asarray(mask, dtype=bool).any(axis=-1).all():
        raise no_legal_action()
    logits = outputs(network, np.atleast_2d(states))
    return np.exp(log_softmax(logits, mask)).reshape(*np.shape(states)[:-1], -1)


def choose(
    network: Network,
    state: Array,
    mask: Array | None,
    rng: np.random.Generator,
    greedy: bool = False,
    actions: ActionSpace | None = None,
) -> Choice:
    """Choose an action for one state [S] float32: drawn from the policy, or its likeliest when `greedy`.

    This is the hot path of a running game: arrays are not checked.

    Args:
        mask: [A] bool or None, True where legal.
        rng: used only when not greedy.
        actions: meaning of the outputs; None: Discrete.

    Raises:
        EpisodeError: the state is of another width than the policy's, holds NaN, or no action is legal.
    """
    if len(state) != len(network.W1):
        _check_width(network, len(state))
    hidden = np.tanh(np.tanh(state @ network.W1 + network.b1) @ network.W2 + network.b2)
    return (actions or Discrete(len(network.b3))).choose(hidden @ network.W3 + network.b3, mask, rng, greedy)


def _check_width(network: Network, width: int) -> None:
    needed = len(network.W1)
    if width != needed:
        raise EpisodeError("wrong-width", f"a state holds {width} numbers", f"the policy takes {needed}")
