"""One update: it learns the right thing, from every kind of file, with the same bits, and never breaks the policy."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS

from background_training.algo import policy, train_step
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError, ModelError
from background_training.settings import LearningSettings
from background_training.spaces import Discrete

SETTINGS = LearningSettings()
WIDTH, ACTIONS = 3, 4


def episode(steps=20, seed=0, recorded=True, **changes):
    """An episode of random states, actions and rewards, as a policy without preference plays it."""
    rng = np.random.default_rng(seed)
    made = Episode(
        states=rng.normal(size=(steps, WIDTH)).astype(np.float32),
        actions=rng.integers(0, ACTIONS, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        log_probs=np.full(steps, -np.log(ACTIONS), np.float32) if recorded else None,
        policy_version=0 if recorded else None,
    )
    return dataclasses.replace(made, **changes)


POISONED = episode(rewards=np.full(20, np.nan, np.float32))


def of(value, *shape):
    return np.full(shape, value, np.float32)


def fresh_state(settings=SETTINGS):
    return train_step.new_state(WIDTH, Discrete(ACTIONS), settings)


def digest(state):
    """One text for all bits of a state."""
    arrays = train_step.to_arrays(state)
    return hashlib.sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def same(one, other):
    return digest(one) == digest(other)


# What is learnt


@pytest.mark.parametrize("recorded", [True, False], ids=["log_probs", "plain"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_rewarded_action_becomes_more_likely(recorded, scale):
    """A bandit: action 2 pays, the others cost; one game after the other makes 2 the policy's choice."""
    state = train_step.new_state(1, Discrete(ACTIONS), SETTINGS)
    rng = np.random.default_rng(0)
    still = np.ones(1, np.float32)
    before = policy.probabilities(state.policy, still)[2]

    for version in range(1, 181):
        choices = [policy.choose(state.policy, still, None, rng) for _ in range(20)]
        game = Episode(
            states=np.ones((20, 1), np.float32),
            actions=np.array([choice.action for choice in choices]),
            rewards=np.array([scale if choice.action == 2 else -scale for choice in choices], np.float32),
            log_probs=np.array([choice.log_prob for choice in choices], np.float32) if recorded else None,
        )
        state, report = train_step.learn(state, [game], dataclasses.replace(SETTINGS, gamma=0.0), version)
        assert not report.refused, version

    assert policy.probabilities(state.policy, still)[2] > 0.8 > before


def test_a_punished_action_becomes_less_likely():
    """The sign is right from the very first update, and states decide: 0 is good in one, bad in the other."""
    states = np.tile(np.array([[1.0], [-1.0]], np.float32), (50, 1))
    actions = np.tile(np.array([0, 0, 1, 1]), 25)
    rewards = np.where((states[:, 0] > 0) == (actions == 0), 1.0, -1.0).astype(np.float32)
    game = Episode(states, actions, rewards, np.full(100, -np.log(2), np.float32))
    state = train_step.new_state(1, Discrete(2), SETTINGS)

    for version in range(1, 31):
        state, _ = train_step.learn(state, [game], dataclasses.replace(SETTINGS, gamma=0.0), version)

    good, bad = policy.probabilities(state.policy, np.array([[1.0], [-1.0]], np.float32))[:, 0]
    assert good > 0.6 and bad < 0.4


def test_the_critic_learns_what_states_are_worth():
    """After some updates the value network explains most of the returns, in the game's own scale."""
    rng = np.random.default_rng(1)
    report = None
    state = fresh_state()
    for version in range(1, 61):
        states = rng.normal(size=(200, WIDTH)).astype(np.float32)
        game = episode(200, states=states, rewards=(1000 + 300 * states[:, 0]).astype(np.float32))
        state, report = train_step.learn(state, [game], dataclasses.replace(SETTINGS, gamma=0.0), version)

    assert report.explained_variance > 0.9


# What a batch may hold


@pytest.mark.parametrize("recorded", [True, False], ids=["log_probs", "plain"])
@pytest.mark.parametrize("case", ["ordinary", "one step", "constant rewards", "no rewards", "same states", "huge", "tiny"])
def test_odd_episodes_are_learnt_from_without_harm(case, recorded):
    """Nothing that a game may honestly deliver makes an update fail or a number infinite."""
    game = {
        "ordinary": episode(recorded=recorded),
        "one step": episode(1, recorded=recorded),
        "constant rewards": episode(recorded=recorded, rewards=np.ones(20, np.float32)),
        "no rewards": episode(recorded=recorded, rewards=np.zeros(20, np.float32)),
        "same states": episode(recorded=recorded, states=np.full((20, WIDTH), 5.0, np.float32)),
        "huge": episode(recorded=recorded, rewards=of(1e6, 20), states=of(-1e6, 20, WIDTH)),
        "tiny": episode(recorded=recorded, rewards=of(1e-30, 20), states=of(1e-30, 20, WIDTH)),
    }[case]
    state = fresh_state()

    for version in range(1, 6):
        state, report = train_step.learn(state, [game], SETTINGS, version)
        assert report.refused == ""

    assert all(np.isfinite(values).all() for values in train_step.to_arrays(state).values())
    assert state.updates == 5 and state.steps == 5 * game.steps


def test_a_bot_that_has_nothing_left_to_win_goes_on_learning(monkeypatch):
    """Games that all return the same, for ever, neither blow the value network up nor have lessons refused."""
    monkeypatch.setattr(
        "background_training.algo.ppo_update.MEMORY_STEPS", 100.0
    )  # what a run of thousands of games forgets in days
    state = fresh_state()
    rng = np.random.default_rng(3)
    for version in range(1, 121):
        states = rng.normal(size=(31, WIDTH)).astype(np.float32)
        won = {"rewards": np.ones(30, np.float32), "final_state": states[30], "terminated": False}
        reward = won if version > 5 else won | {"rewards": rng.normal(size=30).astype(np.float32)}
        log_probs = np.full(30, -np.log(ACTIONS), np.float32)
        game = Episode(states=states[:30], actions=rng.integers(0, ACTIONS, 30), log_probs=log_probs, **reward)
        state, report = train_step.learn(state, [game], SETTINGS, version)
        assert not report.refused, version

    assert np.abs(state.critic.weights).max() < 300.0


def test_a_game_with_one_action_changes_no_probability():
    """There is nothing to decide, and nothing fails."""
    state = train_step.new_state(WIDTH, Discrete(1), SETTINGS)
    game = episode(actions=np.zeros(20, np.int64), log_probs=np.zeros(20, np.float32))

    state, report = train_step.learn(state, [game], SETTINGS, 1)

    assert report.refused == "" and report.kl == 0.0 and report.entropy == 0.0
    assert policy.probabilities(state.policy, game.states[0]).tolist() == [1.0]


def test_ten_games_at_once_take_as_many_gradient_steps_as_one_by_one():
    """One lesson per episode: the same count of steps, and the policy moves about as far."""
    games = [episode(30, seed) for seed in range(10)]
    start = fresh_state()
    at_once, report = train_step.learn(start, games, SETTINGS, 1)
    singly, history = start, []
    for version, game in enumerate(games, start=1):
        singly, _ = train_step.learn(singly, [game], SETTINGS, version, history)
        history.append(game)

    distances = [np.linalg.norm(state.actor.weights - start.actor.weights) for state in (at_once, singly)]
    assert distances[0] == pytest.approx(distances[1], rel=0.3)
    assert report.epochs == SETTINGS.n_epochs and at_once.actor.moments.steps == singly.actor.moments.steps


def test_batches_of_one_and_ten_and_of_both_kinds_report_what_they_held():
    """Games, steps and means are those of the new episodes; files without log-probabilities are counted."""
    games = [episode(seed + 1, seed, recorded=seed % 2 == 0) for seed in range(10)]

    state, report = train_step.learn(fresh_state(), games, SETTINGS, 1)

    assert (report.games, report.steps, report.plain_games) == (10, 55, 5)
    assert report.mean_length == 5.5
    assert report.mean_return == pytest.approx(np.mean([game.rewards.sum() for game in games]), rel=1e-6)
    assert (state.updates, state.episodes, state.steps) == (1, 10, 55)


def test_plain_files_are_gone_through_once_and_recorded_ones_several_times():
    """Without log-probabilities nothing could correct a second pass."""
    _, plain = train_step.learn(fresh_state(), [episode(recorded=False)], SETTINGS, 1)
    _, recorded = train_step.learn(fresh_state(), [episode()], SETTINGS, 1)

    assert plain.epochs == 1
    assert recorded.epochs == SETTINGS.n_epochs


def test_masked_actions_get_no_gradient():
    """An action that was never legal keeps its logit exactly: nothing was learnt about it."""
    mask = np.ones((20, ACTIONS), bool)
    mask[:, 3] = False
    game = episode(action_mask=mask, actions=np.arange(20) % 3, log_probs=np.full(20, -np.log(3), np.float32))
    before = fresh_state()

    after, _ = train_step.learn(before, [game], SETTINGS, 1)

    assert (after.policy.W3[:, 3] == before.policy.W3[:, 3]).all()
    assert not (after.policy.W3[:, 2] == before.policy.W3[:, 2]).all()
    assert after.policy.b3[3] == 0.0


def test_a_game_that_was_cut_off_is_not_a_game_that_ended():
    """Its last state's value stands for what would have come; the state after the cut counts where it is known."""
    trained = fresh_state()
    for version in range(1, 4):
        trained, _ = train_step.learn(trained, [episode(seed=version)], SETTINGS, version)
    over, cut = episode(), episode(terminated=False)
    known = episode(terminated=False, final_state=np.full(WIDTH, 2.0, np.float32))

    results = [train_step.learn(trained, [game], SETTINGS, 4)[0] for game in (over, cut, known)]

    assert len({digest(result) for result in results}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": np.zeros((20, 5), np.float32)}, "a state holds 5 numbers; the model takes 3"),
        ({"actions": np.full(20, 9)}, "there is an action 9; the model chooses actions 0 to 3"),
        ({"action_mask": np.ones((20, 6), bool)}, "action_mask has 6 actions; the model chooses actions 0 to 3"),
    ],
)
def test_an_episode_of_another_game_is_refused_by_name(changes, message):
    """Before anything is changed, with what was found and what is needed."""
    with pytest.raises(EpisodeError, match=message):
        train_step.learn(fresh_state(), [episode(), episode(**changes)], SETTINGS, 1)


# Stale and replayed data


def test_an_older_episode_counts_less():
    """The same episode moves the policy less, the more versions ago it was played; age is in the report."""
    settings = dataclasses.replace(SETTINGS, ent_coef=0.0)
    start = fresh_state()
    gradients, ages = [], []
    for played in (100, 68, 0):
        _, report = train_step.learn(start, [episode(policy_version=played)], settings, 101)
        gradients.append(report.gradient_norm)
        ages.append(report.staleness_versions)

    assert ages == [0, 32, 100]
    assert gradients[0] > gradients[1] > gradients[2] > 0.0


def test_replay_takes_the_newest_that_fit():
    """From the newest backwards, as many steps per new step as the settings say; those without log-probabilities not."""
    settings = dataclasses.replace(SETTINGS, replay_ratio=2.0, replay_episodes=5, replay_steps=1000)
    history = [episode(10, seed) for seed in range(9)]

    chosen = train_step.replayed(episode(15), history, settings)
    capped = train_step.replayed(episode(500), history, settings)
    bounded = train_step.replayed(episode(500), history, dataclasses.replace(settings, replay_steps=25))
    some_plain = train_step.replayed(episode(15), [*history[:-1], episode(10, recorded=False)], settings)

    assert [id(one) for one in chosen] == [id(one) for one in history[6:]]
    assert [id(one) for one in capped] == [id(one) for one in history[4:]]
    assert len(bounded) == 2
    assert [id(one) for one in some_plain] == [id(one) for one in history[5:8]]
    assert train_step.replayed(episode(15, recorded=False), history, settings) == []
    assert train_step.replayed(episode(15), history, dataclasses.replace(settings, replay_ratio=0.0)) == []


def test_replay_joins_the_batch_and_is_reported():
    """Old episodes change what is learnt, and are not counted as new."""
    old = [episode(20, seed) for seed in range(1, 4)]

    alone, _ = train_step.learn(fresh_state(), [episode()], SETTINGS, 1)
    together, report = train_step.learn(fresh_state(), [episode()], SETTINGS, 1, old)

    assert not same(alone, together)
    assert (report.games, report.steps, report.replayed_games, report.replayed_steps) == (1, 20, 3, 60)
    assert together.episodes == 1


def test_kl_guard_ends_a_batch_early():
    """A batch that changes the policy a lot is gone through fewer times."""
    wild = dataclasses.replace(SETTINGS, learning_rate=0.05, target_kl=0.01, n_epochs=10)

    _, report = train_step.learn(fresh_state(), [episode(200)], wild, 1)

    assert report.epochs < 10 and report.kl > 0.01


# The same bits, whole or not at all


@pytest.mark.parametrize("recorded", [True, False], ids=["log_probs", "plain"])
def test_the_step_size_halves_with_the_versions(recorded):
    """After two half-lives a lesson is that of a quarter of the rate, bit for bit, and the report says the rate."""
    game = episode(recorded=recorded)
    quarter = dataclasses.replace(SETTINGS, learning_rate=SETTINGS.learning_rate / 4)
    halving = dataclasses.replace(SETTINGS, learning_rate_half_life=50.0)

    late, report = train_step.learn(fresh_state(), [game], halving, 101)
    expected, _ = train_step.learn(fresh_state(), [game], quarter, 101)

    assert same(late, expected) and report.learning_rate == quarter.learning_rate


def test_an_update_that_would_break_the_policy_changes_nothing_but_counters():
    """An infinite number inside never becomes a published one; the report says so, and nothing is raised."""
    state, _ = train_step.learn(fresh_state(), [episode()], SETTINGS, 1)

    after, report = train_step.learn(state, [POISONED], SETTINGS, 2)

    assert report.refused == "1 of 1 games: a number would have become infinite or NaN" and report.refused_games == (0,)
    assert (after.updates, after.refused_updates, after.episodes) == (2, 1, 2)
    restored = dataclasses.replace(after, updates=state.updates, refused_updates=0, episodes=state.episodes, steps=state.steps)
    assert same(restored, state)


def test_a_poisoned_game_does_not_cost_its_neighbours_their_turn():
    """The good games of the batch are learnt from; only the bad one is thrown away, and counted."""
    good, other = episode(seed=1), episode(seed=2)
    settings = dataclasses.replace(SETTINGS, replay_ratio=0.0)

    after, report = train_step.learn(fresh_state(), [good, POISONED, other], settings, 1)
    before, _ = train_step.learn(fresh_state(), [good], settings, 1)

    assert (report.refused[:6], after.refused_updates, after.episodes) == ("1 of 3", 1, 3)
    assert not (after.policy.W3 == before.policy.W3).all()
    assert all(np.isfinite(values).all() for values in train_step.to_arrays(after).values())


def _usual_state():
    """After twelve episodes: what returns are usual is known."""
    return train_step.learn(fresh_state(), [episode(seed=seed) for seed in range(12)], SETTINGS, 1)[0]


def _scaled(factor, seed=99):
    usual = episode(seed=seed)
    return dataclasses.replace(usual, rewards=(usual.rewards * factor).astype(np.float32))


def test_rewards_in_other_units_teach_nothing_and_are_not_replayed():
    """One batch a million times too large would make all later rewards look like nothing; it leaves no trace, not even later."""
    state = _usual_state()

    after, report = train_step.learn(state, [_scaled(1e6)], SETTINGS, 2)
    later, _ = train_step.learn(after, [episode(seed=50)], SETTINGS, 3, recent=[_scaled(1e6)])
    without, _ = train_step.learn(after, [episode(seed=50)], SETTINGS, 3)

    assert "learning.reject_reward_ratio" in report.refused and after.refused_updates == 1
    assert (after.actor.weights == state.actor.weights).all() and after.returns is state.returns
    assert same(later, without)


@pytest.mark.parametrize("factor", [-1.0, 0.001, 100.0])
def test_rewards_that_may_well_be_true_are_learnt_from(factor):
    """A first victory may be worth a hundred times what was earned before."""
    assert train_step.learn(_usual_state(), [_scaled(factor)], SETTINGS, 2)[1].refused == ""


def test_the_bound_on_rewards_can_be_switched_off():
    """For who has changed the units of a reward and means it."""
    settings = dataclasses.replace(SETTINGS, reject_reward_ratio=0.0)
    assert train_step.learn(_usual_state(), [_scaled(1e6)], settings, 2)[1].refused == ""


@pytest.mark.parametrize("bound", [{"reject_update_kl": 1e-9}, {"reject_update_weight": 1e-3}])
def test_a_lesson_that_explodes_is_thrown_away(bound):
    """Beyond a bound nothing but the counters changes, and the report names the bound."""
    state = _usual_state()

    after, report = train_step.learn(state, [episode(seed=7)], dataclasses.replace(SETTINGS, **bound), 2)

    assert next(iter(bound)) in report.refused
    assert (after.actor.weights == state.actor.weights).all() and after.returns is state.returns


def test_learning_leaves_its_arguments_alone():
    """The state before is still the state before, whatever came of it."""
    state, _ = train_step.learn(fresh_state(), [episode()], SETTINGS, 1)
    before = digest(state)

    train_step.learn(state, [episode(seed=1)], SETTINGS, 2, [episode()])

    assert digest(state) == before


FOLD = """
import sys
sys.path[:0] = sys.argv[1:]
import test_learning
print(test_learning.state_after_some_updates())
"""


def state_after_some_updates():
    """The digest of a state after updates of every kind."""
    state = fresh_state()
    history = []
    for version in range(1, 6):
        games = [episode(100 * version, 10 * version + number, recorded=number != 2) for number in range(3)]
        state, _ = train_step.learn(state, games, SETTINGS, version, history)
        history += games
    return digest(state)


@pytest.mark.slow
def test_two_processes_make_the_same_bits():
    """Any version can be rebuilt: the same episodes in the same batches, in another process, byte for byte."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    answers = [
        subprocess.run(
            [sys.executable, "-c", FOLD, *folders], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
        ).stdout
        for _ in range(2)
    ]

    assert answers[0] == answers[1] == state_after_some_updates() + "\n"


# The model file's arrays


def test_arrays_are_read_back_to_the_bit():
    """What is saved is what is loaded, and learning goes on as if nothing had happened."""
    state, _ = train_step.learn(fresh_state(), [episode(), episode(seed=1)], SETTINGS, 1)

    loaded = train_step.from_arrays(train_step.to_arrays(state), Discrete(ACTIONS), "model.npz")

    assert same(loaded, state)
    assert same(*(train_step.learn(start, [episode(seed=2)], SETTINGS, 2)[0] for start in (state, loaded)))
    assert all(values.dtype.kind in "fi" for values in train_step.to_arrays(state).values())


def test_published_policy_takes_raw_states_with_plain_numpy():
    """A foreign reader needs six arrays and tanh: no scaling of its own, and it plays what was trained."""
    game = episode(200, states=(1e3 + 50 * np.random.default_rng(0).normal(size=(200, WIDTH))).astype(np.float32))
    state = fresh_state()
    for version in range(1, 11):
        state, _ = train_step.learn(state, [game], SETTINGS, version)
    file = train_step.to_arrays(state)

    hidden = np.tanh(np.tanh(game.states @ file["W1"] + file["b1"]) @ file["W2"] + file["b2"])
    logits = hidden @ file["W3"] + file["b3"]

    scaled = state.observations.scaled(game.states)
    trained = policy.forward(state.actor_network(), scaled)
    assert np.abs(logits - trained).max() < 1e-4
    assert np.abs(trained - trained.mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("name", sorted(train_step.to_arrays(fresh_state())))
def test_a_missing_or_misshapen_or_broken_array_is_named(name):
    """A model file that can't be used says which array, what was found, and which file it was."""
    whole = train_step.to_arrays(fresh_state())
    value = whole[name]
    missing = {key: array for key, array in whole.items() if key != name}

    with pytest.raises(ModelError, match=f"model.npz: there is no array {name}"):
        train_step.from_arrays(missing, Discrete(ACTIONS), "model.npz")
    with pytest.raises(ModelError, match=r"model.npz: .*(is|are) needed"):
        train_step.from_arrays({**whole, name: np.zeros((2, 2, 2), value.dtype)}, Discrete(ACTIONS), "model.npz")
    with pytest.raises(ModelError, match=f"model.npz: {name} is of type"):
        train_step.from_arrays({**whole, name: value.astype(str)}, Discrete(ACTIONS), "model.npz")
    if value.dtype.kind == "f":
        with pytest.raises(ModelError, match=f"model.npz: {name} holds NaN"):
            train_step.from_arrays({**whole, name: np.full_like(value, np.nan)}, Discrete(ACTIONS), "model.npz")


def test_first_state_depends_on_the_seed_alone():
    """The same seed, the same bits; another seed, other weights."""
    assert same(fresh_state(), fresh_state())
    assert not same(fresh_state(), fresh_state(dataclasses.replace(SETTINGS, seed=1)))
    assert (fresh_state().state_width, fresh_state().hidden, fresh_state().actions) == (WIDTH, 64, Discrete(ACTIONS))
