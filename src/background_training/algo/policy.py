"""The policy network: its weights, initialisation, forward pass, and choice of actions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionSpace, Choice, no_legal_action
from background_training.spaces.discrete import Discrete, log_softmax

Array = npt.NDArray[Any]

ACTIVATION = "tanh"
"""The function of both hidden layers, for the manifest of a model file."""


class Network(NamedTuple):
    """Two hidden tanh layers: outputs = tanh(tanh(states W1 + b1) W2 + b2) W3 + b3.

    Letters: S inputs, H hidden units, A outputs. An `ActionSpace` defines the meaning of the policy's outputs: for Discrete
    they are logits, one per action. The value network has one output. The published policy takes raw states: their
    scaling is folded into W1 and b1.
    """

    W1: Array
    """[S, H]"""
    b1: Array
    """[H]"""
    W2: Array
    """[H, H]"""
    b2: Array
    """[H]"""
    W3: Array
    """[H, A]"""
    b3: Array
    """[A]"""


def shapes(inputs: int, hidden: int, outputs: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of the six arrays of a network, in the order of their names."""
    return ((inputs, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, outputs), (outputs,))


def new_network(rng: np.random.Generator, inputs: int, hidden: int, outputs: int, output_gain: float) -> Network:
    """Draw initial weights: orthogonal layers of gain sqrt(2), the last of `output_gain`; biases zero; float32.

    A small output gain makes every action equally likely at first.

    Source: Saxe et al. 2014; Andrychowicz et al. 2021 for the small last layer of a policy.
    """
    gain = math.sqrt(2.0)
    weights = (
        _orthogonal(rng, inputs, hidden, gain),
        _orthogonal(rng, hidden, hidden, gain),
        _orthogonal(rng, hidden, outputs, output_gain),
    )
    biases = (np.zeros(hidden, np.float32), np.zeros(hidden, np.float32), np.zeros(outputs, np.float32))
    return Network(weights[0], biases[0], weights[1], biases[1], weights[2], biases[2])


def _orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> Array:
    square = rng.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(square)
    basis = basis * np.sign(np.diag(triangle))  # the signs of QR depend on the LAPACK; fixed here
    return np.ascontiguousarray(gain * (basis if rows >= columns else basis.T), dtype=np.float32)


def flattened(network: Network) -> Array:
    """Concatenate all weights into one vector [P], the form of the optimiser and of files."""
    return np.concatenate([part.reshape(-1) for part in network])


def network_of(vector: Array, inputs: int, hidden: int, outputs: int) -> Network:
    """The network with the weights of a vector [P]; its arrays are views of the vector."""
    views, start = [], 0
    for shape in shapes(inputs, hidden, outputs):
        size = math.prod(shape)
        views.append(vector[start : start + size].reshape(shape))
        start += size
    return Network(*views)


def size_of(inputs: int, hidden: int, outputs: int) -> int:
    """P, the number of weights of a network."""
    return sum(math.prod(shape) for shape in shapes(inputs, hidden, outputs))


def folded(network: Network, mean: Array, inverse_scale: Array) -> Network:
    """The network for raw states that equals `network` for scaled ones.

    With x' = (x - mean) * inverse_scale:  x' W1 + b1 = x (inverse_scale W1) + (b1 - (mean * inverse_scale) W1).

    Args:
        mean, inverse_scale: [S] float64.
    """
    wide = network.W1.astype(np.float64)
    first = (inverse_scale[:, None] * wide).astype(network.W1.dtype)
    # Computed from the rounded weights; otherwise a large mean would amplify their rounding error.
    bias = network.b1.astype(np.float64) - mean @ first.astype(np.float64)
    return network._replace(W1=first, b1=bias.astype(network.b1.dtype))


def forward(network: Network, states: Array) -> Array:
    """Outputs [B, A] for states [B, S]; training uses `network.Passes`."""
    hidden = states @ network.W1
    hidden += network.b1
    np.tanh(hidden, out=hidden)
    hidden = hidden @ network.W2
    hidden += network.b2
    np.tanh(hidden, out=hidden)
    return np.asarray(hidden @ network.W3 + network.b3)


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
