"""Gymnasium vector envs whose workers may die, hang, raise or send garbage: one is replaced, the others continue."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import logger
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from background_training.envs import shared_arrays, vector_spaces, worker_requests
from background_training.envs.env_host import EnvFactory, HostReport
from background_training.envs.row_states import RowFiller, RowState
from background_training.envs.shared_arrays import ObservationBatches
from background_training.envs.vector_settings import VectorSettings, usable_cores
from background_training.envs.worker_handle import WorkerFault
from background_training.envs.worker_requests import Answers
from background_training.envs.worker_supervisor import WorkerSupervisor
from background_training.errors import RestartBudgetError


class ResilientAsyncVectorEnv(VectorEnv[Any, Any, Any]):
    """Many games at once, in worker processes that are replaced when they fail.

    Promised: a failing worker costs its own envs their running episodes and the others nothing but the wait for its time limit;
    every row that an env has not really produced has `info["worker_restarted"]`; when this object or its process is gone, so are
    the workers and all shared memory. Not promised: that an env which fails in the same way each time ever works (the restart
    budget ends that), or that a rebuilt env continues its episode.

    Example:
        >>> import gymnasium as gym
        >>> envs = ResilientAsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
        >>> observations, infos = envs.reset(seed=42)
        >>> observations.shape
        (2, 4)
        >>> envs.close()
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFactory],
        *,
        copy: bool = True,
        observation_mode: str | tuple[Any, Any] = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        shared_memory: bool | None = None,
        settings: VectorSettings | None = None,
        **options: Any,
    ) -> None:
        """Start the workers and build the envs.

        Args:
            env_fns: functions that make the envs; lambdas and closures work.
            copy: whether observations are copies; otherwise they are valid until the step after the next.
            observation_mode: "same", "different" or a pair (batched space, single space), as Gymnasium's.
            autoreset_mode: as Gymnasium's.
            shared_memory: whether observations go through shared memory; None: where the space allows it.
            settings: everything else; `options` replace single values, e.g. `step_seconds=5`.

        Raises:
            SettingsError: an unknown option, or a value out of its range.
            ValueError: no env_fns, or shared memory is asked for and the observation space does not allow it.
            RuntimeError: the envs' spaces don't fit together.
            RestartBudgetError: an env can't be built.
        """
        self.settings = (settings or VectorSettings()).with_options(**options)
        self.env_fns = env_fns
        self.num_envs = len(env_fns)
        self.copy = copy
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        if not env_fns:
            raise ValueError("there are no env_fns; at least one is needed")
        memory = shared_arrays.make_shared_memory()
        groups = share_out(self.num_envs, self.settings.num_workers)
        self._workers = WorkerSupervisor(list(env_fns), groups, self.autoreset_mode, self.settings, memory)
        self._finalizer = weakref.finalize(self, _shut_down, self._workers, memory)
        try:
            spaces = vector_spaces.agree_on_spaces(self._workers, observation_mode, copy=copy, shared_memory=shared_memory)
        except BaseException:
            self._finalizer()
            raise
        self.metadata, self.render_mode = {**spaces.metadata, "autoreset_mode": self.autoreset_mode}, spaces.render_mode
        self.single_observation_space, self.observation_space = spaces.single_observation, spaces.observation
        self.single_action_space, self.action_space = spaces.single_action, spaces.action
        assert self._workers.block is not None
        self._block = self._workers.block
        self._batches = ObservationBatches(self._block.observations or (), copy=copy)
        self._filler = RowFiller(self._block, self._batches, self.autoreset_mode)
        self._state = AsyncState.DEFAULT
        self._step_number = 0
        self._answers = Answers(self._workers)
        self._pending: list[Any] | None = None
        self._begins_next_step: list[int] = []
        """Rows that the next step resets: in NEXT_STEP mode, those whose episode ended in this one."""

    # --- stepping

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every env with its action."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Send the actions and return at once; `step_wait` has the results.

        Raises:
            AlreadyPendingCallError: another call is not finished.
            ResetNeeded: the envs were never reset.
            ValueError, TypeError: the actions don't fit the action space.
        """
        self._assert_idle("step_async")
        workers = self._workers
        if not workers.was_reset:
            raise ResetNeeded("Cannot call `step` before calling `reset`")
        self._answers.begin()
        self._pending = None
        workers.steps += 1
        singles = None
        # Actions of a wider type than the space's (float64 for float32) reach the envs as they are, like Gymnasium's, by message.
        if self._block.actions is None or not shared_arrays.write_batch(self._block.actions, actions):
            singles = dict(enumerate(iterate(self.action_space, actions)))
        self._singles = singles
        self._step_number = number = self._step_number + 1
        batch = self._batches.advance()
        for handle in workers.stepping:
            try:
                if singles is None:
                    handle.ask_step(number, batch)
                else:
                    handle.send("step", batch, {index: singles[index] for index in handle.envs})
            except WorkerFault as fault:
                workers.fail(workers.slot_with(handle), handle, fault, time.monotonic())
        self._state = AsyncState.WAITING_STEP

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Wait for the results of `step_async`.

        Raises:
            NoAsyncCallError: there was no `step_async`.
            multiprocessing.TimeoutError: `timeout` seconds are over; the results can still be waited for.
            RestartBudgetError: an env fails again and again, and `on_exhausted` is "raise".
        """
        self._assert_waiting(AsyncState.WAITING_STEP, "step")
        workers = self._workers
        if self._pending is None:
            # quick_step waits for up to PATIENCE_SECONDS, which a caller's time limit might not allow.
            self._pending = list(workers.stepping) if timeout is not None else self._answers.quick_step()
        if self._pending:
            self._answers.wait(self._pending, "step", self.settings.step_seconds, timeout)
        self._state = AsyncState.DEFAULT
        report, buffer = self._answers.report, self._batches.present
        for local in workers.locals:
            worker_requests.step_local(workers, local, buffer, self._singles, report)
        now = time.monotonic()
        workers.inspect(now)
        unusual = self._fill_unusual_rows(buffer, report, now) if workers.busy else ()
        for index in self._begins_next_step:
            if index not in unusual:
                workers.rows[index].playing = True
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        # A row that was rebuilt within its worker is reset by the next step, too.
        rebuilt = [index for index in unusual if workers.rows[index].state is RowState.LIVE and not workers.rows[index].playing]
        self._begins_next_step = rebuilt if next_step else []
        if self._block.any_ended():
            ended = (self._block.terminations | self._block.truncations).nonzero()[0].tolist()
            ended = [index for index in ended if index not in unusual]
            if next_step:
                self._begins_next_step += ended
            self._end_episodes(ended, buffer, report, now)
        observations = self._batch(report.observations)
        infos = self._merge_infos(report.infos)
        workers.raise_if_spent()
        block = self._block
        return observations, block.rewards.copy(), block.terminations.copy(), block.truncations.copy(), infos

    def _fill_unusual_rows(self, buffer: int, report: HostReport, now: float) -> set[int]:
        """Write the rows that no worker has written, and advance restarts; returns which rows these are."""
        workers = self._workers
        # Rows first, then restarts: a fault of this step must appear in its row before a new episode begins there.
        unusual = [row for row in workers.rows if row.state is not RowState.LIVE]
        for row in unusual:
            info = self._filler.fill(row, buffer, report.observations)
            report.infos[row.index] = {**report.infos.get(row.index, {}), **info}
        workers.pump(now)
        if self.settings.wait_for_restart:
            worker_requests.wait_until(workers, lambda: not workers.awaited_rows())
        workers.refresh_stepping()
        return {row.index for row in unusual}

    def _end_episodes(self, finished: list[int], buffer: int, report: HostReport, now: float) -> None:
        """Count finished episodes, and assign their rows to a standby where there is one."""
        for index in finished:
            row = self._workers.rows[index]
            row.playing = self.autoreset_mode is AutoresetMode.SAME_STEP
            self._workers.count_episode(row)
            # A worker that was not yet asked to hold has begun the next episode already.
            begun = "final_obs" in report.infos.get(index, {})
            if begun or self.autoreset_mode is AutoresetMode.DISABLED or not self._workers.hand_over(row, now):
                continue
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = {
                    "final_info": report.infos.get(index, {}),
                    "final_obs": self._filler.present(row, buffer, report.observations),
                }
                report.infos[index] = {**final, **row.first_info}
                self._filler.put_first(row, buffer, report.observations)
            self._workers.refresh_stepping()

    # --- resetting

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every env, or those of `options["reset_mask"]`; waits for envs that are being rebuilt."""
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(self, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> None:
        """Send the resets and return at once; `reset_wait` has the results.

        Raises:
            AlreadyPendingCallError: another call is not finished.
            ValueError, TypeError: seeds or mask don't fit the envs.
        """
        self._assert_idle("reset_async")
        seeds = worker_requests.seed_list(seed, self.num_envs)
        options, mask = worker_requests.split_mask(options, self.num_envs)
        if not self._workers.was_reset and mask is not None and not mask.all():
            raise ResetNeeded("The first reset must be one of all envs, without `reset_mask`")
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        self._pending_reset = worker_requests.PendingReset(
            self._workers, {index: seeds[index] for index in chosen}, options, self._batches.advance()
        )
        self._pending_reset.send()
        self._state = AsyncState.WAITING_RESET

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for the results of `reset_async`.

        Raises:
            NoAsyncCallError: there was no `reset_async`.
            multiprocessing.TimeoutError: `timeout` seconds are over; the results can still be waited for.
            RestartBudgetError: an env fails again and again, and `on_exhausted` is "raise".
        """
        self._assert_waiting(AsyncState.WAITING_RESET, "reset")
        try:
            report = self._pending_reset.finish(timeout)
        except RestartBudgetError:
            self._state = AsyncState.DEFAULT  # this reset has no result to wait for; after a time limit it has
            raise
        self._state = AsyncState.DEFAULT
        buffer = self._batches.present
        self._begins_next_step = [index for index in self._begins_next_step if index not in self._pending_reset.done]
        for row in self._workers.rows:
            if row.index not in self._pending_reset.done:
                self._filler.keep(row, buffer, report.observations)
        self._workers.raise_if_spent()
        return self._batch(report.observations), self._merge_infos(report.infos)

    # --- calls, attributes, health, the end

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every env, or read an attribute; None for an env that was given up.

        Raises:
            EnvCallError: a worker was lost during the call. An exception of the method itself is raised as it is.
        """
        self._assert_idle("call")
        return worker_requests.call(self._workers, name, args, kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every env."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every env: one value for all, or a list or tuple with one for each. Rebuilt envs get it again."""
        self._assert_idle("set_attr")
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        worker_requests.set_attr(self._workers, name, list(values))

    def render(self) -> tuple[Any, ...]:
        """The frames of all envs."""
        return self.call("render")

    @property  # type: ignore[misc]  # Gymnasium's own vector envs read it from their envs too
    def np_random(self) -> Any:
        """The envs' random generators, as copies."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The envs' seeds."""
        return self.get_attr("np_random_seed")

    @property
    def active(self) -> Any:
        """[N] bool, which envs are being stepped; the others' rows are no experience."""
        return np.array([row.state is RowState.LIVE for row in self._workers.rows])

    @property
    def row_states(self) -> list[str]:
        """Per env: live, down (its worker is being replaced), ready (it is up, not yet stepped), rebuilt or lost."""
        return [row.state.value for row in self._workers.rows]

    def health(self) -> dict[str, Any]:
        """What has failed, what was done about it, and the present state of the workers; plain values."""
        return {**self._workers.tracker.snapshot(), **self._workers.summary()}

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the envs, for `timeout` seconds at most, and end all workers. It never fails because of a worker."""
        seconds = 0.0 if terminate else self.settings.close_seconds if timeout is None else timeout
        self._workers.shutdown(seconds)
        self._finalizer()
        # Last, as a warning may be an error; and a constructor that failed has left no state.
        pending = getattr(self, "_state", AsyncState.DEFAULT)
        if pending is not AsyncState.DEFAULT:
            logger.warn(f"Calling `close` while waiting for a pending call to `{pending.value}` to complete.")

    # --- helpers

    def _batch(self, observations: dict[int, Any]) -> Any:
        if self._block.observations is not None:
            return self._batches.hand_out()
        for index, observation in observations.items():
            self._workers.rows[index].last_observation = observation
        samples = [row.last_observation for row in self._workers.rows]
        empty: Any = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, samples, empty)

    def _merge_infos(self, infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for index in sorted(infos):
            merged = self._add_info(merged, infos[index], index)
        return merged

    def _assert_idle(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")
        if self._state is not AsyncState.DEFAULT:
            message = f"Calling `{name}` while waiting for a pending call to `{self._state.value}` to complete."
            raise AlreadyPendingCallError(message, str(self._state.value))

    def _assert_waiting(self, state: AsyncState, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")
        if self._state is not state:
            raise NoAsyncCallError(f"Calling `{name}_wait` without any prior call to `{name}_async`.", state.value)


class StableProcessPoolEnv(ResilientAsyncVectorEnv):
    """ResilientAsyncVectorEnv with several envs per worker.

    The same promises hold, with one difference: a worker that dies or hangs takes the running episodes of all its envs
    with it. An exception concerns only the env that raised it.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFactory],
        max_workers: int | None = None,
        timeout: float = 15.0,
        *,
        copy: bool = True,
        **options: Any,
    ) -> None:
        """Start the workers and build the envs.

        Args:
            env_fns: functions that make the envs.
            max_workers: worker processes, at most; None: one per core this process may use.
            timeout: seconds one env's step or reset may take.
            copy: as ResilientAsyncVectorEnv's.
            options: everything else ResilientAsyncVectorEnv takes.
        """
        workers = usable_cores() if max_workers is None else max_workers
        if workers < 1:
            raise ValueError(f"max_workers is {max_workers}; at least 1 is needed")
        limits = {"step_seconds": timeout, "reset_seconds": timeout, "num_workers": min(workers, max(1, len(env_fns)))}
        super().__init__(env_fns, copy=copy, **{**limits, **options})


def share_out(count: int, workers: int) -> list[list[int]]:
    """Which envs each worker hosts: as evenly as can be, neighbours together; 0 workers: one per env."""
    workers = min(workers, count) or count
    return [list(range(number * count // workers, (number + 1) * count // workers)) for number in range(workers)]


def _shut_down(workers: WorkerSupervisor, memory: Any) -> None:
    workers.shutdown(0.0)
    memory.close()
