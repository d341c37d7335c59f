"""Add inputs and outputs to a trained network without changing its behaviour."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.algo import normalizer
from background_training.algo.adam import Moments
from background_training.algo.network import Network, flattened
from background_training.algo.training_state import Trainable, TrainingState
from background_training.spaces.discrete import Discrete

Array = npt.NDArray[Any]

PROBABILITY = 0.01
"""Upper bound on the probability of all added actions together, in any state."""


def widened(state: TrainingState, features: int, actions: int, probability: float = PROBABILITY) -> TrainingState:
    """The state with further features and actions, appended to the present ones.

    An added feature has zero weights in policy and value network, and statistics that start with the first episode that
    has it. An added action starts with the mean of the old actions' logits plus a constant, see `logit_offset`. All
    else stays the same, bit for bit. In Adam's moments new weights have the first moment 0 and the mean second moment of
    the weights beside them; 0 would make their first steps several times as long as their neighbours'.

    Args:
        actions: more than 0 for Discrete actions only.
        probability: see `logit_offset`.
    """
    space = Discrete(state.actions.outputs + actions) if actions else state.actions
    offset = logit_offset(state.actions.outputs, actions, probability)
    actor = _wider_trainable(state.actor, state.actor_network, features, actions, offset)
    return dataclasses.replace(
        state,
        actions=space,
        policy=wider_policy(state.policy, features, actions, probability),
        actor=actor,
        critic=_wider_trainable(state.critic, state.critic_network, features, 0, 0.0),
        observations=normalizer.widened(state.observations, features),
    )


def logit_offset(outputs: int, added: int, probability: float) -> float:
    """c such that `added` actions with the logit mean(l) + c have at most `probability` together beside logits l [A].

    sum exp(l) >= A exp(mean l), by the inequality of the arithmetic and the geometric mean. So the odds of the added
    ones are at most m exp(c) / A, whatever the state; c = log(p A / ((1 - p) m)) makes that p / (1 - p). At most -log 2, so
    that an added action is never the likeliest. The odds among the old actions do not change at all.
    """
    if added == 0:
        return 0.0
    return min(math.log(probability * outputs / ((1.0 - probability) * added)), -math.log(2.0))


def wider_policy(network: Network, features: int, actions: int, probability: float = PROBABILITY) -> Network:
    """A policy, for raw or scaled states, with further inputs and outputs; see `widened`."""
    offset = logit_offset(len(network.b3), actions, probability)
    return _wider(network, features, actions, row_share=0.0, column_share=1.0, offset=offset)


def _wider_trainable(part: Trainable, network_of: Any, features: int, outputs: int, offset: float) -> Trainable:
    weights = _wider(network_of(part.weights), features, outputs, row_share=0.0, column_share=1.0, offset=offset)
    first = _wider(network_of(part.moments.first), features, outputs, row_share=0.0, column_share=0.0)
    second = _wider(network_of(part.moments.second), features, outputs, row_share=1.0, column_share=1.0)
    moments = Moments(flattened(first), flattened(second), part.moments.steps)
    return Trainable(flattened(weights), moments)


def _wider(
    network: Network, features: int, outputs: int, *, row_share: float, column_share: float, offset: float = 0.0
) -> Network:
    """The network's arrays with further rows in W1 and columns in W3 and b3: those shares of the mean one."""
    row = row_share * network.W1.mean(axis=0, dtype=np.float64)
    column = column_share * network.W3.mean(axis=1, dtype=np.float64)
    bias = column_share * float(network.b3.mean(dtype=np.float64)) + offset
    return network._replace(
        W1=np.concatenate([network.W1, np.tile(row, (features, 1)).astype(np.float32)]),
        W3=np.concatenate([network.W3, np.tile(column[:, None], (1, outputs)).astype(np.float32)], axis=1),
        b3=np.concatenate([network.b3, np.full(outputs, bias, np.float32)]),
    )
