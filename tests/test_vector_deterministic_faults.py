"""An env that can't be built or reset is given up after the third time; one that fails now and then is not."""

from __future__ import annotations

import pickle
import time
from functools import partial

import numpy as np
import pytest
from conftest import PROMPT_SECONDS
from gymnasium.vector import AutoresetMode
from vector_fixtures import nothing_left_behind  # noqa: F401
from vector_games import END, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv
from background_training.errors import RepeatedFaultError, RestartBudgetError

pytestmark = pytest.mark.slow  # real processes

OPTIONS = {"start_method": "fork", "reduce_after": 0}


def impossible(message="no such map"):
    raise FileNotFoundError(f"{message} ({time.monotonic()})")


class BadReset(FaultyGame):
    """`reset` raises where it is asked to; the message is another one each time."""

    def __init__(self, number=0, *, when="always", log=""):
        super().__init__(number, 10**6)
        self.when, self.resets, self.attempts = when, 0, log

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        asked = (options or {}).get("map") == "missing"
        if self.when == "always" or (self.when == "asked" and asked) or (self.when == "later" and self.resets > 1):
            raise KeyError(f"no map {time.monotonic()}")
        if self.when == "twice":
            with open(self.attempts, "a+", encoding="utf-8") as file:
                file.write("x")
                file.seek(0)
                if len(file.read()) <= 2:
                    raise KeyError("not yet")
        return super().reset(seed=seed)


def assert_given_up(caught, env, frame, begun):
    error = caught.value
    assert error.env == env and "without a step between" in str(error)
    assert "Traceback" in error.details and frame in error.details and frame in str(error)
    assert isinstance(error, RestartBudgetError) and str(pickle.loads(pickle.dumps(error))) == str(error)
    assert time.monotonic() - begun < PROMPT_SECONDS


@pytest.mark.parametrize("workers", [0, 1])
def test_a_factory_that_always_raises_ends_the_start(workers):
    """The right env is named, also where one worker hosts all, with the traceback of its factory."""
    begun = time.monotonic()
    with pytest.raises(RepeatedFaultError, match="FileNotFoundError: no such map") as caught:
        ResilientAsyncVectorEnv([FaultyGame, impossible], num_workers=workers, **OPTIONS)
    assert_given_up(caught, 1, "in impossible", begun)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("when", ["always", "asked"])
def test_a_reset_that_always_raises_ends_the_reset(when, workers):
    """Whatever it is asked, or only for these options: then each new worker's own first reset succeeds."""
    envs = ResilientAsyncVectorEnv([FaultyGame, partial(BadReset, 1, when=when)], num_workers=workers, **OPTIONS)
    begun = time.monotonic()
    with pytest.raises(RepeatedFaultError, match="KeyError") as caught:
        envs.reset(seed=1, options={"map": "missing"})
    assert_given_up(caught, 1, "in reset", begun)
    assert envs.health()["restarts_spent"] <= 3
    envs.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_it_is_given_up_as_the_setting_says(workers):
    """With "shrink" the run continues without the env."""
    makers = [FaultyGame, partial(BadReset, 1)]
    envs = ResilientAsyncVectorEnv(makers, num_workers=workers, on_exhausted="shrink", **OPTIONS)
    _, infos = envs.reset(seed=1)
    assert infos["restart_phase"][1] == "lost" and envs.row_states == ["live", "lost"]
    assert envs.step([0, 0])[1].tolist() == [1, 0]
    envs.close()


def test_twice_is_bad_luck(tmp_path):
    """The third attempt succeeds, and nothing is given up."""
    envs = ResilientAsyncVectorEnv([partial(BadReset, when="twice", log=str(tmp_path / "attempts"))], **OPTIONS)
    envs.reset(seed=1)
    assert envs.step([0])[1].tolist() == [1]
    envs.close()


def test_an_env_that_plays_between_its_failures_goes_on():
    """Every second reset of each new env fails, but it has played an episode by then."""
    envs = ResilientAsyncVectorEnv(
        [partial(BadReset, when="later")], wait_for_restart=True, autoreset_mode=AutoresetMode.NEXT_STEP, **OPTIONS
    )
    envs.reset(seed=1)
    for _ in range(5):
        for action in (0, 0, 0, END):
            envs.step([action])
        results = envs.step([0])
        assert results[4]["restart_phase"][0] == "fault"
        assert envs.step([0])[0][0, 3] == 0
    envs.close()


def test_the_limit_is_a_setting():
    """0 leaves it to the restart budget."""
    with pytest.raises(RestartBudgetError, match="failed again after 4 restarts") as caught:
        ResilientAsyncVectorEnv([impossible], same_fault_limit=0, restarts_per_env=4, backoff_seconds=0.0, **OPTIONS)
    assert not isinstance(caught.value, RepeatedFaultError)
    assert np.isfinite(caught.value.restarts)
