"""Envs that hand out the same array and dict from every call, and rewards of one element: nothing kept is overwritten."""

from __future__ import annotations

import os
import signal
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from vector_fixtures import nothing_left_behind, step_until  # noqa: F401

from background_training.algo import policy
from background_training.envs import EpisodeRecorder, ResilientAsyncVectorEnv, ResilientGame, make_vector_env
from background_training.envs.batched_policy import BatchedPolicy
from background_training.envs.half_batches import HalfBatches
from background_training.episodes import episode_file
from background_training.paths import Paths

pytestmark = pytest.mark.slow  # real processes

LENGTH = 3
BOX = spaces.Box(-100, 100, (2,), np.float32)
SHAPES = {
    "array": BOX,
    "dict": spaces.Dict(a=BOX, b=spaces.Tuple((BOX,))),
    "tuple": spaces.Tuple((BOX, BOX)),
    "message": spaces.Dict(a=BOX, b=spaces.Sequence(spaces.Discrete(9))),
}


class Reuses(gymnasium.Env):
    """Counts its steps in one buffer and one info, the same objects for ever; raises in step `bad_step`, after writing there."""

    action_space = spaces.Discrete(2)
    shared = np.zeros(2, np.float32)

    def __init__(self, shape="array", *, one_for_all=False, bad_step=0, reward=1.0):
        self.observation_space = SHAPES[shape]
        self.buffer = self.shared if one_for_all else np.zeros(2, np.float32)
        self.seen = {
            "array": self.buffer,
            "dict": {"a": self.buffer, "b": (self.buffer,)},
            "tuple": (self.buffer, self.buffer),
            "message": {"a": self.buffer, "b": (1, 2)},
        }[shape]
        self.info = {"time": self.buffer, "deep": {"list": [self.buffer]}}
        self.bad_step, self.reward = bad_step, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.buffer[:] = self.time = 0
        return self.seen, self.info

    def step(self, action):
        self.time += 1
        self.buffer[:] = self.time
        if self.time == self.bad_step:
            raise RuntimeError("a bad step")
        return self.seen, self.reward, False, self.time >= LENGTH, self.info


def leaves(value):
    """All numbers within an observation."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in leaves(part)]
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [number for part in value for number in leaves(part)]
    return [float(number) for number in np.asarray(value).reshape(-1)]


def first_leaf(observation):
    """[2] of env 0, or [N, 2] of all."""
    if isinstance(observation, dict):
        return observation["a"]
    return observation[0] if isinstance(observation, tuple) else observation


def ours(makers, mode, workers=1):
    return ResilientAsyncVectorEnv(makers, num_workers=workers, start_method="fork", autoreset_mode=mode, reduce_after=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("where", ["worker", "this process"])
def test_final_obs_and_final_info_are_those_of_the_ended_episode(shape, where):
    """SAME_STEP: the reset must not reach into what the last step returned, nested or not."""
    makers, mode = [partial(Reuses, shape)] * 2, AutoresetMode.SAME_STEP
    envs = make_vector_env(makers, mode="sync", autoreset_mode=mode) if where == "this process" else ours(makers, mode)
    envs.reset(seed=1)
    for _ in range(LENGTH):
        observations, _, _, truncations, infos = envs.step([0, 0])
    assert truncations.all()
    assert (np.asarray(first_leaf(observations)) == 0).all()
    final = infos["final_obs"]
    numbers = leaves(final["a"] if isinstance(final, dict) else [first_leaf(one) for one in final])
    assert set(numbers) == {float(LENGTH)}
    assert (infos["final_info"]["time"] == LENGTH).all()
    assert set(leaves(infos["final_info"]["deep"]["list"])) == {float(LENGTH)}
    assert (infos["time"] == 0).all()
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("shape", ["array", "message"])
def test_envs_of_one_worker_may_share_one_buffer(shape, mode):
    """A buffer of the class: each env's row and info are those of its own step, though a neighbour has stepped since."""
    makers = [partial(Reuses, shape, one_for_all=True) for _ in range(2)]
    envs = ours(makers, mode)
    envs.reset(seed=1)
    for step in range(1, LENGTH):
        observations, *_, infos = envs.step([0, 0])
        assert (first_leaf(observations) == step).all() and (infos["time"] == step).all()
    envs.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("over", ["ours", "sync"])
def test_the_recorder_saves_the_final_state_of_the_ended_episode(mode, over, tmp_path):
    """In every autoreset mode, over workers and in this process."""
    paths, makers = Paths(tmp_path), [Reuses] * 2
    envs = ours(makers, mode) if over == "ours" else make_vector_env(makers, mode="sync", autoreset_mode=mode)
    recorder = EpisodeRecorder(envs, paths, durable=False, cut_episodes="drop")
    player = BatchedPolicy(policy.new_network(np.random.default_rng(0), 2, 8, 2, 0.01))
    observations, _ = recorder.reset(seed=1)
    for _ in range(9):
        observations, _, _, truncations, _ = recorder.step(recorder.choose(player, observations).actions)
        if mode is AutoresetMode.DISABLED and truncations.any():
            observations, _ = recorder.reset(options={"reset_mask": truncations})
    recorder.close()
    found = [episode_file.read(path.read_bytes()) for path in sorted(paths.buffer.glob("*.npz"))]
    assert len(found) >= 4
    for episode in found:
        assert episode.states[:, 0].tolist() == [0, 1, 2] and episode.final_state.tolist() == [LENGTH] * 2


def test_actions_and_masks_may_be_reused_too(tmp_path):
    """The caller's side: one array for the actions and masks of all steps."""
    recorder = EpisodeRecorder(make_vector_env([Reuses], mode="sync"), Paths(tmp_path), durable=False)
    player = BatchedPolicy(policy.new_network(np.random.default_rng(0), 2, 8, 2, 0.01))
    actions, mask = np.zeros(1, np.int64), np.zeros((1, 2), bool)
    observations, _ = recorder.reset(seed=1)
    for step in range(LENGTH):
        mask[...] = [[step % 2 == 0, step % 2 == 1]]
        actions[:] = recorder.choose(player, observations, mask).actions
        mask[...] = True
        observations, *_ = recorder.step(actions)
    recorder.close()
    episode = episode_file.read(next(Paths(tmp_path).buffer.glob("*.npz")).read_bytes())
    assert episode.actions.tolist() == [0, 1, 0]
    assert episode.action_mask.tolist() == [[True, False], [False, True], [True, False]]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_good_observation_is_the_one_before_the_fault(shape):
    """A step may write into the buffer and then raise; the row of the fault shows what was there before."""
    envs = ours([partial(Reuses, shape, bad_step=2)], AutoresetMode.NEXT_STEP)
    envs.reset()
    envs.step([0])
    observations, *_, infos = envs.step([0])
    assert infos["worker_restarted"][0] and set(leaves(first_leaf(observations)[0])) == {1.0}
    envs.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_resilient_game_keeps_the_last_good_observation_too(shape):
    """In this process, where the buffer of the failed step is the caller's."""
    game = ResilientGame(Reuses(shape, bad_step=2))
    game.reset()
    game.step(0)
    assert set(leaves(first_leaf(game.step(0)[0]))) == {1.0}


@pytest.mark.parametrize("shape", ["array", "message"])
def test_an_env_that_fell_back_into_this_process_keeps_it_too(shape):
    """Its observations are not copied by being sent."""
    makers = [partial(Reuses, shape, bad_step=9)] * 2
    envs = ResilientAsyncVectorEnv(makers, start_method="fork", restarts_per_env=0, on_exhausted="sync", reduce_after=0)
    envs.reset()
    os.kill(envs.health()["workers"][0]["pid"], signal.SIGKILL)
    step_until(envs, lambda results: envs.health()["in_process"] == [0] and first_leaf(results[0])[0, 0] == 1, [0, 0])
    kept = envs.step([0, 0])[0]
    envs.step([0, 0])
    assert set(leaves(first_leaf(kept)[0])) == {2.0}
    envs.close()


def test_half_batches_hand_each_part_its_own_observations():
    """While `learn` gets one part's results, its envs write the next step into the same buffers."""
    learnt = []
    with HalfBatches([Reuses] * 4, start_method="fork") as halves:
        halves.play(halves.reset(seed=1), lambda part, seen: np.zeros(2, int), 2, learnt.append)
    assert [(part, observations[:, 0].tolist()) for part, observations, *_ in learnt] == [
        (0, [1, 1]),
        (1, [1, 1]),
        (0, [2, 2]),
        (1, [2, 2]),
    ]
    assert [infos["time"][0].tolist() for *_, infos in learnt] == [[1, 1], [1, 1], [2, 2], [2, 2]]


@pytest.mark.parametrize("reward", [np.array([0.5]), np.float32(0.5), [0.5], np.array([[0.5]])])
@pytest.mark.parametrize("where", ["worker", "this process"])
def test_a_reward_of_one_element_is_a_number(reward, where, tmp_path):
    """Of any number of axes, in the results and in the file."""
    makers = [partial(Reuses, reward=reward)] * 2
    envs = make_vector_env(makers, mode="sync") if where == "this process" else ours(makers, AutoresetMode.NEXT_STEP)
    recorder = EpisodeRecorder(envs, Paths(tmp_path), durable=False)
    recorder.reset(seed=1)
    for _ in range(LENGTH):
        rewards = recorder.step(np.zeros(2, int))[1]
        assert rewards.shape == (2,) and rewards.dtype == np.float64 and (rewards == 0.5).all()
    recorder.close()
    episode = episode_file.read(next(Paths(tmp_path).buffer.glob("*.npz")).read_bytes())
    assert episode.rewards.tolist() == [0.5] * LENGTH


def test_a_reward_of_two_elements_is_a_fault_that_names_its_shape():
    """It can't be guessed which one counts."""
    envs = ours([partial(Reuses, reward=np.ones(2))], AutoresetMode.NEXT_STEP)
    envs.reset()
    assert "the reward has shape (2,)" in envs.step([0])[4]["restart_reason"][0]
    envs.close()
