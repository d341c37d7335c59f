"""Who hosts which env of a vector env: rows, slots, workers, shared memory.

A slot is a fixed set of envs and the worker that hosts them. A slot may have a second worker, the standby: after a
failure it takes the rows as soon as it is up, before a preventive rebuild it takes each row when its episode ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np
from gymnasium.vector import AutoresetMode

from background_training.envs import worker_platform, worker_process
from background_training.envs.env_host import EnvFactory, EnvHost, HostPlan
from background_training.envs.env_restart_budget import RestartBudget
from background_training.envs.env_worker import Layout, StartOrder
from background_training.envs.health import HealthTracker
from background_training.envs.presets import usable_cores
from background_training.envs.row_states import Row, RowState
from background_training.envs.shared_block import NOBODY, SharedBlock
from background_training.envs.vector_errors import RestartBudgetError
from background_training.envs.vector_settings import VectorSettings
from background_training.envs.worker_handle import WorkerHandle

log = logging.getLogger(__name__)

_PROGRESS_STEPS = 3  # one first observation, one good step, and the step that failed
_LOOK_SECONDS = 1.0


@dataclass(eq=False)
class Slot:
    """A set of envs and its workers.

    lines: which of `SharedBlock.lines` its worker and its standby use.
    restart_at: when the next worker is to be started, or None.
    resting: whether it waits for calmer times instead.
    described: the envs' spaces and metadata, told by the first worker.
    """

    envs: list[int]
    lines: tuple[int, int]
    handle: WorkerHandle | None = None
    standby: WorkerHandle | None = None
    restart_at: float | None = 0.0
    resting: bool = False
    failed_at: float | None = None
    started_at: float = 0.0
    described: dict[int, Any] = field(default_factory=dict)


@dataclass(eq=False)
class LocalHost:
    """An env that has fallen back into this process."""

    generation: int
    host: EnvHost


class Roster:
    """Who hosts what: the rows and slots of one vector env, and their workers. It decides nothing."""

    def __init__(
        self, factories: list[EnvFactory], groups: list[list[int]], mode: AutoresetMode, settings: VectorSettings, memory: Any
    ) -> None:
        self.factories = [cloudpickle.dumps(factory) for factory in factories]
        self.mode = mode
        self.settings = settings
        self.memory = memory
        self.slots = [Slot(group, lines=(2 * number, 2 * number + 1)) for number, group in enumerate(groups)]
        # Spinning pays where a core is idle for each worker and for this process; else it keeps the others from working.
        self._spin_seconds = settings.spin_microseconds * 1e-6 if len(groups) < usable_cores() else 0.0
        self.rows = [Row(index) for index in range(len(factories))]
        self.slot_of = {index: slot for slot in self.slots for index in slot.envs}
        self.attributes: dict[int, dict[str, Any]] = {}
        self.seeds: list[int | None] = [None] * len(factories)
        self.was_reset = False
        self.layout: Layout | None = None
        self.block: SharedBlock | None = None
        self.locals: list[LocalHost] = []
        self.retiring: list[tuple[WorkerHandle, float]] = []
        self.stepping: tuple[WorkerHandle, ...] = ()
        self.busy = True
        self.steps = 0
        self.budget = RestartBudget(
            settings.restarts_per_env,
            settings.restarts_in_all,
            settings.restart_window_seconds,
            settings.backoff_seconds,
            settings.backoff_limit_seconds,
        )
        self.tracker = HealthTracker(settings.reduce_after, settings.reduce_window_seconds, settings.calm_seconds)
        self._generations = NOBODY
        self._incarnation = 0
        self._same_faults: dict[int, tuple[str, int]] = {}
        self._up_since_step = [0] * len(factories)
        self._next_look = 0.0
        self._next_rebuild = 0.0
        self._episodes_at_look = 0
        self._closed = False
        self._fork_server = worker_process.start_fork_server(settings.start_method)
        self._fatal: RestartBudgetError | None = None

    def lay_out(self, layout: Layout) -> None:
        """Fix the shared memory; workers started from now on attach to it by themselves."""
        self.memory.resize(layout.byte_count)
        self.layout = layout
        self.block = layout.view(self.memory.map(layout.byte_count))

    def start(self, slot: Slot, now: float) -> WorkerHandle:
        """Start a worker for a slot.

        Raises:
            OSError: the machine can't start another process.
        """
        self._generations += 1
        envs = {index: self.factories[index] for index in slot.envs}
        attributes = {index: dict(self.attributes[index]) for index in slot.envs if index in self.attributes}
        seeds = {index: self.first_seed(index) for index in slot.envs} if self.was_reset else None
        taken = None if slot.handle is None else slot.handle.order.line
        line = slot.lines[0] if taken != slot.lines[0] else slot.lines[1]
        plan = HostPlan(envs, attributes, self._generations, self.mode)
        order = StartOrder(plan, self.layout, seeds, line, self._spin_seconds)
        slot.restart_at, slot.resting, slot.started_at = None, False, now
        settings = self.settings
        handle = WorkerHandle(
            order, self.memory, settings.start_method, self._fork_server, capture_stderr=settings.capture_stderr
        )
        if self.block is not None:
            handle.attach(self.block)
        handle.expect("built", now + self.settings.start_seconds)
        return handle

    def first_seed(self, index: int) -> int | None:
        """A seed for a rebuilt env: it must not play again what it has played, and a seeded run shall stay repeatable."""
        seed = self.seeds[index]
        if seed is None:
            return None
        self._incarnation += 1
        return int(np.random.SeedSequence([seed, index, self._incarnation]).generate_state(1)[0])

    def count_episode(self, row: Row) -> None:
        """Note the end of an episode; workers are renewed after a number of them."""
        self.tracker.episodes += 1
        if isinstance(row.host, WorkerHandle):
            row.host.episodes += 1

    def awaited_rows(self) -> list[Row]:
        """Rows that a restart now under way will bring back."""
        return [row for row in self.rows if row.state is RowState.DOWN and not self.slot_of[row.index].resting]

    def wake(self, indexes: Iterable[int]) -> None:
        """Bring resting envs back at once, because somebody asks for them."""
        for index in indexes:
            slot = self.slot_of[index]
            if slot.resting:
                slot.resting, slot.restart_at = False, 0.0

    def refresh_stepping(self) -> None:
        """Find anew who has rows to step."""
        hosts = {id(row.host) for row in self.rows if row.state in (RowState.LIVE, RowState.REBUILT)}
        self.stepping = tuple(handle for _, handle in self.handles() if id(handle) in hosts)

    def handles(self) -> Iterator[tuple[Slot, WorkerHandle]]:
        """Every worker that is up, but for the retired."""
        for slot in self.slots:
            for handle in (slot.handle, slot.standby):
                if handle is not None and handle.ready:
                    yield slot, handle

    def slot_with(self, handle: WorkerHandle) -> Slot:
        return self.slot_of[handle.envs[0]]

    def bury(self, now: float) -> None:
        for handle, deadline in list(self.retiring):
            if handle.process.exit_status() is not None or now >= deadline:
                handle.kill()
                self.retiring.remove((handle, deadline))

    def shutdown(self, close_seconds: float) -> None:
        """Close every env, kill what is left, free everything. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        workers = [handle for slot in self.slots for handle in (slot.handle, slot.standby) if handle is not None]
        workers += [handle for handle, _ in self.retiring]
        for handle in workers:
            if close_seconds > 0 and not handle.closed:
                handle.ask_to_close()
        end = time.monotonic() + close_seconds
        while time.monotonic() < end and any(not handle.closed and handle.process.exit_status() is None for handle in workers):
            living = [handle.link for handle in workers if not handle.closed and handle.process.exit_status() is None]
            worker_platform.wait_readable(living, 0.005)
            time.sleep(0.001)
        for handle in workers:
            handle.kill()
        if self._fork_server is not None:
            self._fork_server.close()
        for local in self.locals:
            local.host.close()
