"""Slow and plain versions of every formula, one step at a time, to check the fast ones against."""

from __future__ import annotations

import math

import numpy as np


def returns_to_go(rewards, discount, lengths, final_values):
    """G[t] = r[t] + discount * G[t + 1], episode by episode, backwards."""
    answer, start = [], 0
    for length, following in zip(lengths, final_values, strict=True):
        part = []
        for reward in reversed([float(reward) for reward in rewards[start : start + length]]):
            following = reward + discount * following
            part.append(following)
        answer += part[::-1]
        start += length
    return answer


def gae(rewards, values, lengths, final_values, discount, trace):
    """A[t] = delta[t] + discount * trace * A[t + 1], episode by episode, backwards."""
    answer, start = [], 0
    for length, next_value in zip(lengths, final_values, strict=True):
        part, advantage = [], 0.0
        for step in reversed(range(start, start + length)):
            delta = float(rewards[step]) + discount * next_value - float(values[step])
            advantage = delta + discount * trace * advantage
            next_value = float(values[step])
            part.append(advantage)
        answer += part[::-1]
        start += length
    return answer


def softmax(logits, legal):
    """Probabilities of one row; an illegal action has none."""
    highest = max(logit for logit, allowed in zip(logits, legal, strict=True) if allowed)
    weights = [math.exp(logit - highest) if allowed else 0.0 for logit, allowed in zip(logits, legal, strict=True)]
    return [weight / sum(weights) for weight in weights]


def outputs(network, state):
    """The outputs of a network for one state, unit by unit."""
    hidden = [float(number) for number in state]
    layers = ((network.W1, network.b1, False), (network.W2, network.b2, False), (network.W3, network.b3, True))
    for weights, biases, last in layers:
        sums = []
        for unit in range(len(biases)):
            total = float(biases[unit])
            for index, number in enumerate(hidden):
                total += number * float(weights[index, unit])
            sums.append(total if last else math.tanh(total))
        hidden = sums
    return hidden


def policy_loss(logits, actions, advantages, behaviour_log_probs, mask, bounds):
    """The sums (surrogate, entropies, clipped steps) of `reinforce.policy_loss`, row by row."""
    surrogate = entropies = 0.0
    clipped = 0
    for row, action in enumerate(actions):
        legal = [True] * len(logits[row]) if mask is None else mask[row]
        chances = softmax(logits[row], legal)
        ratio = chances[action] / math.exp(behaviour_log_probs[row])
        bounded = min(max(ratio, 1.0 - bounds.clip_range), 1.0 + bounds.clip_range)
        largest = bounds.max_importance_weight
        weight = ratio if ratio <= largest else largest * (1.0 + math.log(ratio / largest))
        gain, bounded_gain = weight * advantages[row], bounded * advantages[row]
        surrogate -= min(gain, bounded_gain)
        clipped += bounded_gain < gain
        entropies -= sum(chance * math.log(chance) for chance in chances if chance > 0.0)
    return surrogate, entropies, clipped


def adam(weights, gradients, rate):
    """The weights after one step of Adam per gradient, number by number."""
    answer = []
    for place, weight in enumerate(weights):
        first = second = 0.0
        weight = float(weight)
        for step, gradient in enumerate(gradients, start=1):
            slope = float(gradient[place])
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope * slope
            weight -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-5)
        answer.append(weight)
    return answer


def finite_difference(function, point, step=1e-6):
    """The gradient of a function of an array by central differences; `point` is float64 and is put back."""
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        kept = point[place]
        point[place] = kept + step
        above = function()
        point[place] = kept - step
        below = function()
        point[place] = kept
        gradient[place] = (above - below) / (2.0 * step)
    return gradient
