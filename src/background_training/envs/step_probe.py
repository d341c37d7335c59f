"""What a step of an env costs, and whether it works or waits; measured in a worker, since it may do anything."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from typing import Any

import gymnasium

from background_training.envs.env_host import EnvFactory
from background_training.envs.vector_env import ResilientAsyncVectorEnv

WORTH_A_WORKER_SECONDS = 200e-6
"""Work of all envs of a worker in one step below which it is cheaper to give it to another: to wake a second worker costs
some 20 us where a core waits for it, and the whole of its work where the scheduler puts it behind the first one."""

_LONGEST_SECONDS = 0.2
_MOST_STEPS = 200


@dataclass(frozen=True)
class StepCost:
    """wall_seconds and work_seconds (of processors) per step, and the share of steps in which the env gave its core away."""

    wall_seconds: float
    work_seconds: float
    waiting_share: float

    @property
    def waits(self) -> bool:
        """Whether many envs at once cost hardly more time than one: a game server, a simulator elsewhere."""
        return self.waiting_share > 0.5

    def workers_for(self, envs: int, at_most: int) -> int:
        """How many workers are worth it for so many envs of this kind, which share them."""
        return max(1, min(at_most, int(envs * self.work_seconds / WORTH_A_WORKER_SECONDS)))


class ProbedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env that can measure its own steps."""

    def measure_steps(self) -> StepCost:
        """Step with random actions for a moment."""
        self.reset(seed=0)
        self.action_space.seed(0)
        actions = [self.action_space.sample() for _ in range(_MOST_STEPS)]  # not on the clock: to draw may cost as much as a step
        steps, switches, start, worked = 0, _voluntary_switches(), time.perf_counter(), time.process_time()
        while steps < _MOST_STEPS and time.perf_counter() - start < _LONGEST_SECONDS:
            _, _, terminated, truncated, _ = self.step(actions[steps])
            steps += 1
            if terminated or truncated:
                self.reset()
        wall, work = time.perf_counter() - start, time.process_time() - worked
        return StepCost(wall / steps, work / steps, (_voluntary_switches() - switches) / steps)


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
