"""What a caller's values mean: the same in the agent, the batched policy, the recorder and in files."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import episodes
import numpy as np
import pytest

from background_training import RLAgent
from background_training.algo.train_step import new_state
from background_training.envs.batched_policy import BatchedPolicy
from background_training.episodes import episode
from background_training.errors import EpisodeError
from background_training.plain_values import one_number, truth_values
from background_training.settings import LearningSettings
from background_training.spaces import Discrete

NOT_MASKS = {
    "additive": (np.array([-1e8, 0.0, -1e8], np.float32), "added to logits"),
    "additive with infinities": (np.array([-np.inf, 0.0, -np.inf]), "added to logits"),
    "additive, the smallest number": (np.array([np.finfo(np.float32).min, 0.0, 0.0], np.float32), "added to logits"),
    "NaN": (np.array([np.nan, 1.0, 0.0]), "NaN"),
    "a sign": (np.array([-1, 0, 1]), "-1, as a count"),
    "counts": ([2, 0, 1], "2, as a count"),
    "numbers of the legal actions": ([0, 1, 2], "2, as a count"),
    "scores": ([0.5, 0.25, 0.0], "0.5, as a score"),
    "nearly one": ([1.0000001, 0.0, 1.0], "as a score"),
    "text": (["no", "yes", ""], "type <U3"),
    "None among truth values": ([True, None, False], "type object"),
    "complex": (np.array([1j, 0, 1]), "complex"),
    "ragged": ([[True], [True, False], True], "no array"),
}
MASKS = {
    "bool": [False, True, False],
    "whole": [0, 1, 0],
    "real": np.array([0.0, 1.0, -0.0], np.float32),
    "uint8": np.array([0, 1, 0], np.uint8),
    "mixed": [False, 1, 0.0],
}


@pytest.mark.parametrize("kind", NOT_MASKS)
def test_what_is_no_mask_is_refused_everywhere(kind: str, root):
    """By the agent, the batched policy and the reader of files alike, with what it looks like."""
    mask, words = NOT_MASKS[kind]
    agent = RLAgent(root=root, action_names=["a", "b", "c"], seed=1)
    with pytest.raises(EpisodeError, match=words):
        agent.get_action([1.0, 2.0], action_mask=mask)
    assert agent.get_stats()["buffer_size"] == 0

    network = new_state(2, Discrete(3), LearningSettings(hidden_size=8)).policy
    with pytest.raises(EpisodeError):
        BatchedPolicy(network).choose(np.zeros((1, 2)), [mask])

    arrays = {**episodes.arrays(1), "action_mask": [mask] * len(episodes.arrays(1)["rewards"])}
    with pytest.raises(EpisodeError):
        episode.from_arrays(arrays)


@pytest.mark.parametrize("kind", MASKS)
def test_zeros_and_ones_are_a_mask_everywhere(kind: str, root):
    """Of any type of number; the only legal action is played, and the file holds truth values."""
    mask = MASKS[kind]
    agent = RLAgent(root=root, action_names=["a", "b", "c"])
    network = new_state(2, Discrete(3), LearningSettings(hidden_size=8)).policy

    assert {agent.get_action([1.0, 2.0], action_mask=mask)[0] for _ in range(10)} == {1}
    choice = BatchedPolicy(network).choose(np.zeros((4, 2)), [mask] * 4)
    read = episode.from_arrays({"states": np.zeros((2, 2)), "actions": [1, 1], "rewards": [0, 0], "action_mask": [mask] * 2})

    assert choice.actions.tolist() == [1] * 4
    for found in (choice.masks, read.action_mask):
        assert found is not None and found.dtype == np.bool_ and found[0].tolist() == [False, True, False]


def test_a_large_mask_costs_no_more_than_looking_at_it():
    """A bool array is handed on as it is."""
    mask = np.ones((3, 4), bool)
    assert truth_values(mask) is mask


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int8(2), np.array(2), np.array([2]), np.array([[2.0]]), [2], ((2.0,),), Decimal(2), Fraction(2)],
)
def test_exactly_one_number_is_a_reward(value: object):
    """Of any shape with one element."""
    found = one_number(value)
    assert found == 2.0 and type(found) is float


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([1.0, 2.0]), "wrong-shape"),
        ([], "wrong-shape"),
        (np.zeros((1, 0)), "wrong-shape"),
        ("2", "wrong-dtype"),
        (None, "wrong-dtype"),
        (b"2", "wrong-dtype"),
        (1j, "wrong-dtype"),
        ([[1], [2, 3]], "wrong-dtype"),
        (10**400, "wrong-dtype"),
        ({"reward": 1.0}, "wrong-dtype"),
        (object(), "wrong-dtype"),
        (np.datetime64("2026-01-01"), "wrong-dtype"),
    ],
)
def test_anything_else_is_no_number(value: object, reason: str):
    """And is refused by the project's own error, never another."""
    with pytest.raises(EpisodeError) as caught:
        one_number(value, "a reward")
    assert caught.value.reason == reason and "a reward" in str(caught.value)
