"""Preventive rebuilds, rests and memory: what a vector env does before and after things go wrong."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import psutil
import pytest
from gymnasium.vector import AutoresetMode
from vector_fixtures import descriptors, is_back, nothing_left_behind, step_until  # noqa: F401
from vector_games import KILL, FaultyGame, SpaceGame

from background_training.envs import ResilientAsyncVectorEnv

pytestmark = pytest.mark.slow  # real processes

OFTEN = {"rebuild_episodes": 3, "rebuild_share": 1.0, "check_episodes": 1}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_workers_are_rebuilt_between_episodes_and_no_step_is_lost(mode, workers):
    """Every episode has its full length, every row is experience, though processes change."""
    length = 4
    envs = ResilientAsyncVectorEnv(
        [partial(FaultyGame, number, length) for number in range(2)], autoreset_mode=mode, num_workers=workers, **OFTEN
    )
    observations, _ = envs.reset(seed=1)
    processes, before = {int(pid) for pid in observations[:, 1]}, observations

    def renewed(results):
        nonlocal before
        observations, rewards, terminations, truncations, infos = results
        assert "worker_restarted" not in infos and not truncations.any()
        for index in range(2):
            if mode is AutoresetMode.NEXT_STEP:
                expected = 0 if before[index, 3] == length else before[index, 3] + 1
                assert observations[index, 3] == expected == rewards[index]
                assert terminations[index] == (expected == length)
            else:
                assert rewards[index] == before[index, 3] + 1
                assert terminations[index] == (rewards[index] == length)
                if terminations[index]:
                    assert infos["final_obs"][index][3] == length and observations[index, 3] == 0
        processes.update(int(pid) for pid in observations[:, 1])
        before = observations
        return envs.health()["preventive_rebuilds"] >= 4

    step_until(envs, renewed, [0, 0])
    assert len(processes) > 2
    assert envs.health()["failures"] == 0
    step_until(envs, lambda _: len(psutil.Process().children(recursive=True)) <= 3, [0, 0])
    envs.close()


def test_a_worker_above_its_memory_is_renewed_between_episodes():
    """At the soft limit no episode is lost; 1 MiB is below any worker's size."""
    envs = ResilientAsyncVectorEnv(
        [partial(FaultyGame, 0, 5)], rebuild_memory_bytes=1 << 20, rebuild_episodes=0, check_episodes=1
    )
    envs.reset()
    step_until(envs, lambda results: envs.health()["preventive_rebuilds"] >= 2 and not results[3].any(), [0])
    assert envs.health()["failures"] == 0
    envs.close()


def test_envs_rest_after_three_failures_and_come_back_when_it_is_calm():
    """Down to half of them, and no further; then all are back."""
    envs = ResilientAsyncVectorEnv(
        [partial(FaultyGame, number, 10**6) for number in range(4)],
        reduce_after=3,
        reduce_window_seconds=3600,
        calm_seconds=3600,
    )
    envs.reset()
    for index in (0, 1, 2, 3):
        kill = np.zeros(4, int)
        kill[index] = KILL
        envs.step(kill)
    assert envs.health()["resting"] == [2, 3]
    envs._workers.tracker.calm_seconds = 0.0  # it is calm
    step_until(envs, lambda _: not envs.health()["resting"], np.zeros(4, int))
    step_until(envs, is_back(), np.zeros(4, int))
    assert envs.health()["reductions"] == 2
    assert envs.active.all()
    envs.close()


def test_health_is_plain_and_tells_what_happened():
    """Counts by kind, the last failures with reason, the workers with memory."""
    envs = ResilientAsyncVectorEnv([partial(FaultyGame, 0, 10**6)])
    envs.reset()
    begun = time.monotonic()
    envs.step([KILL])
    step_until(envs, is_back(), [0])
    health, took = envs.health(), time.monotonic() - begun
    assert health["failures_by_kind"] == {"died": 1}
    assert health["recent_failures"][0]["detail"] == "killed by SIGKILL"
    assert 0 < health["recovery_seconds_median"] < took
    assert health["workers"][0]["memory_bytes"] > 1 << 20
    assert health["envs_by_state"]["live"] == 1
    envs.close()


def test_messages_instead_of_shared_memory_survive_restarts_too():
    """Spaces without a fixed size: the last good observation, then a first one."""
    from gymnasium import spaces

    make = partial(SpaceGame, spaces.Text(8), spaces.Discrete(2))
    envs = ResilientAsyncVectorEnv([make, make])
    envs.reset(seed=1)
    good = envs.step([0, 1])[0]
    psutil.Process(envs.health()["workers"][1]["pid"]).kill()
    results = envs.step([0, 1])
    assert results[0][1] == good[1] and results[3].tolist()[1] and results[4]["worker_restarted"][1]
    step_until(envs, lambda results: "worker_restarted" not in results[4], [0, 1])
    envs.close()


def test_many_rebuilds_leave_memory_and_descriptors_flat():
    """Some ten thousand steps with a rebuild after every few episodes."""
    envs = ResilientAsyncVectorEnv([partial(FaultyGame, number, 5) for number in range(2)], start_method="fork", **OFTEN)
    envs.reset()
    sizes = []
    for wanted in (20, 60):
        step_until(envs, lambda _, wanted=wanted: envs.health()["preventive_rebuilds"] >= wanted, [0, 0])
        sizes.append((len(descriptors()), psutil.Process().memory_info().rss))
    assert abs(sizes[1][0] - sizes[0][0]) <= 6, "a standby and a retired worker may be open"
    assert sizes[1][1] - sizes[0][1] < 8 << 20
    envs.close()
