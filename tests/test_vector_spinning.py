"""Steps with and without spinning: every row is right, and faults are seen in the step in which they happen."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from vector_fixtures import nothing_left_behind  # noqa: F401
from vector_games import CLOSE_PIPE, GARBAGE, KILL, RAISE, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv, worker_supervisor


@pytest.fixture
def many_cores(monkeypatch):
    """As if each worker had a core to itself."""
    monkeypatch.setattr(worker_supervisor, "usable_cores", lambda: 64)


@pytest.mark.parametrize("spin", [0, 1000])
@pytest.mark.parametrize("workers", [1, 2])
def test_steps_are_the_same_however_they_are_asked_for(many_cores, spin, workers):
    """Spinning or sleeping, every row is the one that Gymnasium's SyncVectorEnv has."""
    makers = [partial(gymnasium.make, "CartPole-v1")] * 4
    envs = ResilientAsyncVectorEnv(makers, num_workers=workers, spin_microseconds=spin, start_method="fork")
    peer = SyncVectorEnv(makers)
    for results in zip(envs.reset(seed=1), peer.reset(seed=1), strict=True):
        np.testing.assert_equal(*results)
    actions = np.random.default_rng(0).integers(0, 2, (300, 4))
    for number, row in enumerate(actions):
        for results in zip(envs.step(row), peer.step(row), strict=True):
            np.testing.assert_equal(*results)
        if number == 150:
            assert envs.call("get_wrapper_attr", "spec") == peer.call("get_wrapper_attr", "spec")
            np.testing.assert_equal(envs.reset(seed=2)[0], peer.reset(seed=2)[0])
    envs.close()
    peer.close()


@pytest.mark.parametrize("fault", [KILL, RAISE, GARBAGE, CLOSE_PIPE])
def test_faults_are_seen_while_spinning(many_cores, fault):
    """In the very step, as by the link."""
    makers = [partial(FaultyGame, number, 10**6) for number in range(2)]
    envs = ResilientAsyncVectorEnv(makers, start_method="fork", reduce_after=0, spin_microseconds=1000, close_seconds=0)
    envs.reset()
    for _ in range(20):
        assert not envs.step([0, 0])[3].any()
    rows = envs.step([0, fault])
    assert rows[3].tolist() == [False, True] and rows[1].tolist() == [21, 0]
    envs.close()
