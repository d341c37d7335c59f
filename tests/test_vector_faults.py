"""Workers that die, hang, raise, leak and send garbage: their envs come back, the others lose nothing."""

from __future__ import annotations

import os
import threading
from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from vector_fixtures import is_back, nothing_left_behind, step_until  # noqa: F401
from vector_games import CLOSE_PIPE, FAULTS, GARBAGE, KILL, LEAK, LOOP, NORMAL, RAISE, STOP, BuildFault, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv, StableProcessPoolEnv
from background_training.errors import EnvCallError, RestartBudgetError

pytestmark = pytest.mark.slow  # real processes

NEVER_REST = {"reduce_after": 0}
HASTY = {"step_seconds": 2.0, "reset_seconds": 2.0}
"""Only what hangs needs a time limit to be found out: a machine that is busy might let any other worker run into one too."""
REASONS = {
    "kill": "SIGKILL",
    "segfault": "SIGSEGV",
    "stop": "hung",
    "exit": "exit code 7",
    "raise": "game 1 has had enough",
    "loop": "hung",
    "leak": "memory",
    "garbage": "garbled pipe",
    "closed pipe": ("exit code", "broken pipe"),
}


def games(count, **options):
    return [partial(FaultyGame, number, 10**6, **options) for number in range(count)]


def actions(count, **faults):
    chosen = np.zeros(count, int)
    for name, fault in faults.items():
        chosen[int(name[1:])] = fault
    return chosen


def limits_for(fault):
    """The limits that find such a fault out."""
    found_out_by = {STOP: HASTY, LOOP: HASTY, LEAK: {"memory_limit_bytes": 300 << 20}}
    return NEVER_REST | found_out_by.get(fault, {})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", FAULTS)
def test_one_worker_fails_and_the_others_step_on(name, mode):
    """The row says so and invents nothing; the env is back in a new process; no other env notices."""
    envs = ResilientAsyncVectorEnv(games(3), autoreset_mode=mode, **limits_for(FAULTS[name]))
    first, _ = envs.reset(seed=1)
    good = envs.step(actions(3))[0]
    observations, rewards, terminations, truncations, infos = envs.step(actions(3, e1=FAULTS[name]))
    np.testing.assert_array_equal(observations[1], good[1])
    assert rewards.tolist() == [2, 0, 2]
    assert truncations.tolist() == [False, True, False] and not terminations.any()
    assert infos["worker_restarted"].tolist() == [False, True, False]
    reasons = REASONS[name] if isinstance(REASONS[name], tuple) else (REASONS[name],)
    assert any(reason in infos["restart_reason"][1] for reason in reasons)
    back = step_until(envs, is_back(1), actions(3))[0]
    assert back[1, 1] != first[1, 1], "a new process"
    assert back[1, 3] <= 1, "a new episode"
    assert (back[[0, 2], 1] == first[[0, 2], 1]).all(), "the same processes"
    assert (back[[0, 2], 2] == 1).all(), "the same episodes"
    assert back[0, 3] == back[2, 3] > 2, "which went on"
    envs.close()


def test_forked_workers_are_replaced_too():
    """The other start method recovers the same way, from a death and from a worker that runs and has to be killed."""
    envs = ResilientAsyncVectorEnv(games(2), start_method="fork", **NEVER_REST)
    envs.reset()
    for fault in (KILL, GARBAGE):
        assert envs.step(actions(2, e0=fault))[3].tolist() == [True, False]
        step_until(envs, is_back(0), actions(2))
    envs.close()


def test_two_faults_at_once_are_two_restarts():
    """Even half of all workers in one step."""
    envs = ResilientAsyncVectorEnv(games(4), **NEVER_REST)
    envs.reset()
    results = envs.step(actions(4, e0=KILL, e2=RAISE))
    assert results[3].tolist() == [True, False, True, False]
    results = step_until(envs, is_back(), actions(4))
    assert results[0][1, 3] == results[0][3, 3] > 1
    assert envs.health()["restarts"] == 2
    envs.close()


@pytest.mark.parametrize("fault", [KILL, RAISE, LOOP, CLOSE_PIPE])
def test_a_fault_within_reset_is_waited_for(fault, tmp_path):
    """reset returns a first observation of every env, the failed one's from a new process."""
    marker = tmp_path / "fail once"
    makers = [partial(FaultyGame, number, 10**6, reset_fault=str(marker) if number else "", fault=fault) for number in range(2)]
    envs = ResilientAsyncVectorEnv(makers, **limits_for(fault))
    marker.touch()
    observations, infos = envs.reset(seed=3)
    assert observations[:, 3].tolist() == [0, 0]
    assert infos["worker_restarted"].tolist() == [False, True]
    assert not envs.step(actions(2))[3].any()
    envs.close()


@pytest.mark.parametrize("fault", [KILL, RAISE, LOOP])
def test_a_fault_while_an_env_is_built_is_tried_again(fault, tmp_path):
    """Construction, too, may fail once."""
    marker = tmp_path / "fail once"
    marker.touch()
    # Only the loop needs a time limit to be seen; forked, no other worker has so much to do at its start that it needs long.
    limits = {"start_seconds": 3.0, "backoff_limit_seconds": 0.1, "start_method": "fork"} if fault == LOOP else {}
    envs = ResilientAsyncVectorEnv([FaultyGame, partial(BuildFault, 1, str(marker), fault)], reduce_after=0, **limits)
    envs.reset()
    assert envs.step(actions(2))[1].tolist() == [1, 1]
    assert not marker.exists()
    assert envs.health()["failures"] == 1 or fault == LOOP
    envs.close()


def test_a_crash_loop_is_named_with_the_last_words(tmp_path):
    """A factory that always fails ends as one error with env, count, reason, traceback; nothing stays behind."""
    marker = tmp_path / "always"
    marker.touch()
    makers = [FaultyGame, partial(BuildFault, 1, str(marker), RAISE, always=True)]
    with pytest.raises(RestartBudgetError, match=r"env 1 failed again after 2 restarts(.|\n)*has had enough"):
        ResilientAsyncVectorEnv(makers, restarts_per_env=2, same_fault_limit=0, backoff_seconds=0.01)
    with pytest.raises(RestartBudgetError, match=r"exit code 7(.|\n)*building goes wrong"):
        ResilientAsyncVectorEnv([partial(BuildFault, 1, str(marker), FAULTS["exit"], always=True)], restarts_per_env=1)


def test_when_the_budget_is_spent_it_raises():
    """And the vector env can still be closed, or used without that env."""
    envs = ResilientAsyncVectorEnv(games(2), restarts_per_env=0, **NEVER_REST)
    envs.reset()
    with pytest.raises(RestartBudgetError, match="SIGKILL"):
        envs.step(actions(2, e0=KILL))
    assert envs.step(actions(2))[4]["restart_phase"].tolist() == ["lost", None]
    envs.close()


def test_when_the_budget_is_spent_it_shrinks():
    """The lost env's row is masked for good; the last env's loss is an error."""
    envs = ResilientAsyncVectorEnv(games(2), restarts_per_env=0, on_exhausted="shrink", **NEVER_REST)
    envs.reset()
    assert envs.step(actions(2, e0=KILL))[3].tolist() == [True, False]
    for _ in range(3):
        results = envs.step(actions(2))
        assert results[4]["restart_phase"][0] == "lost" and not results[3].any(), "its one cut episode was the last"
    assert envs.active.tolist() == [False, True]
    observations, infos = envs.reset()
    assert infos["restart_phase"][0] == "lost" and observations[1, 3] == 0
    assert list(envs.health()["lost"]) == [0]
    assert envs.call("double", 1) == (None, 2)
    with pytest.raises(RestartBudgetError):
        envs.step(actions(2, e1=KILL))
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_when_the_budget_is_spent_it_falls_back_into_this_process(mode):
    """The env continues here, and its row is valid."""
    envs = ResilientAsyncVectorEnv(games(2), restarts_per_env=0, on_exhausted="sync", autoreset_mode=mode, **NEVER_REST)
    envs.reset(seed=1)
    assert envs.step(actions(2, e0=KILL))[3].tolist() == [True, False]
    results = step_until(envs, is_back(0), actions(2))
    assert results[0][0, 1] == os.getpid()
    assert envs.call("double", 1) == (2, 2)
    envs.set_attr("colour", "blue")
    assert envs.get_attr("colour") == ("blue", "blue")
    assert envs.reset(seed=2)[0][:, 3].tolist() == [0, 0]
    assert envs.step(actions(2))[1].tolist() == [1, 1]
    with pytest.raises(RestartBudgetError, match="in this process too"):
        envs.step(actions(2, e0=RAISE))
    envs.close()


@pytest.mark.parametrize("in_threads", [False, True])
def test_an_exception_costs_the_neighbours_in_its_worker_nothing(in_threads):
    """Several envs in one process: only the one that raised is rebuilt, at once."""
    envs = StableProcessPoolEnv(games(4), max_workers=2, reduce_after=0, step_in_threads=in_threads)
    envs.reset()
    envs.step(actions(4))
    results = envs.step(actions(4, e1=RAISE))
    assert results[3].tolist() == [False, True, False, False]
    assert results[1].tolist() == [2, 0, 2, 2]
    results = envs.step(actions(4))
    assert results[0][:, 3].tolist() == [3, 0, 3, 3] and not results[3].any()
    assert envs.health()["rebuilt_in_place"] == 1
    envs.close()


class Meeting(FaultyGame):
    """A game whose step ends when another game of the same process is in its step as well."""

    both = threading.Barrier(2, timeout=10)

    def step(self, action):
        self.both.wait()
        return super().step(action)


def test_envs_that_wait_can_be_stepped_at_the_same_time_in_one_worker():
    """With step_in_threads no env of a worker waits for another one's step to end."""
    makers = [partial(Meeting, number, 10**6) for number in range(2)]
    envs = ResilientAsyncVectorEnv(makers, num_workers=1, step_in_threads=True)
    envs.reset()
    assert [envs.step(actions(2))[1].tolist() for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]
    envs.close()


def test_a_death_in_a_pool_takes_the_neighbours_episodes_and_no_others():
    """The price of several envs per worker, as documented; the culprit is the env whose code ran."""
    envs = StableProcessPoolEnv(games(4), max_workers=2, **NEVER_REST)
    envs.reset()
    results = envs.step(actions(4, e3=KILL))
    assert results[3].tolist() == [False, False, True, True]
    assert envs.health()["recent_failures"][0]["env"] == 3
    results = step_until(envs, is_back(), actions(4))
    assert results[0][2:, 3].tolist() == [0, 0]
    envs.close()


def test_a_worker_lost_over_a_call_is_an_error_of_that_call_only():
    """There is no honest answer to give; the next call has one."""
    envs = ResilientAsyncVectorEnv(games(2), **NEVER_REST)
    envs.reset()
    with pytest.raises(EnvCallError, match="_misbehave has no answer from env 0"):
        envs.call("_misbehave", KILL)
    assert envs.call("double", 1) == (2, 2)
    envs.set_attr("colour", ["red", "blue"])
    envs.step(actions(2, e1=KILL))
    assert envs.get_attr("colour") == ("red", "blue"), "a rebuilt env has what set_attr has set"
    envs.close()


def test_waiting_for_restarts_leaves_no_masked_rows():
    """With wait_for_restart there is the fault's row and then the first observation, nothing between."""
    envs = ResilientAsyncVectorEnv(games(2), wait_for_restart=True, **NEVER_REST)
    envs.reset()
    assert envs.step(actions(2, e0=KILL))[3].tolist() == [True, False]
    results = envs.step(actions(2))
    assert results[3].tolist() == [False, False] and results[0][:, 3].tolist() == [0, 2]
    envs.close()


def test_disabled_autoreset_leaves_a_failed_env_to_the_callers_reset():
    """One truncated row, then rows that say so until it is reset; that reset waits for the new worker."""
    envs = ResilientAsyncVectorEnv(games(2), autoreset_mode="Disabled", **NEVER_REST)
    envs.reset()
    assert envs.step(actions(2, e1=KILL))[3].tolist() == [False, True]
    for _ in range(3):
        results = envs.step(actions(2))
        assert not results[3].any() and results[4]["worker_restarted"].tolist() == [False, True]
    observations, infos = envs.reset(seed=[None, 7], options={"reset_mask": np.array([False, True])})
    assert observations[:, 3].tolist() == [4, 0]
    assert infos["worker_restarted"].tolist() == [False, True]
    assert envs.step(actions(2))[1].tolist() == [5, 1]
    envs.close()


def test_the_same_seed_gives_the_same_rebuilt_env(tmp_path):
    """A seeded run stays repeatable through restarts, and never plays the same episode twice for it."""
    draws = []
    for _ in range(2):
        envs = ResilientAsyncVectorEnv(games(1), **NEVER_REST)
        envs.reset(seed=11)
        before = envs.get_attr("np_random")[0].random()
        envs.step([KILL])
        step_until(envs, is_back(0), [NORMAL])
        draws.append((before, envs.get_attr("np_random")[0].random()))
        envs.close()
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
