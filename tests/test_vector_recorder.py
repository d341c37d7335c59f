"""EpisodeRecorder: every recorded transition is one that really happened, in every mode, through every fault."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from vector_fixtures import nothing_left_behind  # noqa: F401
from vector_games import END, FAULTS, KILL, NORMAL, RAISE, FaultyGame, SpaceGame

from background_training.algo import policy
from background_training.envs import EpisodeRecorder, ResilientAsyncVectorEnv, StableProcessPoolEnv
from background_training.envs.batched_policy import BatchedPolicy
from background_training.episodes import episode_file
from background_training.errors import EpisodeError, SettingsError
from background_training.paths import Paths
from background_training.spaces import Discrete

pytestmark = pytest.mark.slow  # real processes

CART = partial(gymnasium.make, "CartPole-v1")


def episodes(paths):
    return [episode_file.read(path.read_bytes()) for path in sorted(paths.buffer.glob("*.npz"))]


def transitions(episode):
    """(number, pid, episode, step before, action, reward), as FaultyGame logs them."""
    for state, action, reward in zip(episode.states, episode.actions, episode.rewards, strict=True):
        yield (int(state[0]), int(state[1]), int(state[2]), int(state[3]), int(action), float(reward))


def logged(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    return {(*map(int, words[:5]), float(words[5])) for words in lines}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("pool", [False, True])
def test_what_is_recorded_through_faults_has_really_happened(mode, pool, tmp_path):
    """Against a log written inside the game, with random faults; and what was finished is not lost."""
    paths, log = Paths(tmp_path / "ürsprung"), tmp_path / "log"
    makers = [partial(FaultyGame, number, 7, str(log)) for number in range(4)]
    kind = partial(StableProcessPoolEnv, max_workers=2) if pool else ResilientAsyncVectorEnv
    options = {"reduce_after": 0, "rebuild_episodes": 5, "rebuild_share": 1.0, "wait_for_restart": True}
    envs = kind(makers, autoreset_mode=mode, **options)
    recorder = EpisodeRecorder(envs, paths, durable=False)
    recorder.reset(seed=1)
    rng = np.random.default_rng(5)
    faults = [FAULTS[name] for name in ("kill", "segfault", "exit", "raise", "garbage")]
    for step in range(400):
        actions = np.where(rng.random(4) < 0.05, END, NORMAL)
        if step % 40 == 10:
            actions[rng.integers(4)] = rng.choice(faults)
        recorder.step(actions)
    recorder.close()
    seen, happened = [], logged(log)
    for episode in episodes(paths):
        steps = list(transitions(episode))
        assert set(steps) <= happened
        assert [step[3] for step in steps] == list(range(len(steps))), "from the first step on, without a gap"
        assert len({step[:3] for step in steps}) == 1, "of one game, process and episode"
        assert episode.final_state[3] == len(steps)
        assert episode.terminated == (len(steps) == 7 or steps[-1][4] == END)
        seen += steps
    assert len(seen) == len(set(seen)), "nothing twice"
    ended = {step[:3] for step in happened if step[3] == 6 or step[4] == END}
    missing = ended - {step[:3] for step in seen}
    # An episode may end in its game in the very step in which a neighbour's death takes the worker along.
    assert len(missing) <= (4 if pool else 0)
    assert len(seen) > 300


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_borders_of_episodes_are_right_in_every_autoreset_mode(mode, tmp_path):
    """The same games as SyncVectorEnv plays, cut at the same places; truncated ones with their final state."""
    paths = Paths(tmp_path)
    make = partial(gymnasium.make, "CartPole-v1", max_episode_steps=9)
    recorder = EpisodeRecorder(SyncVectorEnv([make] * 3, autoreset_mode=mode), paths, durable=False)
    recorder.reset(seed=1)
    recorder.action_space.seed(1)
    for _ in range(40):
        _, _, terminations, truncations, _ = recorder.step(recorder.action_space.sample())
        if mode is AutoresetMode.DISABLED and (terminations | truncations).any():
            recorder.reset(options={"reset_mask": terminations | truncations})
    recorder.close()
    found = episodes(paths)
    assert len(found) >= 9
    for episode in found:
        ending = episode.meta["ending"]
        assert ending == "cut" or episode.steps <= 9
        assert episode.terminated == (ending == "terminated")
        steps = [*episode.states, episode.final_state]
        for before, after, action in zip(steps[:-1], steps[1:], episode.actions, strict=True):
            game = make()
            game.reset()
            game.unwrapped.state = before.astype(np.float64)
            np.testing.assert_allclose(game.step(int(action))[0], after, rtol=1e-4, atol=1e-5)
            game.close()


def test_long_episodes_come_in_segments_that_fit_together(tmp_path):
    """Each but the last is unterminated, and its final state is the next one's first."""
    paths = Paths(tmp_path)
    recorder = EpisodeRecorder(SyncVectorEnv([partial(FaultyGame, 0, 10)]), paths, segment_steps=4, durable=False)
    recorder.reset()
    for _ in range(10):
        recorder.step([0])
    recorder.close()
    found = sorted(episodes(paths), key=lambda episode: episode.meta["segment"])
    assert [episode.steps for episode in found] == [4, 4, 2]
    assert [episode.terminated for episode in found] == [False, False, True]
    assert [episode.final_state[3] for episode in found] == [4, 8, 10]
    assert len({episode.episode_id.rpartition("-")[0] for episode in found}) == 1


@pytest.mark.parametrize(("cut", "count"), [("truncate", 2), ("drop", 0)])
def test_cut_episodes_are_kept_or_dropped_as_set(cut, count, tmp_path):
    """By a lost worker and by close."""
    paths = Paths(tmp_path)
    envs = ResilientAsyncVectorEnv([partial(FaultyGame, number) for number in range(2)])
    recorder = EpisodeRecorder(envs, paths, cut_episodes=cut, durable=False)
    recorder.reset()
    recorder.step([0, 0])
    recorder.step([KILL, 0])
    recorder.close()
    found = episodes(paths)
    assert len(found) == count
    assert sorted(episode.steps for episode in found) == [1, 2][:count]
    assert not any(episode.terminated for episode in found)


def test_an_exception_rebuilt_in_place_is_no_experience_either(tmp_path):
    """Neither the step that raised nor the first observation after it."""
    paths = Paths(tmp_path)
    envs = StableProcessPoolEnv([partial(FaultyGame, number) for number in range(2)], max_workers=1)
    recorder = EpisodeRecorder(envs, paths, durable=False)
    recorder.reset()
    for actions in ([0, 0], [RAISE, 0], [0, 0], [END, END]):
        recorder.step(actions)
    recorder.close()
    assert sorted((episode.steps, episode.terminated) for episode in episodes(paths)) == [(1, False), (1, True), (4, True)]


def network(width, actions, seed=0):
    return policy.new_network(np.random.default_rng(seed), width, 8, actions, 1.0)


def test_a_batched_choice_is_recorded_with_its_log_probabilities_and_version(tmp_path):
    """What is in the file is what the policy says about the file's states."""
    paths = Paths(tmp_path)
    player = BatchedPolicy(network(4, 2), version=17, rng=np.random.default_rng(3))
    recorder = EpisodeRecorder(SyncVectorEnv([CART] * 4), paths, durable=False, meta={"game": "CartPole-v1"})
    observations, _ = recorder.reset(seed=1)
    for _ in range(60):
        observations = recorder.step(recorder.choose(player, observations).actions)[0]
    recorder.close()
    for episode in episodes(paths):
        assert episode.policy_version == 17 and episode.meta["game"] == "CartPole-v1" and episode.action_space == Discrete(2)
        chances = policy.probabilities(player.network, episode.states)
        expected = np.log(chances[np.arange(episode.steps), episode.actions])
        np.testing.assert_allclose(episode.log_probs, expected, atol=1e-5)


def test_actions_that_were_not_chosen_here_carry_no_log_probabilities(tmp_path):
    """A remembered choice counts only for the actions it was about."""
    recorder = EpisodeRecorder(SyncVectorEnv([CART]), Paths(tmp_path), durable=False)
    observations, _ = recorder.reset(seed=1)
    choice = recorder.choose(BatchedPolicy(network(4, 2)), observations)
    recorder.step(1 - choice.actions)
    recorder.step([0])
    recorder.close()
    assert len(episodes(Paths(tmp_path))) == 1
    assert all(episode.log_probs is None and episode.policy_version is None for episode in episodes(Paths(tmp_path)))


@pytest.mark.parametrize("mask", [[0.0, -1e8], [0.5, 0.5], [np.nan, 1.0], [2, 1]])
def test_a_choice_whose_mask_is_none_is_not_remembered(mask, tmp_path):
    """It is refused before its step is played; the game continues, and what is recorded is valid. Zeros and ones are a mask."""
    recorder = EpisodeRecorder(SyncVectorEnv([CART]), Paths(tmp_path), durable=False)
    observations, _ = recorder.reset(seed=1)
    player = BatchedPolicy(network(4, 2))
    choice = player.choose(observations)
    with pytest.raises(EpisodeError, match="action_mask"):
        recorder.remember(choice._replace(masks=np.array([mask])))
    with pytest.raises(EpisodeError, match="action_mask"):
        recorder.choose(player, observations, [mask])
    recorder.remember(player.choose(observations)._replace(actions=np.array([1]), masks=np.array([[0, 1]])))
    recorder.step([1])
    recorder.close()
    (episode,) = episodes(Paths(tmp_path))
    assert episode.action_mask.tolist() == [[False, True]]


@given(st.integers(0, 10**6))
def test_masked_actions_are_never_drawn(seed):
    """Even at the ends of the row, and log-probabilities never exceed 0."""
    rng = np.random.default_rng(seed)
    masks = rng.random((5, 6)) < 0.4
    masks[np.arange(5), rng.integers(6, size=5)] = True
    choice = BatchedPolicy(network(3, 6, seed), rng=rng).choose(rng.normal(size=(5, 3)), masks)
    assert masks[np.arange(5), choice.actions].all()
    assert (choice.log_probs <= 0).all()


def test_draws_follow_the_probabilities():
    """Ten thousand draws of one state, against its probabilities."""
    player = BatchedPolicy(network(3, 4), rng=np.random.default_rng(1))
    state = np.array([[0.3, -1.0, 2.0]], np.float32)
    drawn = np.bincount(player.choose(np.repeat(state, 10_000, axis=0)).actions, minlength=4) / 10_000
    np.testing.assert_allclose(drawn, policy.probabilities(player.network, state[0]), atol=0.02)
    assert player.choose(state, greedy=True).actions[0] == policy.probabilities(player.network, state[0]).argmax()


def test_spaces_that_do_not_fit_a_file_are_refused(tmp_path):
    """At once, and with what is needed instead."""
    endless = spaces.Box(-np.inf, np.inf, (2,))
    continuous = SyncVectorEnv([partial(SpaceGame, spaces.Box(0, 1, (2,)), endless)])
    with pytest.raises(TypeError, match="it has no finite bounds"):
        EpisodeRecorder(continuous, Paths(tmp_path))
    nested = SyncVectorEnv([partial(SpaceGame, spaces.Dict(a=spaces.Box(0, 1, (2,))), spaces.Discrete(2))])
    with pytest.raises(TypeError, match="needs one array"):
        EpisodeRecorder(nested, Paths(tmp_path))
    with pytest.raises(SettingsError, match="cut_episodes is 'keep'"):
        EpisodeRecorder(SyncVectorEnv([CART]), Paths(tmp_path), cut_episodes="keep")
