"""One reset of a vector env: its arguments, and the way to first observations even where workers fail over it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from background_training.envs import collect
from background_training.envs.collect import Gathering
from background_training.envs.env_host import News
from background_training.envs.row_states import Row, RowState
from background_training.envs.slots import LocalHost
from background_training.envs.worker_handle import WorkerFault, WorkerHandle
from background_training.envs.worker_supervisor import Fleet


def seed_list(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """One seed per env: None for all, seed, seed + 1, ..., or the list itself."""
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"If seeds are passed as a list the length must match num_envs={count} but got length={len(seed)}.")
    return [None if single is None else int(single) for single in seed]


def split_mask(options: dict[str, Any] | None, count: int) -> tuple[dict[str, Any] | None, Any]:
    """Take `reset_mask` out of the options, as Gymnasium's vector envs do: in place. None stands for all envs."""
    if options is None or "reset_mask" not in options:
        return options, None
    mask = options.pop("reset_mask")
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (count,):
        raise ValueError(f"`options['reset_mask']` must have shape `({count},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(
            f"`options['reset_mask']` must contain a boolean array with at least one True value, got reset_mask={mask}"
        )
    return options, mask


class Resetting:
    """A reset under way.

    done: the envs whose new first observation is in the batch.
    """

    def __init__(self, fleet: Fleet, seeds: dict[int, int | None], options: dict[str, Any] | None, buffer: int) -> None:
        self._fleet = fleet
        self._seeds = seeds
        self._options = options
        self._buffer = buffer
        self._gathering = Gathering(fleet)
        self._pending: list[WorkerHandle] = []
        self._asked: dict[int, Any] = {}
        self._faulty: dict[int, str] = {}
        self.done: set[int] = set()
        for index, seed in seeds.items():
            if seed is not None:
                fleet.seeds[index] = seed

    def send(self) -> None:
        """Ask every worker that is up and hosts envs that are still to be reset."""
        fleet = self._fleet
        fleet.was_reset = True
        fleet.wake(self._seeds)
        fleet.pump(time.monotonic())
        rows = [fleet.rows[index] for index in self._seeds if index not in self.done]
        for row in rows:
            self._settle(row)
        fleet.refresh_stepping()
        for host in {id(row.host): row.host for row in rows if row.host is not None}.values():
            self._ask(host, {row.index: self._seeds[row.index] for row in rows if row.host is host})

    def _settle(self, row: Row) -> None:
        """Give the row to the worker that is to reset it: the standby, where there is one."""
        fleet = self._fleet
        assert fleet.block is not None
        if row.state is RowState.LIVE:
            fleet.hand_over(row, time.monotonic())
        if row.state in (RowState.READY, RowState.REBUILT):
            if row.after_fault or row.fresh_fault:
                self._faulty[row.index] = row.reason
            fleet.block.owner[row.index] = row.host.generation
            row.begin()

    def _ask(self, host: Any, seeds: dict[int, int | None]) -> None:
        self._asked.update(dict.fromkeys(seeds, host))
        if isinstance(host, LocalHost):
            news = host.host.reset(self._buffer, seeds, self._options)
            self._gathering.news.infos.update(news.infos)
            self._gathering.news.observations.update(news.observations)
            return
        try:
            host.send("reset", self._buffer, seeds, self._options)
        except WorkerFault as fault:
            self._fleet.fail(self._fleet.slot_with(host), host, fault, time.monotonic())
            return
        self._pending.append(host)

    def finish(self, timeout: float | None) -> News:
        """Wait until every env has a first observation or is given up.

        Raises:
            multiprocessing.TimeoutError: the caller's time is up. Nothing is lost; call again.
            RestartBudgetError: restarts are spent.
        """
        fleet = self._fleet
        while True:
            self._gathering.wait(self._pending, "reset", fleet.settings.reset_seconds, timeout)
            self._note_done()
            rest = [fleet.rows[index] for index in self._seeds if index not in self.done]
            if all(row.state is RowState.LOST for row in rest):
                break
            if all(row.host is None for row in rest):
                self._wait_for_any(rest)
            self.send()
        return self._news_with_faults(rest)

    def _wait_for_any(self, rows: list[Row]) -> None:
        collect.wait_until(self._fleet, lambda: any(row.host is not None or row.state is RowState.LOST for row in rows))

    def _note_done(self) -> None:
        for index, host in self._asked.items():
            row = self._fleet.rows[index]
            if row.host is host and row.state in (RowState.LIVE, RowState.REBUILT):
                if row.state is RowState.REBUILT:
                    self._gathering.news.infos[index] = row.first_info
                    self._settle(row)
                row.playing = True
                self.done.add(index)
            elif row.state is RowState.DOWN:
                self._faulty[index] = row.reason
        self._asked = {}

    def _news_with_faults(self, lost: list[Row]) -> News:
        infos = self._gathering.news.infos
        for index, reason in self._faulty.items():
            infos[index] = {**infos.get(index, {}), "worker_restarted": True, "restart_reason": reason, "restart_phase": "ready"}
        for row in lost:
            infos[row.index], row.playing = row.fault_info("lost"), False
        return self._gathering.news
