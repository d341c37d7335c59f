"""The network of policy and value function: weights, initialisation, and the forward and backward passes of training.

Training spends its time in `Passes`. Its arrays are laid out so that the arithmetic is matrix products over contiguous memory.
The bias of a layer is the last row of its matrix, multiplied by a last input that is always 1: adding it, and summing its
gradient, are part of the products. Hidden layers are kept as [H + 1, B], units by rows, so that the ones are a row of their own
and tanh and its derivative work on one block of memory.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    """Outputs [B, A] for states [B, S]; training uses `Passes`."""
    hidden = states @ network.W1
    hidden += network.b1
    np.tanh(hidden, out=hidden)
    hidden = hidden @ network.W2
    hidden += network.b2
    np.tanh(hidden, out=hidden)
    return np.asarray(hidden @ network.W3 + network.b3)


PART_STEPS = 256
"""Maximum steps of one pass: its arrays fit into a processor's cache. Gradients of parts are added in order."""
WIDE_HIDDEN, WIDE_PART_STEPS = 128, 128
"""With at least WIDE_HIDDEN hidden units a part has at most WIDE_PART_STEPS steps. Other borders would change the last bits."""


class Sizes(NamedTuple):
    """S, H and A of a network."""

    inputs: int
    hidden: int
    outputs: int


class Layers(NamedTuple):
    """A network's weights as three matrices; the last row of each is the bias."""

    first: Array
    """[S + 1, H]"""
    second: Array
    """[H + 1, H]"""
    third: Array
    """[H + 1, A]"""


def layers_of(vector: Array, sizes: Sizes) -> Layers:
    """Views of a vector of weights [P], in the order of `Network`: W1 b1 W2 b2 W3 b3."""
    inputs, hidden, outputs = sizes
    views, start = [], 0
    for rows, columns in ((inputs + 1, hidden), (hidden + 1, hidden), (hidden + 1, outputs)):
        views.append(vector[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return Layers(*views)


def parts_of(steps: int, hidden: int) -> list[slice]:
    """The parts over which a gradient is summed, in order.

    They depend on the number of steps and the width alone, as the bits of a model depend on them.
    """
    if hidden < WIDE_HIDDEN:
        return [slice(start, min(start + PART_STEPS, steps)) for start in range(0, steps, PART_STEPS)]
    count = -(-steps // WIDE_PART_STEPS)
    borders = [steps * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(borders)]


def with_ones(rows: Array) -> Array:
    """Rows [T, S] with a last column of ones: [T, S + 1], as `Passes` takes them."""
    extended = np.empty((rows.shape[0], rows.shape[1] + 1), rows.dtype)
    extended[:, :-1] = rows
    extended[:, -1] = 1.0
    return extended


class _Workspace(NamedTuple):
    """The arrays for passes of B rows."""

    hidden1: Array
    """[H + 1, B], the last row ones."""
    hidden2: Array
    """likewise"""
    units1: Array
    """[H, B], hidden1 without its ones."""
    units2: Array
    outputs: Array
    """[A, B]"""
    gradient: Array
    """[H, B]"""
    other_gradient: Array
    """[H, B]"""


class Passes:
    """Forward and backward through networks of one size, at most PART_STEPS rows at a time.

    The result of `forward`, and the state that `backward` reads, are valid until the next `forward`.
    """

    def __init__(self, sizes: Sizes, dtype: type = np.float32) -> None:
        self.sizes = sizes
        self._dtype = dtype
        self._workspaces: dict[int, _Workspace] = {}

    def forward(self, layers: Layers, rows: Array) -> Array:
        """Outputs for rows [B, S + 1] that end with ones; [B, A], a view of a reused array.

        outputs = tanh(tanh(rows first) second) third.
        """
        space = self._workspace(len(rows))
        np.matmul(layers.first.T, rows.T, out=space.units1)
        np.tanh(space.units1, out=space.units1)
        np.matmul(layers.second.T, space.hidden1, out=space.units2)
        np.tanh(space.units2, out=space.units2)
        np.matmul(layers.third.T, space.hidden2, out=space.outputs)
        return space.outputs.T

    def backward(self, layers: Layers, rows: Array, output_gradient: Array, into: Layers) -> None:
        """Write the gradient of a loss by the weights, given its gradient by the outputs of the last `forward`, [B, A].

        d tanh(z)/dz = 1 - tanh(z)^2.
        """
        space = self._workspace(len(rows))
        np.matmul(space.hidden2, output_gradient, out=into.third)
        _outer(layers.third[:-1], output_gradient.T, space.gradient)
        _through_tanh(space.units2, space.gradient)
        np.matmul(space.hidden1, space.gradient.T, out=into.second)
        np.matmul(layers.second[:-1], space.gradient, out=space.other_gradient)
        _through_tanh(space.units1, space.other_gradient)
        np.matmul(rows.T, space.other_gradient.T, out=into.first)

    def outputs_of(self, layers: Layers, rows: Array) -> Array:
        """Outputs for any number of rows, [T, A], in a new array."""
        answer: Array = np.empty((len(rows), self.sizes.outputs), self._dtype)
        for start in range(0, len(rows), PART_STEPS):
            part = slice(start, start + PART_STEPS)
            answer[part] = self.forward(layers, rows[part])
        return answer

    def _workspace(self, rows: int) -> _Workspace:
        """The arrays for this number of rows; cached, as few different numbers occur."""
        if rows not in self._workspaces:
            if len(self._workspaces) == _MOST_WORKSPACES:
                self._workspaces.clear()
            self._workspaces[rows] = self._new_workspace(rows)
        return self._workspaces[rows]

    def _new_workspace(self, rows: int) -> _Workspace:
        _, hidden, outputs = self.sizes
        hidden1: Array = np.ones((hidden + 1, rows), self._dtype)
        hidden2: Array = np.ones((hidden + 1, rows), self._dtype)
        return _Workspace(
            hidden1=hidden1,
            hidden2=hidden2,
            units1=hidden1[:-1],
            units2=hidden2[:-1],
            outputs=np.empty((outputs, rows), self._dtype),
            gradient=np.empty((hidden, rows), self._dtype),
            other_gradient=np.empty((hidden, rows), self._dtype),
        )


_MOST_WORKSPACES = 8


def _outer(left: Array, right: Array, into: Array) -> None:
    """Write left [H, A] times right [A, B]; for a single output, where NumPy's product is slow, by plain multiplication."""
    if left.shape[1] > 1:
        np.matmul(left, right, out=into)
    else:
        np.multiply(left, right, out=into)
        into += 0.0  # -0.0 becomes 0.0, as in a product's sum: the bits stay those of one


def _through_tanh(units: Array, gradient: Array) -> None:
    """Turn the gradient by what tanh returned into the one by what it was given; `units` are used up."""
    np.multiply(units, units, out=units)
    np.subtract(1.0, units, out=units)
    gradient *= units
