"""ResilientAsyncVectorEnv is a Gymnasium vector env in full: compared with SyncVectorEnv, value by value."""

from __future__ import annotations

import multiprocessing
from functools import partial

import gymnasium
import numpy as np
import psutil
import pytest
from conftest import wait_until
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, NormalizeObservation, RecordEpisodeStatistics, TransformReward
from vector_fixtures import nothing_left_behind  # noqa: F401
from vector_games import WAIT, FaultyGame, SpaceGame

from background_training.envs import ResilientAsyncVectorEnv, StableProcessPoolEnv, make_vector_env
from background_training.envs.factory import InProcessVectorEnv, StepCost
from background_training.envs.half_batches import HalfBatches
from background_training.errors import SettingsError

CART = partial(gymnasium.make, "CartPole-v1")


def plain(value):
    """NumPy can't compare arrays of arrays; lists of them it can."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, np.ndarray) and value.dtype == object else value


def assert_same(ours, theirs):
    """Equal values, types and layout."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(plain(one), plain(other))
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
        if isinstance(other, dict):
            assert set(one) == set(other)


def assert_plays_the_same(ours, theirs, steps, seed=3):
    """Same spaces, same resets, same steps, same infos."""
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata == theirs.metadata
    assert_same(ours.reset(seed=seed, options={"a": 1}), theirs.reset(seed=seed, options={"a": 1}))
    ours.action_space.seed(1)
    for _ in range(steps):
        actions = ours.action_space.sample()
        ours_now, theirs_now = ours.step(actions), theirs.step(actions)
        assert_same(ours_now, theirs_now)
        if ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED and (ours_now[2] | ours_now[3]).any():
            done = ours_now[2] | ours_now[3]
            assert_same(
                ours.reset(seed=seed, options={"reset_mask": done}), theirs.reset(seed=seed, options={"reset_mask": done.copy()})
            )


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("workers", [0, 2])
def test_cartpole_is_played_as_sync_plays_it(mode, workers):
    """Every autoreset mode, with one and with several envs per worker."""
    with_us = ResilientAsyncVectorEnv([CART] * 3, autoreset_mode=mode, num_workers=workers)
    assert_plays_the_same(with_us, SyncVectorEnv([CART] * 3, autoreset_mode=mode), 150)
    with_us.close()


BOX = spaces.Box(-1, 1, (2, 3), np.float32)
PAIRS = {
    "box": (BOX, spaces.Discrete(4)),
    "discrete": (spaces.Discrete(5), BOX),
    "binary": (spaces.MultiBinary(3), spaces.MultiBinary(2)),
    "multi": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 2, 2])),
    "dict": (spaces.Dict(a=BOX, b=spaces.Discrete(2)), spaces.Dict(x=spaces.Discrete(3), y=BOX)),
    "tuple": (spaces.Tuple((BOX, spaces.Discrete(2))), spaces.Tuple((spaces.Discrete(3), BOX))),
    "image": (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2, start=3)),
    "text": (spaces.Text(5), spaces.Discrete(2)),
    "sequence": (spaces.Dict(a=BOX, b=spaces.Sequence(spaces.Discrete(3))), spaces.Discrete(2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_kind_of_space_and_info_arrives_as_with_sync(pair, mode):
    """Shared or as a message: observations, actions and nested infos are those of SyncVectorEnv."""
    make = partial(SpaceGame, *PAIRS[pair])
    with_us = ResilientAsyncVectorEnv([make] * 2, autoreset_mode=mode, num_workers=1)
    assert_plays_the_same(with_us, SyncVectorEnv([make] * 2, autoreset_mode=mode), 12)
    with_us.close()


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_lambdas_and_closures_work_under_every_start_method(method):
    """Factories travel by value."""
    length = 4
    envs = ResilientAsyncVectorEnv([lambda number=number: FaultyGame(number, length) for number in range(2)], start_method=method)
    envs.reset()
    assert envs.get_attr("length") == (4, 4)
    assert envs.step([0, 0])[0][:, 0].tolist() == [0.0, 1.0]
    envs.close()


def test_attributes_calls_and_frames():
    """call, get_attr, set_attr and render reach every env; an error of the method is raised here, and harms no env."""
    envs = StableProcessPoolEnv([partial(FaultyGame, number) for number in range(3)], max_workers=2)
    envs.reset(seed=1)
    assert envs.call("double", 4) == (8, 8, 8)
    envs.set_attr("colour", ["red", "green", "blue"])
    envs.set_attr("length", 7)
    assert envs.get_attr("colour") == ("red", "green", "blue")
    assert envs.get_attr("length") == (7, 7, 7)
    assert [frame.max() for frame in envs.render()] == [0, 1, 2]
    assert envs.render_mode == "rgb_array"
    assert envs.np_random_seed == (1, 2, 3)
    with pytest.raises(AttributeError, match="nonsense"):
        envs.call("nonsense")
    with pytest.raises(ValueError, match="Got `2` values"):
        envs.set_attr("colour", ["red", "green"])
    assert envs.step([0, 0, 0])[1].tolist() == [1, 1, 1]
    assert envs.health()["failures"] == 0
    envs.close()


def test_calls_out_of_order_are_named():
    """The same errors as AsyncVectorEnv's."""
    envs = ResilientAsyncVectorEnv([CART])
    with pytest.raises(ResetNeeded):
        envs.step([0])
    with pytest.raises(NoAsyncCallError):
        envs.step_wait()
    envs.reset()
    envs.step_async([0])
    with pytest.raises(AlreadyPendingCallError):
        envs.step_async([0])
    with pytest.raises(AlreadyPendingCallError):
        envs.reset()
    envs.step_wait()
    with pytest.raises(ValueError, match="length must match"):
        envs.reset(seed=[1, 2])
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.reset()


def test_a_callers_time_limit_loses_nothing():
    """step_wait(timeout) may give up waiting; the results are there for the next call."""
    envs = ResilientAsyncVectorEnv([FaultyGame])
    envs.reset()
    worker = psutil.Process(envs.health()["workers"][0]["pid"])
    worker.suspend()  # otherwise it might have answered before we ask, on a machine that is busy with other things
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
    envs.step_async([0])
    with pytest.raises(multiprocessing.TimeoutError):
        envs.step_wait(timeout=0.0)
    worker.resume()
    assert envs.step_wait()[1].tolist() == [1.0]
    envs.close()


def test_spaces_that_do_not_fit_together_are_refused():
    """As in Gymnasium: 'same' needs equal spaces, 'different' equal shapes; and nothing stays behind."""
    small, wide = (partial(SpaceGame, spaces.Box(0, high, (2,)), spaces.Discrete(2)) for high in (1, 9))
    with pytest.raises(RuntimeError, match="use `observation_mode='different'`"):
        ResilientAsyncVectorEnv([small, wide])
    envs = ResilientAsyncVectorEnv([small, wide], observation_mode="different")
    assert envs.observation_space == SyncVectorEnv([small, wide], observation_mode="different").observation_space
    envs.close()
    with pytest.raises(RuntimeError, match="action space"):
        ResilientAsyncVectorEnv([small, partial(SpaceGame, spaces.Box(0, 1, (2,)), spaces.Discrete(3))])


def test_observations_are_copies_unless_asked_otherwise():
    """A copy stays as it was; without, the memory is reused two steps later."""
    for copy in (True, False):
        envs = ResilientAsyncVectorEnv([partial(FaultyGame, 0, 100)], copy=copy)
        envs.reset()
        first = envs.step([0])[0]
        envs.step([0])
        assert first[0, 3] == 1
        envs.step([0])
        assert (first[0, 3] == 1) is np.True_ if copy else first[0, 3] == 3
        envs.close()


def test_gymnasiums_vector_wrappers_go_on_top():
    """The wrappers see a vector env like any other."""
    envs = ResilientAsyncVectorEnv([CART] * 2, num_workers=1)
    wrapped = DictInfoToList(RecordEpisodeStatistics(TransformReward(NormalizeObservation(envs), lambda reward: 2 * reward)))
    wrapped.reset(seed=0)
    seen = [wrapped.step(wrapped.action_space.sample()) for _ in range(60)]
    ended = [info["episode"] for *_, infos in seen for info in infos if "episode" in info]
    assert ended and all(episode["r"] == 2 * episode["l"] for episode in ended)
    wrapped.close()


@pytest.mark.slow
def test_the_mode_decides_where_envs_run():
    """One env stays here; cheap envs share one worker, waiting ones get their own."""
    alone = make_vector_env([CART])
    assert isinstance(alone, InProcessVectorEnv)
    alone.reset(seed=0)
    assert alone.health()["failures"] == 0
    alone.close()
    cheap = make_vector_env([CART] * 3, preset="balanced")
    assert len(cheap.health()["workers"]) == 1
    cheap.close()
    waiting = make_vector_env([WaitingGame] * 3)
    assert len(waiting.health()["workers"]) == 3
    waiting.close()
    with pytest.raises(SettingsError, match="mode is 'fast'"):
        make_vector_env([CART], mode="fast")


@pytest.mark.parametrize(
    ("envs", "microseconds", "cores", "workers"),
    [(8, 15, 2, 1), (32, 15, 2, 2), (8, 1000, 2, 2), (64, 1000, 16, 16), (1, 1, 4, 1)],
)
def test_a_worker_more_must_have_enough_to_do(envs, microseconds, cores, workers):
    """Where all steps of a worker are done before another would be awake, it does them itself."""
    assert StepCost(1.0, microseconds * 1e-6, 0.0).workers_for(envs, cores) == workers


class WaitingGame(FaultyGame):
    """Waits in every step, as for a game server."""

    def step(self, action):
        return super().step(WAIT)


@pytest.mark.parametrize("parts", [2, 4])
def test_half_batches_play_what_a_whole_batch_would(parts):
    """Halves, or smaller parts, in turn give the same transitions as one batch with the same seeds."""
    steps, whole = 30, SyncVectorEnv([CART] * 4)
    seen = {part: [] for part in range(parts)}
    with HalfBatches([CART] * 4, parts=parts) as halves:
        first = halves.reset(seed=5)
        chosen = np.ones(4 // parts, int)
        halves.play(first, lambda part, observations: chosen, steps, lambda results: seen[results[0]].append(results[1]))
        assert len(halves.health()) == parts
    np.testing.assert_equal(np.concatenate(first), whole.reset(seed=5)[0])
    for number in range(steps):
        together = np.concatenate([seen[part][number] for part in range(parts)])
        if number < 8:  # the first episodes; the resets after them have no seed
            np.testing.assert_equal(together, whole.step(np.ones(4, int))[0])


@pytest.mark.parametrize(("count", "parts"), [(4, 3), (4, 1), (0, 2)])
def test_half_batches_need_as_many_envs_for_each(count, parts):
    """Anything else is refused with both numbers, before a process is started."""
    with pytest.raises(ValueError, match=f"{count} env_fns in {parts} parts"):
        HalfBatches([CART] * count, parts=parts)
