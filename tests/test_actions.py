"""Every kind of action against slow oracles: log-probabilities, entropies, divergences, gradients and draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles
import pytest

from background_training.errors import EpisodeError
from background_training.spaces import Box, Discrete, MultiBinary, MultiDiscrete, registry

SPACES = {
    "discrete": Discrete(4),
    "multi_discrete": MultiDiscrete((2, 4, 3)),
    "multi_binary": MultiBinary(3),
    "box": Box((-2.0, 0.0), (2.0, 10.0)),
}
COUNTABLE = ["discrete", "multi_discrete", "multi_binary"]
ROWS = 6


def case(kind, seed=0, masked=False):
    """A space, outputs of a network for some states, an action in each, and a mask that allows it."""
    space, rng = SPACES[kind], np.random.default_rng(seed)
    outputs = rng.normal(size=(ROWS, space.outputs))
    mask = None
    if masked:
        mask = rng.random((ROWS, space.outputs)) < 0.5
        mask[:, [0, 2, 6] if kind == "multi_discrete" else [1]] = True
    actions = space.distribution(outputs, mask).sampled(space.noise(rng, ROWS))[0]
    return space, outputs, actions, mask


def all_actions(space):
    """Every action that there is."""
    if isinstance(space, Discrete):
        return list(range(space.count))
    sizes = space.sizes if isinstance(space, MultiDiscrete) else [2] * space.size
    return list(itertools.product(*(range(size) for size in sizes)))


def slow_log_prob(space, outputs, action, legal=None):
    """log pi of one action, number by number."""
    legal = [True] * len(outputs) if legal is None else legal
    if isinstance(space, Discrete):
        chance = oracles.softmax(outputs, legal)[action]
        return math.log(chance) if chance else -math.inf
    if isinstance(space, MultiDiscrete):
        total, start = 0.0, 0
        for size, number in zip(space.sizes, action, strict=True):
            part = slice(start, start + size)
            total += slow_log_prob(Discrete(size), outputs[part], number, legal[part])
            start += size
        return total
    if isinstance(space, MultiBinary):
        ones = [1.0 / (1.0 + math.exp(-logit)) for logit in outputs]
        return sum(math.log(one if number else 1.0 - one) for one, number in zip(ones, action, strict=True))
    total = 0.0
    for place, number in enumerate(action):
        half = (space.high[place] - space.low[place]) / 2.0
        share = (float(number) - space.low[place]) / half - 1.0
        mean, deviation = outputs[place], math.exp(outputs[len(action) + place])
        distance = (math.atanh(share) - mean) / deviation
        normal = -0.5 * distance**2 - math.log(deviation * math.sqrt(2.0 * math.pi))
        total += normal - math.log(half * (1.0 - share**2))
    return total


def integrated(space, outputs, place, function):
    """The integral over number `place` of a Box action of density * function(its logarithm, the number)."""
    half = (space.high[place] - space.low[place]) / 2.0
    one = Box((space.low[place],), (space.high[place],))
    own = outputs[[place, len(space.low) + place]]
    # Even steps of x, not of the action: next to the bounds the density may be steep.
    numbers = np.linspace(-16.0, 16.0, 16_001)
    actions = space.low[place] + half * (1.0 + np.tanh(numbers))
    logs = np.array([slow_log_prob(one, own, [action]) for action in actions])
    slopes = half * (1.0 - np.tanh(numbers) ** 2)
    heights = np.exp(logs) * slopes * function(logs, actions)
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(numbers)))  # np.trapezoid came with NumPy 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", SPACES)
def test_log_probabilities_equal_the_slow_oracle(kind, masked):
    """Number by number, with plain arithmetic."""
    space, outputs, actions, mask = case(kind, masked=masked and SPACES[kind].has_masks)

    fast = space.distribution(outputs, mask).log_probs(actions)

    slow = [slow_log_prob(space, outputs[row], actions[row], None if mask is None else mask[row].tolist()) for row in range(ROWS)]
    assert fast == pytest.approx(np.array(slow), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", COUNTABLE)
def test_the_chances_of_all_actions_are_one(kind):
    """What is taken from one action is given to others."""
    space, outputs, _, _ = case(kind)
    every = all_actions(space)

    for row in range(ROWS):
        chances = space.distribution(np.repeat(outputs[row : row + 1], len(every), axis=0)).log_probs(np.array(every))
        assert np.exp(chances).sum() == pytest.approx(1.0, rel=1e-12)


def test_the_density_of_real_numbers_has_volume_one():
    """Also after it was squashed into the bounds, and stretched to their width."""
    space, outputs, _, _ = case("box")

    for row, place in itertools.product(range(ROWS), range(2)):
        assert integrated(space, outputs[row], place, lambda logs, actions: 1.0) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", COUNTABLE)
def test_entropies_and_divergences_equal_sums_over_all_actions(kind, masked):
    """-sum p log p, and sum p (log p - log q), over everything that could be done."""
    space, outputs, actions, mask = case(kind, masked=masked and SPACES[kind].has_masks)
    others = outputs + np.random.default_rng(9).normal(size=outputs.shape)
    chances, changed = space.distribution(outputs, mask), space.distribution(others, mask)
    entropies, divergences = [], []
    for row in range(ROWS):
        legal = None if mask is None else mask[row].tolist()
        log_p, log_q = (
            np.array([slow_log_prob(space, numbers[row], action, legal) for action in all_actions(space)])
            for numbers in (outputs, others)
        )
        possible = np.isfinite(log_p)
        p, log_p, log_q = np.exp(log_p[possible]), log_p[possible], log_q[possible]
        entropies.append(-(p * log_p).sum())
        divergences.append((p * (log_p - log_q)).sum())

    assert chances.gradient(actions, np.zeros(ROWS), 0.0)[1] == pytest.approx(np.array(entropies), rel=1e-9)
    assert chances.kl_divergence(changed) == pytest.approx(np.mean(divergences), rel=1e-9)
    assert chances.kl_divergence(chances) == 0.0


def test_entropy_and_divergence_of_real_numbers_equal_their_integrals():
    """Of the squashed density itself, not of the Gaussian that it was made of; the mean over eight nodes is near enough."""
    space, outputs, actions, _ = case("box")
    outputs[:, 2:] = np.linspace(-2.0, 0.5, 2 * ROWS).reshape(ROWS, 2)
    others = outputs + 0.3 * np.random.default_rng(9).normal(size=outputs.shape)
    chances = space.distribution(outputs)
    found = chances.gradient(actions, np.zeros(ROWS), 0.0)[1]
    divergences = []
    for row in range(ROWS):
        wanted = sum(integrated(space, outputs[row], place, lambda logs, numbers: -logs) for place in range(2))
        assert found[row] == pytest.approx(wanted, abs=0.01)
        for place in range(2):
            other = others[row][[place, 2 + place]]
            one = Box((space.low[place],), (space.high[place],))

            def apart(logs, numbers, one=one, other=other):
                return logs - np.array([slow_log_prob(one, other, [number]) for number in numbers])

            divergences.append(integrated(space, outputs[row], place, apart))

    assert chances.kl_divergence(space.distribution(others)) == pytest.approx(np.sum(divergences) / ROWS, rel=1e-3)


@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", SPACES)
def test_gradients_equal_finite_differences(kind, masked, entropy):
    """By every output, with strengths of both signs, and with the entropy bonus as it is counted."""
    space, outputs, actions, mask = case(kind, 3, masked=masked and SPACES[kind].has_masks)
    strengths = np.random.default_rng(4).normal(size=ROWS)

    def loss():
        logs = [
            slow_log_prob(space, outputs[row], actions[row], None if mask is None else mask[row].tolist()) for row in range(ROWS)
        ]
        entropies = space.distribution(outputs, mask).gradient(actions, strengths, 0.0)[1]
        return -float(strengths @ np.array(logs)) - entropy * float(entropies.sum())

    gradient, _ = space.distribution(outputs, mask).gradient(actions, strengths, entropy)

    assert gradient == pytest.approx(oracles.finite_difference(loss, outputs), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", COUNTABLE)
def test_draws_follow_the_probabilities(kind, masked):
    """Over many draws each action comes as often as it should; what is illegal never comes."""
    space, outputs, _, mask = case(kind, 5, masked=masked and SPACES[kind].has_masks)
    count, rng = 40_000, np.random.default_rng(6)
    mask = None if mask is None else mask[:1]
    many = space.distribution(np.repeat(outputs[:1], count, axis=0), None if mask is None else np.repeat(mask, count, axis=0))

    drawn, log_probs = many.sampled(space.noise(rng, count))

    legal = None if mask is None else mask[0].tolist()
    for action in all_actions(space):
        taken = np.all(np.reshape(drawn == np.array(action), (count, -1)), axis=1)
        log_prob = slow_log_prob(space, outputs[0], action, legal)
        assert taken.mean() == pytest.approx(math.exp(log_prob), abs=0.012)
        assert not taken.any() or log_probs[taken] == pytest.approx(log_prob, abs=1e-5)


def test_draws_of_real_numbers_follow_the_density():
    """Their mean and mean square are those of the integral, and none lies beyond a bound."""
    space, outputs, _, _ = case("box", 5)
    count, rng = 40_000, np.random.default_rng(6)

    drawn, _ = space.distribution(np.repeat(outputs[:1], count, axis=0)).sampled(space.noise(rng, count))

    assert drawn.dtype == np.float32
    for place in range(2):
        numbers = drawn[:, place].astype(np.float64)
        assert space.low[place] <= numbers.min() <= numbers.max() <= space.high[place]
        for power in (1, 2):
            wanted = integrated(space, outputs[0], place, lambda logs, actions, power=power: actions**power)
            assert (numbers**power).mean() == pytest.approx(wanted, rel=0.03, abs=0.03)


@pytest.mark.parametrize("size", [0.0, 3.0, 50.0])
def test_real_numbers_at_their_bounds_stay_finite(size):
    """A policy that is sure of a bound plays it: no infinite logarithm, and no number that a file could not hold."""
    space = Box((-2.0, -1e-3), (2.0, 1e6))
    outputs = np.array([[size, -size, 1.0, -1.0]], np.float32)
    chances = space.distribution(outputs)

    for noise in (None, np.array([[4.0, -4.0]])):
        actions, log_probs = chances.sampled(noise)
        gradient, entropies = chances.gradient(actions, np.ones(1, np.float32), 0.1)
        assert space.checked(actions, 1).tolist() == actions.tolist()
        assert all(np.isfinite(values).all() for values in (log_probs, gradient, entropies))
        assert chances.log_probs(actions) == pytest.approx(log_probs, abs=1e-6)


@pytest.mark.parametrize("kind", SPACES)
def test_one_state_is_played_as_many_are(kind):
    """The path of a single game says the same of an action as the one of a batch, drawn or not."""
    space, outputs, _, _ = case(kind, 7)
    outputs = outputs.astype(np.float32)

    for greedy in (False, True):
        for row in range(ROWS):
            noise = None if greedy else space.noise(np.random.default_rng(row), 1)
            actions, log_probs = space.distribution(outputs[row : row + 1]).sampled(noise)
            choice = space.choose(outputs[row], None, np.random.default_rng(row), greedy)
            assert np.array_equal(choice.action, actions[0])
            assert choice.log_prob == pytest.approx(float(log_probs[0]), abs=1e-5)
            assert choice.probability == pytest.approx(math.exp(choice.log_prob), rel=1e-6)


@pytest.mark.parametrize("kind", SPACES)
def test_a_policy_that_is_no_number_chooses_nothing(kind):
    """NaN is named before a game plays it."""
    space = SPACES[kind]
    with pytest.raises(EpisodeError, match="NaN"):
        space.choose(np.full(space.outputs, np.nan, np.float32), None, np.random.default_rng(0), False)


def test_torch_says_the_same():
    """The distributions of a library that many trust, where it is installed."""
    torch = pytest.importorskip("torch")
    made = torch.distributions

    def of(kind, space, outputs):
        numbers = torch.from_numpy(outputs)
        if kind == "discrete":
            return made.Categorical(logits=numbers)
        if kind == "multi_binary":
            return made.Independent(made.Bernoulli(logits=numbers), 1)
        normal = made.Normal(numbers[:, :2], numbers[:, 2:].exp())
        middle, half = torch.from_numpy(space.middle), torch.from_numpy(space.half)
        squashed = made.TransformedDistribution(normal, [made.TanhTransform(), made.AffineTransform(middle, half)])
        return made.Independent(squashed, 1)

    for kind in ("discrete", "multi_binary", "box"):
        space, outputs, actions, _ = case(kind, 8)
        theirs = of(kind, space, outputs).log_prob(torch.from_numpy(actions.astype(np.float64)))
        assert space.distribution(outputs).log_probs(actions) == pytest.approx(theirs.numpy(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", SPACES)
def test_files_say_what_a_space_is(kind):
    """What is written is read back as an equal space."""
    assert registry.of_json(SPACES[kind].as_json(), 100) == SPACES[kind]
    assert registry.of_json({"kind": "discrete", "count": 3}, 100) == Discrete(3)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, "None is no description"),
        (True, "True is no description"),
        (0, "0 is no description"),
        (101, "101 is no description"),
        ({}, "kind is None"),
        ({"kind": "tuple"}, "kind is 'tuple'"),
        ({"kind": "discrete"}, "count is None"),
        ({"kind": "multi_discrete", "sizes": []}, r"sizes are \[\]"),
        ({"kind": "multi_discrete", "sizes": [60, 60]}, r"sizes are \[60, 60\]"),
        ({"kind": "multi_discrete", "sizes": [2, 0.5]}, "sizes are"),
        ({"kind": "multi_binary", "size": 101}, "size is 101"),
        ({"kind": "box", "low": [0]}, "high is None"),
        ({"kind": "box", "low": [0], "high": [0]}, r"low is \[0\] and high \[0\]"),
        ({"kind": "box", "low": [0, 0], "high": [1]}, "low is"),
        ({"kind": "box", "low": [1.0], "high": [1.00000001]}, "low is"),
        ({"kind": "box", "low": [float("-inf")], "high": [0]}, r"low is \[-inf\]"),
        ({"kind": "box", "low": [float("nan")], "high": [0]}, r"low is \[nan\]"),
        ({"kind": "box", "low": [0] * 51, "high": [1] * 51}, "low is"),
    ],
)
def test_a_space_that_is_none_is_refused(said, found):
    """With what was found and what is needed."""
    with pytest.raises(ValueError, match=found) as refused:
        registry.of_json(said, 100)
    assert refused.value.args[1].endswith("needed")


@pytest.mark.parametrize(
    ("kind", "actions", "reason", "found"),
    [
        ("discrete", [0.5, 1.0], "wrong-dtype", "of type float64"),
        ("discrete", [0, 4], "action-out-of-range", "there is an action 4"),
        ("discrete", [[0], [1]], "wrong-shape", r"shape \(2, 1\)"),
        ("multi_discrete", [[0, 0, 0.0], [0, 0, 0]], "wrong-dtype", "float64"),
        ("multi_discrete", [[0, 0], [0, 0]], "wrong-shape", "2 numbers per step; 3 are needed"),
        ("multi_discrete", [0, 1], "wrong-shape", r"shape \(2,\)"),
        ("multi_discrete", [[0, 0, 0], [1, 4, 2]], "action-out-of-range", "number 1 of the action of step 1 is 4; 0 to 3"),
        ("multi_discrete", [[0, 0, -1], [1, 3, 2]], "action-out-of-range", "number 2 of the action of step 0 is -1"),
        ("multi_binary", [[0, 1, 0.5]] * 2, "wrong-dtype", "float64"),
        ("multi_binary", [[0, 1, 2]] * 2, "action-out-of-range", "is 2; 0 or 1"),
        ("multi_binary", [[0, 1]] * 2, "wrong-shape", "2 numbers per step; 3 are needed"),
        ("box", [["a", "b"]] * 2, "wrong-dtype", "of type <U1"),
        ("box", [[0.0, np.nan]] * 2, "not-finite", "2 values"),
        ("box", [[0.0, 1.0, 0.0]] * 2, "wrong-shape", "3 numbers per step; 2 are needed"),
        ("box", [[0.0, 0.0], [2.5, 0.0]], "action-out-of-range", "number 0 of the action of step 1 is 2.5; -2 to 2"),
        ("box", [[0.0, 1e300]] * 2, "action-out-of-range", "is 1e[+]300; 0 to 10"),
    ],
)
def test_actions_that_are_none_are_refused(kind, actions, reason, found):
    """Each way of being wrong has a reason of its own."""
    with pytest.raises(EpisodeError, match=found) as refused:
        SPACES[kind].checked(np.array(actions), 2)
    assert refused.value.reason == reason


@pytest.mark.parametrize("kind", ["multi_binary", "box"])
def test_a_mask_is_refused_where_there_can_be_none(kind):
    """Rather than being ignored."""
    space, mask = SPACES[kind], np.ones((2, 3), bool)
    for check in (lambda: space.check_mask(mask[0]), lambda: space.check_legal(mask, space.none(2))):
        with pytest.raises(EpisodeError) as refused:
            check()
        assert refused.value.reason == "unexpected-mask"


def test_masks_of_several_choices_lie_behind_one_another():
    """Each choice needs something legal of its own, and what was taken must have been legal."""
    space = SPACES["multi_discrete"]
    mask = np.ones((1, 9), bool)
    mask[0, 2:6] = False

    with pytest.raises(EpisodeError, match="allows no action"):
        space.check_mask(mask[0])
    with pytest.raises(EpisodeError, match="masked out"):
        space.check_legal(mask, np.array([[0, 1, 0]]))
    with pytest.raises(EpisodeError, match="8 places per step"):
        space.check_legal(mask[:, :8], np.array([[0, 1, 0]]))
    with pytest.raises(EpisodeError, match=r"shape \(1, 9\)"):
        space.check_mask(mask)
    mask[0, 3] = True
    space.check_mask(mask[0])
    space.check_mask(mask, (1,))
    assert space.choose(np.zeros(9, np.float32), mask[0], np.random.default_rng(0), False).action[1] == 1
