"""The choice of a vector env for given envs: in this process, one worker per env, or several envs per worker.

How many workers pay is found by measuring what a step of one env costs, and whether it works or waits.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.vector import SyncVectorEnv, VectorEnv

from background_training.envs import vector_settings
from background_training.envs.env_host import EnvFactory
from background_training.envs.resilient_game import ResilientGame
from background_training.envs.vector_env import ResilientAsyncVectorEnv
from background_training.envs.vector_settings import VectorSettings, usable_cores
from background_training.errors import SettingsError, WorkerError

log = logging.getLogger(__name__)

MODES = ("auto", "sync", "async", "pool")
_SYNC_OPTIONS = ("copy", "observation_mode", "autoreset_mode")

WORTH_A_WORKER_SECONDS = 200e-6
"""Work of all envs of a worker in one step below which another worker is cheaper: to wake a second worker costs 20 us where a
core is idle, and all of its work where the scheduler queues it behind the first one."""

_LONGEST_SECONDS = 0.2
_MOST_STEPS = 200


def make_vector_env(
    env_fns: Sequence[EnvFactory], mode: str = "auto", *, preset: str | None = None, **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Make a vector env.

    Args:
        env_fns: functions that make the envs.
        mode: sync: in this process, exceptions end episodes. async: one worker per env. pool: one worker per core.
            auto: one env means sync; otherwise one env is measured in a process of its own: envs that wait get a
            worker each; envs that work share one per core, or fewer where their steps are cheaper than waking it.
        preset: conservative, balanced or aggressive; sized by the machine at hand.
        options: those of ResilientAsyncVectorEnv; they override the preset.

    Raises:
        SettingsError: an unknown mode, preset or option.
        ValueError: no env_fns.
    """
    if mode not in MODES:
        raise SettingsError("mode", mode, "one of " + ", ".join(MODES) + " is needed", "make_vector_env")
    if preset is not None:
        chosen = vector_settings.preset(preset, len(env_fns), vector_settings.this_machine())
        options = {"settings": chosen, **options}
    if mode == "sync" or (mode == "auto" and len(env_fns) == 1):
        return _in_process(env_fns, options)
    workers = _workers(env_fns, mode, options)
    return ResilientAsyncVectorEnv(env_fns, **{**options, "num_workers": workers})


def _workers(env_fns: Sequence[EnvFactory], mode: str, options: dict[str, Any]) -> int:
    """How many workers; 0: one per env."""
    if "num_workers" in options:
        return int(options["num_workers"])
    settings: VectorSettings | None = options.get("settings")
    if mode == "async" or not env_fns:
        return 0
    shared = usable_cores() if settings is None or not settings.num_workers else settings.num_workers
    if mode == "pool":
        return shared
    kept = {name: value for name, value in options.items() if name in VectorSettings.__dataclass_fields__}
    try:
        cost = measure_step(env_fns[0], settings=settings, **kept)
    except WorkerError as error:
        log.warning("an env could not be measured, so each gets a worker of its own: %s", error)
        return 0
    log.info("a step takes %.0f us, waits in %.0f %% of steps", cost.wall_seconds * 1e6, 100 * min(1.0, cost.waiting_share))
    return 0 if cost.waits else cost.workers_for(len(env_fns), shared)


class InProcessVectorEnv(SyncVectorEnv[Any, Any]):
    """Gymnasium's SyncVectorEnv over ResilientGames, with a `health()` like the others'."""

    def health(self) -> dict[str, Any]:
        """How many exceptions the games have raised."""
        errors = [env.errors for env in self.envs if isinstance(env, ResilientGame)]
        return {
            "failures": sum(errors),
            "failures_by_env": errors,
            "envs": self.num_envs,
            "in_process": list(range(self.num_envs)),
        }


def _in_process(env_fns: Sequence[EnvFactory], options: dict[str, Any]) -> InProcessVectorEnv:
    VectorSettings().with_options(**{name: value for name, value in options.items() if name not in (*_SYNC_OPTIONS, "settings")})
    if not env_fns:
        raise ValueError("there are no env_fns; at least one is needed")
    kept = {name: value for name, value in options.items() if name in _SYNC_OPTIONS}
    return InProcessVectorEnv([lambda make=make: ResilientGame(make(), rebuild=make) for make in env_fns], **kept)  # type: ignore[misc]


@dataclass(frozen=True)
class StepCost:
    """wall_seconds and work_seconds (of processors) per step, and the share of steps in which the env gave its core away."""

    wall_seconds: float
    work_seconds: float
    waiting_share: float

    @property
    def waits(self) -> bool:
        """Whether many envs at once take hardly more time than one, as with a game server or a simulator elsewhere."""
        return self.waiting_share > 0.5

    def workers_for(self, envs: int, at_most: int) -> int:
        """How many workers pay for this many envs of this kind, which share them."""
        return max(1, min(at_most, int(envs * self.work_seconds / WORTH_A_WORKER_SECONDS)))


class ProbedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env that can measure its own steps."""

    def measure_steps(self) -> StepCost:
        """Step with random actions for a moment."""
        self.reset(seed=0)
        self.action_space.seed(0)
        actions = [
            self.action_space.sample() for _ in range(_MOST_STEPS)
        ]  # drawn before the clock starts: a draw may cost as much as a step
        steps, switches, start, worked = 0, _voluntary_switches(), time.perf_counter(), time.process_time()
        while steps < _MOST_STEPS and time.perf_counter() - start < _LONGEST_SECONDS:
            _, _, terminated, truncated, _ = self.step(actions[steps])
            steps += 1
            if terminated or truncated:
                self.reset()
        wall, work = time.perf_counter() - start, time.process_time() - worked
        return StepCost(wall / steps, work / steps, (_voluntary_switches() - switches) / steps)


def _voluntary_switches() -> float:
    # By its processor time a game that merely shares its core with others would look like a waiting one.
    if sys.platform == "linux":
        usage = importlib.import_module("resource")
        return float(usage.getrusage(usage.RUSAGE_THREAD).ru_nvcsw)
    return (time.perf_counter() - time.process_time()) * 1000.0


def measure_step(factory: EnvFactory, **options: Any) -> StepCost:
    """Measure one env of a factory in a process of its own.

    Raises:
        WorkerError: it can't be built, or fails while it is measured.
    """
    envs = ResilientAsyncVectorEnv([lambda: ProbedEnv(factory())], **{**options, "restarts_per_env": 0, "on_exhausted": "raise"})
    try:
        cost: StepCost = envs.call("measure_steps")[0]
    finally:
        envs.close()
    return cost
