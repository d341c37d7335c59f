"""The envs of one worker: build, step, reset and call them, and report which of them failed and how.

It does not depend on processes; a vector env that has fallen back to its own process uses it too.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from background_training.envs import shared_arrays
from background_training.envs.shared_arrays import SharedBlock
from background_training.plain_values import one_number

EnvFactory = Callable[[], "gymnasium.Env[Any, Any]"]


def own_copy(value: Any) -> Any:
    """A copy of an observation or info that the env's next call cannot change.

    An env may return the same array or dict from every call. What outlasts the next call, of this env or of another that
    shares the buffer, has to be copied first. A value that refuses to be copied is returned as it is.
    """
    if type(value) is np.ndarray and value.dtype != object:
        return value.copy()
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  # __deepcopy__ and __reduce__ may be the env's own code and raise anything
        return value


@dataclass
class HostPlan:
    """What a worker is to host.

    factories: per env, the function that makes it, packed by cloudpickle.
    attributes: per env, what `set_attr` has set so far; a rebuilt env gets it again.
    incarnation: the worker's number in `SharedBlock.owner`; never 0.
    step_in_threads: whether the envs are stepped at the same time, in a thread each.
    """

    factories: dict[int, bytes]
    attributes: dict[int, dict[str, Any]]
    incarnation: int
    autoreset_mode: AutoresetMode
    step_in_threads: bool = False


@dataclass
class HostReport:
    """What a step or reset reports beyond the shared numbers.

    infos: per env, its info if it is not empty.
    observations: per env, if they don't fit into shared memory.
    faults: per env that failed, the traceback.
    rebuilt: those of the failed that have been rebuilt in the same process.
    in_reset: those of the failed that were being reset, not stepped.
    """

    infos: dict[int, dict[str, Any]] = field(default_factory=dict)
    observations: dict[int, Any] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    rebuilt: list[int] = field(default_factory=list)
    in_reset: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.infos or self.observations or self.faults)

    def add(self, other: HostReport) -> None:
        """Add the report of other envs."""
        self.infos.update(other.infos)
        self.observations.update(other.observations)
        self.faults.update(other.faults)
        self.rebuilt += other.rebuilt
        self.in_reset += other.in_reset


class EnvHost:
    """Hosts the envs of a plan."""

    def __init__(self, plan: HostPlan) -> None:
        self._plan = plan
        self.envs: dict[int, gymnasium.Env[Any, Any]] = {}
        self._needs_reset: dict[int, bool] = {}
        in_threads = plan.step_in_threads and len(plan.factories) > 1
        self._threads = ThreadPoolExecutor(len(plan.factories) - 1, "env") if in_threads else None

    def build(self) -> None:
        """Build every env; `building` is the one under way."""
        for index in self._plan.factories:
            self.building = index
            self._build(index)

    def _build(self, index: int) -> None:
        env = cloudpickle.loads(self._plan.factories[index])()
        for name, value in self._plan.attributes.get(index, {}).items():
            env.set_wrapper_attr(name, value)
        self.envs[index] = env
        self._needs_reset[index] = False

    def attach(self, block: SharedBlock) -> None:
        """Connect to the memory that observations, actions and results go through."""
        self._incarnation = self._plan.incarnation
        self._owner, self._progress = memoryview(block.owner), memoryview(block.progress)
        self._rewards, self._hold = memoryview(block.rewards), memoryview(block.hold)
        self._terminations, self._truncations = memoryview(block.terminations), memoryview(block.truncations)
        self._read_action = shared_arrays.row_reader(block.actions) if block.actions is not None else None
        self._writers = tuple(shared_arrays.row_writer(rows) for rows in block.observations or ())

    def step(self, buffer: int, actions: dict[int, Any] | None = None) -> HostReport | None:
        """Step every env whose row is ours; an env whose episode is over is reset according to the autoreset mode.

        Returns what is to be reported beyond the shared numbers, or None. Where many workers share a core, each finds
        cold caches, so that needless memory accesses here cost several times the usual.

        Args:
            buffer: which of the alternating observation batches to write to.
            actions: per env, where the action space has no fixed size; otherwise they lie in shared memory.
        """
        if self._threads is None:
            return self._step(self.envs, buffer, actions)
        *others, last = self.envs.items()
        under_way = [self._threads.submit(self._step, dict([env]), buffer, actions) for env in others]
        report = self._step(dict([last]), buffer, actions) or HostReport()
        for future in under_way:
            report.add(future.result() or HostReport())
        return report or None

    def _step(self, envs: dict[int, gymnasium.Env[Any, Any]], buffer: int, actions: dict[int, Any] | None) -> HostReport | None:
        report = None
        owner, ours, progress = self._owner, self._incarnation, self._progress
        rewards: Any = self._rewards
        terminations, truncations = self._terminations, self._truncations
        needs_reset, read_action = self._needs_reset, self._read_action
        write = self._writers[buffer] if self._writers else None
        for index, env in envs.items():
            if owner[index] != ours:
                continue
            calls = progress[index] & 0x7FFFFFFE
            progress[index] = calls + 1
            try:
                action = read_action(index) if actions is None else actions[index]  # type: ignore[misc]
                if needs_reset[index]:  # only in NEXT_STEP mode
                    observation, info = env.reset()
                    reward, terminated, truncated = cast("tuple[Any, Any, Any]", (0.0, False, False))
                    needs_reset[index] = False
                else:
                    observation, reward, terminated, truncated, info = env.step(action)
                    if terminated or truncated:
                        observation, info = self._end_episode(index, env, observation, info)
                if write is not None:
                    write(index, observation)
                else:
                    report = report or HostReport()
                    report.observations[index] = own_copy(observation)
                rewards[index] = reward if type(reward) is float else one_number(reward)
                terminations[index] = terminated
                truncations[index] = truncated
                if info:
                    report = report or HostReport()
                    report.infos[index] = own_copy(info)
            # A game may raise anything. It becomes a fault that is counted and reported, and the env is rebuilt.
            except Exception:  # noqa: BLE001
                report = report or HostReport()
                later = self._plan.autoreset_mode is AutoresetMode.NEXT_STEP
                if needs_reset[index]:
                    report.in_reset.append(index)
                if self._fail(index, report, reset_later=later) and not later:
                    self._retry_reset(index, buffer, None, None, report)
            progress[index] = calls + 2
        return report

    def _end_episode(
        self, index: int, env: gymnasium.Env[Any, Any], observation: Any, info: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        mode = self._plan.autoreset_mode
        if mode is AutoresetMode.NEXT_STEP:
            self._needs_reset[index] = True
        elif mode is AutoresetMode.SAME_STEP and not self._hold[index]:
            final_obs, final_info = own_copy(observation), own_copy(info)
            first, first_info = env.reset()
            return first, {"final_info": final_info, "final_obs": final_obs, **first_info}
        return observation, info

    def reset(self, buffer: int, seeds: dict[int, int | None], options: dict[str, Any] | None) -> HostReport:
        """Reset the named envs, each with its seed, into an observation batch."""
        report = HostReport()
        for index, seed in seeds.items():
            calls = self._progress[index] & 0x7FFFFFFE
            self._progress[index] = calls + 1
            try:
                self._reset_one(index, buffer, seed, options, report)
            except Exception:  # noqa: BLE001  # as in step
                report.in_reset.append(index)
                if self._fail(index, report, reset_later=False):
                    self._retry_reset(index, buffer, seed, options, report)
            self._progress[index] = calls + 2
        return report

    def _reset_one(self, index: int, buffer: int, seed: int | None, options: dict[str, Any] | None, report: HostReport) -> None:
        observation, info = self.envs[index].reset(seed=seed, options=options)
        self._needs_reset[index] = False
        if self._writers:
            self._writers[buffer](index, observation)
        else:
            report.observations[index] = own_copy(observation)
        if info:
            report.infos[index] = own_copy(info)

    def _fail(self, index: int, report: HostReport, *, reset_later: bool) -> bool:
        """Note the fault. Where there are other envs in this process, rebuild the env here, so that they can continue."""
        report.faults[index] = traceback.format_exc()
        if len(self.envs) == 1:
            return False
        with contextlib.suppress(Exception):  # a broken env may fail to close; the fault is noted already
            self.envs[index].close()
        try:
            self._build(index)
        except Exception:  # noqa: BLE001  # not rebuilt: the parent will replace the whole worker
            report.faults[index] += "\nand while it was rebuilt:\n" + traceback.format_exc()
            return False
        self._needs_reset[index] = reset_later
        if reset_later:
            report.rebuilt.append(index)
        return True

    def _retry_reset(self, index: int, buffer: int, seed: int | None, options: dict[str, Any] | None, report: HostReport) -> None:
        try:
            self._reset_one(index, buffer, seed, options, report)
        except Exception:  # noqa: BLE001  # twice is enough: the parent will replace the whole worker
            report.faults[index] += "\nand again in the rebuilt env:\n" + traceback.format_exc()
            return
        report.rebuilt.append(index)

    def call(self, name: str, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of an env, or read an attribute, through its wrappers."""
        value = self.envs[index].get_wrapper_attr(name)
        return value(*args, **kwargs) if callable(value) else value

    def set_attr(self, name: str, index: int, value: Any) -> None:
        """Set an attribute of an env, through its wrappers; a rebuilt env gets it again."""
        self.envs[index].set_wrapper_attr(name, value)
        self._plan.attributes.setdefault(index, {})[name] = value

    def close(self) -> None:
        """Close every env, also after one that fails to."""
        for env in self.envs.values():
            try:
                env.close()
            except Exception:  # noqa: BLE001  # the process ends next
                traceback.print_exc()
