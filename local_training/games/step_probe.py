"""What a step of an env costs, and whether it works or waits; measured in a worker, since it may do anything."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from typing import Any

import gymnasium

from local_training.games.env_host import EnvFactory
from local_training.games.vector_env import ResilientAsyncVectorEnv

_LONGEST_SECONDS = 0.2
_MOST_STEPS = 200


@dataclass(frozen=True)
class StepCost:
    """wall_seconds per step, and the share of steps in which the env gave its core away."""

    wall_seconds: float
    waiting_share: float

    @property
    def waits(self) -> bool:
        """Whether many envs at once cost hardly more time than one: a game server, a simulator elsewhere."""
        return self.waiting_share > 0.5


class ProbedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env that can measure its own steps."""

    def measure_steps(self) -> StepCost:
        """Step with random actions for a moment."""
        self.reset(seed=0)
        self.action_space.seed(0)
        steps, switches, start = 0, _voluntary_switches(), time.perf_counter()
        while steps < _MOST_STEPS and time.perf_counter() - start < _LONGEST_SECONDS:
            _, _, terminated, truncated, _ = self.step(self.action_space.sample())
            steps += 1
            if terminated or truncated:
                self.reset()
        wall = time.perf_counter() - start
        return StepCost(wall / steps, (_voluntary_switches() - switches) / steps)


def _voluntary_switches() -> float:
    # Processor time would call a game that merely shares its core with others a waiting one.
    if sys.platform == "linux":
        usage = importlib.import_module("resource")
        return float(usage.getrusage(usage.RUSAGE_THREAD).ru_nvcsw)
    return (time.perf_counter() - time.process_time()) * 1000.0


def measure(factory: EnvFactory, **options: Any) -> StepCost:
    """Measure one env of a factory in a process of its own.

    Raises:
        WorkerError: it can't be built, or fails on the way.
    """
    envs = ResilientAsyncVectorEnv([lambda: ProbedEnv(factory())], **{**options, "restarts_per_env": 0, "on_exhausted": "raise"})
    try:
        cost: StepCost = envs.call("measure_steps")[0]
    finally:
        envs.close()
    return cost
