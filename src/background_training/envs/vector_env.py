"""A Gymnasium vector env whose workers may die, hang, raise or babble: one is replaced, the others step on."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import iterate

from background_training.envs import collect, resets, shared_observations, vector_calls, vector_spaces, worker_platform
from background_training.envs.collect import Gathering
from background_training.envs.env_host import EnvFactory, News
from background_training.envs.observation_batches import ObservationBatches
from background_training.envs.row_states import RowFiller, RowState
from background_training.envs.vector_errors import RestartBudgetError
from background_training.envs.vector_face import VectorFace
from background_training.envs.vector_settings import VectorSettings
from background_training.envs.worker_handle import WorkerFault
from background_training.envs.worker_supervisor import Fleet


class ResilientAsyncVectorEnv(VectorFace):
    """Many games at once, in worker processes that are replaced when they fail.

    Promised: a failing worker costs its own envs their running episodes and the others nothing but the wait for its
    time limit; no row that an env has not really produced comes without `info["worker_restarted"]`; when this
    object or its process is gone, so are the workers and all shared memory. Not promised: that an env which fails
    in the same way each time ever works (the restart budget ends that), or that a rebuilt env continues its episode.

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
            env_fns: functions that make the envs; lambdas and closures will do.
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
        memory = worker_platform.make_shared_memory()
        groups = share_out(self.num_envs, self.settings.num_workers)
        self._fleet = Fleet(list(env_fns), groups, self.autoreset_mode, self.settings, memory)
        self._finalizer = weakref.finalize(self, _shut_down, self._fleet, memory)
        try:
            spaces = vector_spaces.agree(self._fleet, observation_mode, copy=copy, shared_memory=shared_memory)
        except BaseException:
            self._finalizer()
            raise
        self.metadata, self.render_mode = {**spaces.metadata, "autoreset_mode": self.autoreset_mode}, spaces.render_mode
        self.single_observation_space, self.observation_space = spaces.single_observation, spaces.observation
        self.single_action_space, self.action_space = spaces.single_action, spaces.action
        assert self._fleet.block is not None
        self._block = self._fleet.block
        self._batches = ObservationBatches(self._block.observations or (), copy=copy)
        self._filler = RowFiller(self._block, self._batches, self.autoreset_mode)
        self._state = AsyncState.DEFAULT
        self._step_number = 0
        self._gathering = Gathering(self._fleet)
        self._pending: list[Any] | None = None
        self._to_begin: list[int] = []
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
        fleet = self._fleet
        if not fleet.was_reset:
            raise ResetNeeded("Cannot call `step` before calling `reset`")
        self._gathering.begin()
        self._pending = None
        fleet.steps += 1
        singles = None
        # Actions of a wider type than the space's (float64 for float32) reach the envs as they are, like Gymnasium's, by message.
        if self._block.actions is None or not shared_observations.write_batch(self._block.actions, actions):
            singles = dict(enumerate(iterate(self.action_space, actions)))
        self._singles = singles
        self._step_number = number = self._step_number + 1
        batch = self._batches.advance()
        for handle in fleet.stepping:
            try:
                if singles is None:
                    handle.ask_step(number, batch)
                else:
                    handle.send("step", batch, {index: singles[index] for index in handle.envs})
            except WorkerFault as fault:
                fleet.fail(fleet.slot_with(handle), handle, fault, time.monotonic())
        self._state = AsyncState.WAITING_STEP

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Wait for the results of `step_async`.

        Raises:
            NoAsyncCallError: there was no `step_async`.
            multiprocessing.TimeoutError: `timeout` seconds are over; the results can still be waited for.
            RestartBudgetError: an env fails again and again, and `on_exhausted` is "raise".
        """
        self._assert_waiting(AsyncState.WAITING_STEP, "step")
        fleet = self._fleet
        if self._pending is None:
            # The quick way has a patience of its own, which a caller's time limit might not grant.
            self._pending = list(fleet.stepping) if timeout is not None else self._gathering.quick_step()
        if self._pending:
            self._gathering.wait(self._pending, "step", self.settings.step_seconds, timeout)
        self._state = AsyncState.DEFAULT
        news, buffer = self._gathering.news, self._batches.present
        for local in fleet.locals:
            vector_calls.step_local(fleet, local, buffer, self._singles, news)
        now = time.monotonic()
        fleet.look_after(now)
        unusual = self._see_to_unusual_rows(buffer, news, now) if fleet.busy else ()
        for index in self._to_begin:
            if index not in unusual:
                fleet.rows[index].playing = True
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        # A row that was rebuilt within its worker is reset by the next step, too.
        rebuilt = [index for index in unusual if fleet.rows[index].state is RowState.LIVE and not fleet.rows[index].playing]
        self._to_begin = rebuilt if next_step else []
        if self._block.any_ended():
            ended = (self._block.terminations | self._block.truncations).nonzero()[0].tolist()
            ended = [index for index in ended if index not in unusual]
            if next_step:
                self._to_begin += ended
            self._end_episodes(ended, buffer, news, now)
        observations = self._batch(news.observations)
        infos = self._merge_infos(news.infos)
        fleet.raise_if_spent()
        block = self._block
        return observations, block.rewards.copy(), block.terminations.copy(), block.truncations.copy(), infos

    def _see_to_unusual_rows(self, buffer: int, news: News, now: float) -> set[int]:
        """Write the rows that no worker has written, and let restarts go on; returns which rows these are."""
        fleet = self._fleet
        # Rows first, then the turn of events: what has failed now must be seen as a fault before anything begins anew.
        unusual = [row for row in fleet.rows if row.state is not RowState.LIVE]
        for row in unusual:
            info = self._filler.fill(row, buffer, news.observations)
            news.infos[row.index] = {**news.infos.get(row.index, {}), **info}
        fleet.pump(now)
        if self.settings.wait_for_restart:
            collect.wait_until(fleet, lambda: not fleet.awaited_rows())
        fleet.refresh_stepping()
        return {row.index for row in unusual}

    def _end_episodes(self, finished: list[int], buffer: int, news: News, now: float) -> None:
        """Count finished episodes, and let a standby take the rows at this border."""
        for index in finished:
            row = self._fleet.rows[index]
            row.playing = self.autoreset_mode is AutoresetMode.SAME_STEP
            self._fleet.count_episode(row)
            # A worker that was not yet asked to hold has begun the next episode already; then this is no border.
            begun = "final_obs" in news.infos.get(index, {})
            if begun or self.autoreset_mode is AutoresetMode.DISABLED or not self._fleet.hand_over(row, now):
                continue
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = {
                    "final_info": news.infos.get(index, {}),
                    "final_obs": self._filler.present(row, buffer, news.observations),
                }
                news.infos[index] = {**final, **row.first_info}
                self._filler.put_first(row, buffer, news.observations)
            self._fleet.refresh_stepping()

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
        seeds = resets.seed_list(seed, self.num_envs)
        options, mask = resets.split_mask(options, self.num_envs)
        if not self._fleet.was_reset and mask is not None and not mask.all():
            raise ResetNeeded("The first reset must be one of all envs, without `reset_mask`")
        chosen = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        self._resetting = resets.Resetting(
            self._fleet, {index: seeds[index] for index in chosen}, options, self._batches.advance()
        )
        self._resetting.send()
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
            news = self._resetting.finish(timeout)
        except RestartBudgetError:
            self._state = AsyncState.DEFAULT  # this reset has no result to wait for; after a time limit it has
            raise
        self._state = AsyncState.DEFAULT
        buffer = self._batches.present
        self._to_begin = [index for index in self._to_begin if index not in self._resetting.done]
        for row in self._fleet.rows:
            if row.index not in self._resetting.done:
                self._filler.keep(row, buffer, news.observations)
        self._fleet.raise_if_spent()
        return self._batch(news.observations), self._merge_infos(news.infos)


def share_out(count: int, workers: int) -> list[list[int]]:
    """Which envs each worker hosts: as evenly as can be, neighbours together; 0 workers: one per env."""
    workers = min(workers, count) or count
    return [list(range(number * count // workers, (number + 1) * count // workers)) for number in range(workers)]


def _shut_down(fleet: Fleet, memory: Any) -> None:
    fleet.shutdown(0.0)
    memory.close()
