"""Traps are told for games that are in one, and for no others; real games of Gymnasium are in none."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from background_training.episodes import data_checks, episode
from background_training.episodes.episode import Episode
from background_training.spaces import ActionSpace, Discrete


def _light_games(count: int = 12, steps: int = 40, shift: int = 0, **more: Any) -> list[Episode]:
    """The README's game: the right action depends on the light; the rewards may be moved by some steps."""
    games = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        light = rng.choice([-1.0, 1.0], size=(steps, 1)).astype(np.float32)
        actions = rng.integers(0, 2, steps)
        rewards = ((actions == 1) == (light[:, 0] > 0)).astype(np.float32)
        arrays = {"states": light, "actions": actions, "rewards": np.roll(rewards, shift), "meta": {"action_count": 2}}
        games.append(episode.from_arrays({**arrays, **more}))
    return games


def _each(games: list[Episode], change: Callable[[Episode], dict[str, Any]]) -> list[Episode]:
    return [dataclasses.replace(game, **change(game)) for game in games]


def _names(games: list[Episode], space: ActionSpace | None = None) -> list[str]:
    return [trap.name for trap in data_checks.find(games, space or Discrete(2))]


def test_sound_games_are_in_no_trap():
    """Rewards that answer their own action, varied games, small numbers."""
    assert _names(_light_games()) == []


@pytest.mark.parametrize(("shift", "word"), [(1, "before"), (-1, "after")])
def test_rewards_moved_by_a_step_are_told(shift, word):
    """The reward comes one step too late, or one too early."""
    (trap,) = data_checks.find(_light_games(shift=shift), 2)
    assert trap.name == "shifted-rewards" and f"the action {word} theirs" in trap.found


def test_rewards_moved_by_a_step_are_told_of_actions_alone():
    """The same where the reward depends on the action, whatever the state."""
    games = _light_games()
    late = _each(games, lambda game: {"rewards": np.roll((game.actions == 1).astype(np.float32), 1)})
    assert _names(late) == ["shifted-rewards"]


def test_a_delay_of_the_game_itself_is_no_shift():
    """An action that changes the next state, which is then rewarded: the reward belongs where it is."""
    games = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        actions = rng.integers(0, 2, 40)
        before = np.concatenate([[0], actions[:-1]])
        states = np.stack([before, rng.normal(size=40)], axis=1).astype(np.float32)
        games.append(episode.from_arrays({"states": states, "actions": actions, "rewards": before.astype(np.float32)}))
    assert _names(games) == []


def test_rewards_of_zero_are_told():
    """Nobody ever called update_reward."""
    assert _names(_each(_light_games(), lambda game: {"rewards": np.zeros_like(game.rewards)})) == ["zero-rewards"]


def test_rewards_that_never_differ_are_told():
    """1 for each of equally many steps says nothing; for games of different lengths it says a lot."""
    same = _each(_light_games(), lambda game: {"rewards": np.ones_like(game.rewards)})
    assert _names(same) == ["constant-rewards"]
    assert _names([*same, *_each(_light_games(1, steps=30), lambda game: {"rewards": np.ones_like(game.rewards)})]) == []
    assert _names(_each(same, lambda game: {"terminated": False})) == []


def test_games_that_are_the_same_are_told():
    """One seed for all games, under different ids; but not when the policy was sure of every step."""
    (game,) = _light_games(1, steps=60)
    assert _names([game] * 6) == ["identical-games"]
    sure = dataclasses.replace(game, log_probs=np.full(60, -0.001, np.float32))
    assert _names([sure] * 6) == []
    assert _names([dataclasses.replace(game, log_probs=np.full(60, -0.7, np.float32))] * 6) == ["identical-games"]


def test_states_of_thousands_are_told():
    """Minerals beside shares."""
    assert _names(_each(_light_games(), lambda game: {"states": game.states * 5000})) == ["unscaled-states"]


def test_the_number_that_is_too_large_is_called_by_its_name():
    """Where the games record the names of their features."""
    width = _light_games()[0].state_width
    named = {"state_names": [f"mineral\n{number}" for number in range(width)]}
    games = _each(_light_games(), lambda game: {"states": game.states * 5000, "meta": named})

    (found,) = data_checks.find(games)

    assert re.search(r"number (\d) \(mineral\\n\1\) of the states", found.found)


def test_one_action_only_is_told():
    """A policy that has settled, or a bot that logs a constant; but not where the rules leave no choice."""
    stuck = _each(_light_games(), lambda game: {"actions": np.zeros_like(game.actions)})
    assert _names(stuck) == ["one-action"]
    forced = np.tile(np.array([True, False]), (40, 1))
    assert _names(_each(stuck, lambda game: {"action_mask": forced})) == []


def test_few_games_are_not_judged():
    """What three games have in common proves nothing."""
    assert data_checks.find([]) == []
    assert data_checks.find(_each(_light_games(2), lambda game: {"rewards": np.zeros_like(game.rewards)})) == []


# Box2D's module dies of warnings that are errors, before anybody could catch them.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "game", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1"]
)
def test_games_of_gymnasium_are_in_no_trap(game):
    """Thirty games of a random player; whoever plays them has set nothing up wrongly."""
    gymnasium = pytest.importorskip("gymnasium")
    try:
        env = gymnasium.make(game, max_episode_steps=200)
    except gymnasium.error.Error:
        pytest.skip(f"{game} needs more than is installed")
    games = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        states, actions, rewards, over, terminated = [], [], [], False, False
        while not over:
            states.append(np.atleast_1d(np.asarray(observation, np.float32)))
            actions.append(int(rng.integers(env.action_space.n)))
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            rewards.append(float(reward))
            over = terminated or truncated
        arrays = {
            "states": np.array(states),
            "actions": np.array(actions),
            "rewards": np.array(rewards),
            "terminated": terminated,
        }
        games.append(episode.from_arrays(arrays))
    env.close()
    assert _names(games, int(env.action_space.n)) == []
