"""Gradients of networks in float64, for comparison with finite differences."""

from __future__ import annotations

import numpy as np

from background_training.algo import network as passes
from background_training.algo import policy


def gradient_through(network, states, by_outputs):
    """The gradient of a loss by each array of a `policy.Network`, given its gradient by the outputs as a function of them."""
    sizes = passes.Sizes(*network.W1.shape, network.W3.shape[1])
    vector, gradient = policy.flattened(network), np.full(policy.size_of(*sizes), np.nan)
    rows, layers, both = passes.with_ones(states), passes.layers_of(vector, sizes), passes.Passes(sizes, np.float64)
    both.backward(layers, rows, by_outputs(both.forward(layers, rows)), passes.layers_of(gradient, sizes))
    return policy.network_of(gradient, *sizes)
