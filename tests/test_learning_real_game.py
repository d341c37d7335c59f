"""A real game: the learner makes a CartPole player that lasts, from files as the live loop delivers them."""

from __future__ import annotations

import numpy as np
import pytest

from background_training.algo import policy, train_step
from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings
from background_training.spaces import Discrete

gymnasium = pytest.importorskip("gymnasium")

SETTINGS = LearningSettings()


def played(game, network, version, rng, recorded):
    """One sampled game with a policy, as the episode that its file would hold."""
    state, _ = game.reset(seed=int(rng.integers(2**31)))
    states, choices, rewards = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        states.append(state)
        choices.append(policy.choose(network, state, None, rng))
        state, reward, terminated, truncated, _ = game.step(choices[-1].action)
        rewards.append(reward)
    return Episode(
        states=np.array(states, np.float32),
        actions=np.array([choice.action for choice in choices]),
        rewards=np.array(rewards, np.float32),
        log_probs=np.array([choice.log_prob for choice in choices], np.float32) if recorded else None,
        policy_version=version if recorded else None,
        terminated=terminated,
        final_state=np.asarray(state, np.float32),
    )


def returns_of_games(games, recorded, seed=0):
    """The returns of games one after the other; each is played by the policy of two versions ago, then learnt from."""
    rng = np.random.default_rng(seed)
    game = gymnasium.make("CartPole-v1", disable_env_checker=True)
    state = train_step.new_state(4, Discrete(2), SETTINGS)
    policies, history, returns = [state.policy] * 3, [], []
    for version in range(1, games + 1):
        episode = played(game, policies[-3], max(version - 3, 0), rng, recorded)
        state, report = train_step.learn(state, [episode], SETTINGS, version, history)
        assert report.refused == ""
        history = [*history, episode][-SETTINGS.replay_episodes :]
        policies.append(state.policy)
        returns.append(episode.episode_return)
    game.close()
    return returns


@pytest.mark.slow
def test_cartpole_is_learnt_from_stale_games_one_at_a_time():
    """The worst case of the live loop: batches of one game, played two versions ago."""
    returns = returns_of_games(70, recorded=True)

    assert np.mean(returns[:10]) < 60
    assert np.mean(returns[-20:]) > 150


@pytest.mark.slow
def test_cartpole_is_learnt_from_files_without_log_probabilities():
    """Foreign files hold states, actions and rewards only: slower, but it learns."""
    returns = returns_of_games(160, recorded=False)

    assert np.mean(returns[:10]) < 60
    assert np.mean(returns[-20:]) > 100
