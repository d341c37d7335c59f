"""The workers of a vector env: started, watched, replaced when they fail, rebuilt before they do.

A slot is a fixed set of envs and the worker that hosts them. A slot may have a second worker, the standby: after a failure it
takes the rows as soon as it is up; before a preventive rebuild it takes each row when its episode ends.
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

from background_training.envs import row_states, worker_link, worker_process
from background_training.envs.env_host import EnvFactory, EnvHost, HostPlan, HostReport
from background_training.envs.env_worker import StartOrder
from background_training.envs.health import EnvRestarts, Failure, HealthTracker
from background_training.envs.row_states import Row, RowState
from background_training.envs.shared_arrays import FIRST_OBSERVATIONS, NO_WORKER, Layout, SharedBlock
from background_training.envs.vector_settings import VectorSettings, usable_cores
from background_training.envs.worker_handle import WorkerFault, WorkerHandle, zero_progress
from background_training.errors import RepeatedFaultError, RestartBudgetError

log = logging.getLogger(__name__)

_PROGRESS_STEPS = 3  # one first observation, one good step, and the step that failed
_INSPECTION_SECONDS = 1.0


@dataclass(eq=False)
class Slot:
    """A set of envs and its workers.

    lines: which of `SharedBlock.lines` its worker and its standby use.
    restart_at: when the next worker is to be started, or None.
    resting: whether it stays without a worker until no failures occur for a time.
    described: the envs' spaces and metadata, from the first worker.
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

    incarnation: int
    host: EnvHost


class WorkerSupervisor:
    """The workers, slots and rows of one vector env.

    It starts workers, replaces those that fail, gives up envs whose restarts are spent, and rebuilds workers between episodes.
    It never waits: `pump` and `inspect` are called while the vector env waits for answers.

    Attributes:
        busy: whether a start, a rebuild or a row that is not LIVE needs `pump`.
        stepping: the workers that have rows to step.
        retiring: (worker, deadline) of replaced workers that are closing their envs.
        locals: envs that have fallen back into this process.
        steps: of the vector env so far.
    """

    def __init__(
        self, factories: list[EnvFactory], groups: list[list[int]], mode: AutoresetMode, settings: VectorSettings, memory: Any
    ) -> None:
        self.factories = [cloudpickle.dumps(factory) for factory in factories]
        self.mode = mode
        self.settings = settings
        self.memory = memory
        self.slots = [Slot(group, lines=(2 * number, 2 * number + 1)) for number, group in enumerate(groups)]
        # Polling pays where a core is idle for each worker and for this process; otherwise it takes their time from the others.
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
        self.budget = EnvRestarts(
            settings.restarts_per_env,
            settings.restarts_in_all,
            settings.restart_window_seconds,
            settings.backoff_seconds,
            settings.backoff_limit_seconds,
        )
        self.tracker = HealthTracker(settings.reduce_after, settings.reduce_window_seconds, settings.calm_seconds)
        self._incarnations = NO_WORKER
        self._seeds_drawn = 0
        self._same_faults: dict[int, tuple[str, int]] = {}
        self._up_since_step = [0] * len(factories)
        self._next_inspection = 0.0
        self._next_rebuild = 0.0
        self._episodes_at_inspection = 0
        self._closed = False
        self._fork_server = worker_process.start_fork_server(settings.start_method)
        self._fatal: RestartBudgetError | None = None

    # --- rows, slots and their workers

    def lay_out(self, layout: Layout) -> None:
        """Set the size of the shared memory; workers started from now on attach to it by themselves."""
        self.memory.resize(layout.byte_count)
        self.layout = layout
        self.block = layout.view(self.memory.map(layout.byte_count))

    def start(self, slot: Slot, now: float) -> WorkerHandle:
        """Start a worker for a slot.

        Raises:
            OSError: the machine can't start another process.
        """
        self._incarnations += 1
        envs = {index: self.factories[index] for index in slot.envs}
        attributes = {index: dict(self.attributes[index]) for index in slot.envs if index in self.attributes}
        seeds = {index: self.first_seed(index) for index in slot.envs} if self.was_reset else None
        taken = None if slot.handle is None else slot.handle.order.line
        line = slot.lines[0] if taken != slot.lines[0] else slot.lines[1]
        plan = HostPlan(envs, attributes, self._incarnations, self.mode, self.settings.step_in_threads)
        order = StartOrder(plan, self.layout, seeds, line, self._spin_seconds)
        slot.restart_at, slot.resting, slot.started_at = None, False, now
        settings = self.settings
        handle = WorkerHandle(
            order, self.memory, settings.start_method, self._fork_server, capture_stderr=settings.capture_stderr
        )
        if self.block is not None:
            handle.attach(self.block)
        handle.expect("built", self.settings.start_seconds)
        return handle

    def first_seed(self, index: int) -> int | None:
        """A seed for a rebuilt env: it must not repeat its episodes, and a seeded run must stay repeatable."""
        seed = self.seeds[index]
        if seed is None:
            return None
        self._seeds_drawn += 1
        return int(np.random.SeedSequence([seed, index, self._seeds_drawn]).generate_state(1)[0])

    def count_episode(self, row: Row) -> None:
        """Count a finished episode; workers are rebuilt after a number of them."""
        self.tracker.episodes += 1
        if isinstance(row.host, WorkerHandle):
            row.host.episodes += 1

    def awaited_rows(self) -> list[Row]:
        """Rows whose slot is being restarted."""
        return [row for row in self.rows if row.state is RowState.DOWN and not self.slot_of[row.index].resting]

    def wake(self, indexes: Iterable[int]) -> None:
        """End the rest of these envs at once, because a call needs them."""
        for index in indexes:
            slot = self.slot_of[index]
            if slot.resting:
                slot.resting, slot.restart_at = False, 0.0

    def refresh_stepping(self) -> None:
        """Update `stepping`."""
        hosts = {id(row.host) for row in self.rows if row.state in (RowState.LIVE, RowState.REBUILT)}
        self.stepping = tuple(handle for _, handle in self.handles() if id(handle) in hosts)

    def handles(self) -> Iterator[tuple[Slot, WorkerHandle]]:
        """Every worker that is up, except the retired ones."""
        for slot in self.slots:
            for handle in (slot.handle, slot.standby):
                if handle is not None and handle.ready:
                    yield slot, handle

    def slot_with(self, handle: WorkerHandle) -> Slot:
        return self.slot_of[handle.envs[0]]

    def end_retired(self, now: float) -> None:
        for handle, deadline in list(self.retiring):
            if handle.process.exit_status() is not None or now >= deadline:
                handle.kill()
                self.retiring.remove((handle, deadline))

    # --- starts

    def pump(self, now: float) -> None:
        """Advance starts, standbys, retired workers and resting envs, without waiting."""
        for slot in self.slots:
            if slot.restart_at is not None and now >= slot.restart_at and slot.standby is None and slot.envs:
                self._start_standby(slot, now)
            if slot.standby is not None and not slot.standby.ready:
                self._read_standby(slot, slot.standby, now)
        self._bring_back(now)
        self.end_retired(now)
        waiting = any(slot.standby is not None or slot.restart_at is not None or slot.resting for slot in self.slots)
        self.busy = waiting or bool(self.retiring) or any(row.state is not RowState.LIVE for row in self.rows)

    def _start_standby(self, slot: Slot, now: float) -> None:
        try:
            slot.standby = self.start(slot, now)
        except OSError as error:
            self._charge(slot, slot.envs[0], WorkerFault("start failed", str(error)), "", now, came_up=False)

    def _read_standby(self, slot: Slot, standby: WorkerHandle, now: float) -> None:
        try:
            message = standby.next_message()
            if message is None:
                standby.check(None)
                return
            if not isinstance(message, tuple) or message[0] not in ("built", "failed"):
                raise WorkerFault("garbled pipe", f"its first message is {message!r:.80}")
            if message[0] == "failed":
                raise WorkerFault("exception", _last_line(message[1]), message[1], env=message[2], in_reset=True)
            report = message[2]
            for index, trace in report.faults.items() if report else ():
                if index not in report.rebuilt:
                    raise WorkerFault("exception", _last_line(trace), trace, env=index, in_reset=True)
        except WorkerFault as fault:
            self.fail(slot, standby, fault, now)
            return
        self._standby_is_up(slot, standby, message, now)

    def _standby_is_up(self, slot: Slot, standby: WorkerHandle, message: Any, now: float) -> None:
        _, description, report = message
        standby.ready = True
        standby.expect("", float("inf"))
        if description is not None:
            slot.described = cloudpickle.loads(description)
        for index in slot.envs:
            row = self.rows[index]
            row.first_info = (report or HostReport()).infos.get(index, {})
            row.first_observation = (report or HostReport()).observations.get(index)
            if row.state is RowState.DOWN:
                self._assign(row, standby, now)
            elif self.block is not None and self.mode is AutoresetMode.SAME_STEP:
                self.block.hold[index] = True
        self._next_rebuild = now + (now - slot.started_at) / self.settings.rebuild_share
        self._promote(slot, now)

    def _assign(self, row: Row, host: Any, now: float) -> None:
        """Assign a row to its new host: at once before the first reset, otherwise with its first observation."""
        row.host = host
        row.state = RowState.READY
        self._up_since_step[row.index] = self.steps
        slot = self.slot_of[row.index]
        if slot.failed_at is not None:
            self.tracker.recovered(now - slot.failed_at)
            slot.failed_at = None
        if not self.was_reset and self.block is not None:
            self.block.owner[row.index] = host.incarnation
            row.state = RowState.LIVE

    def hand_over(self, row: Row, now: float) -> bool:
        """Assign a row whose episode has ended to the standby. False if there is none."""
        slot = self.slot_of[row.index]
        if slot.standby is None or not slot.standby.ready or row.host is slot.standby:
            return False
        assert self.block is not None
        self.block.owner[row.index] = NO_WORKER
        self.block.hold[row.index] = False
        row.reason, row.after_fault = "preventive rebuild", False
        self._assign(row, slot.standby, now)
        self._promote(slot, now)
        self.busy = True
        return True

    def _promote(self, slot: Slot, now: float) -> None:
        """Make the standby the slot's worker once it has every row, and retire the former one."""
        standby = slot.standby
        if standby is None or any(self.rows[index].host is not standby for index in slot.envs):
            return
        if slot.handle is not None:
            self.tracker.rebuilds += 1
            log.info("worker rebuilt: envs %s, after %d episodes", slot.envs, slot.handle.episodes)
            slot.handle.ask_to_close()
            self.retiring.append((slot.handle, now + self.settings.close_seconds))
        slot.handle, slot.standby = standby, None
        self.refresh_stepping()

    # --- failures

    def fail(self, slot: Slot, handle: WorkerHandle, fault: WorkerFault, now: float) -> None:
        """Kill a worker, take its rows from it, and schedule a restart, or give its env up."""
        culprit = handle.culprit(self.block) if fault.env is None else fault.env
        words = fault.trace or handle.stderr_tail()
        handle.kill()
        if self.block is not None:
            zero_progress(self.block, handle.envs)
            self.block.hold[list(handle.envs)] = False
        reason = f"{fault.kind}: {fault.detail}"
        for index in handle.envs:
            if self.rows[index].host is handle:
                row_states.release(self.rows[index], self.block, reason)
        if slot.standby is handle:
            slot.standby = None
        else:
            slot.handle = None
        self.refresh_stepping()
        self._charge(slot, culprit, fault, words, now, came_up=handle.ready)
        self._use_ready_standby(slot, now)

    def _use_ready_standby(self, slot: Slot, now: float) -> None:
        if slot.standby is not None and slot.standby.ready:
            slot.restart_at = None
            for index in slot.envs:
                if self.rows[index].state is RowState.DOWN:
                    self._assign(self.rows[index], slot.standby, now)
            self._promote(slot, now)

    def _is_deterministic(self, index: int, trace: str, *, had_progress: bool) -> bool:
        """Count the same exception at the same place while an env was built or reset; whether the limit is reached.

        Args:
            index: the env.
            trace: what was raised; empty for any other fault, which resets the count.
            had_progress: whether the env was stepped since the last time, which resets it too.
        """
        place = _place_of(trace)
        before, count = self._same_faults.pop(index, ("", 0))
        if not place:
            return False
        count = 1 if had_progress or place != before else count + 1
        self._same_faults[index] = (place, count)
        return 0 < self.settings.same_fault_limit <= count

    def _charge(self, slot: Slot, culprit: int, fault: WorkerFault, words: str, now: float, *, came_up: bool) -> None:
        self.busy = True
        self.tracker.failed(Failure(now, culprit, fault.kind, fault.detail))
        slot.failed_at = now if slot.failed_at is None else slot.failed_at
        # A worker that never was up has made no progress, although the others have made steps meanwhile.
        progress = came_up and self.steps - self._up_since_step[culprit] >= _PROGRESS_STEPS
        if self._is_deterministic(culprit, fault.trace if fault.in_reset else "", had_progress=progress):
            log.error("env %d fails in the same way each time: %s; it is not restarted again\n%s", culprit, fault.detail, words)
            self._give_up(slot, culprit, f"{fault.kind}: {fault.detail}", words, now, kind=RepeatedFaultError)
            return
        if not self.budget.spend(culprit, now, had_progress=progress):
            log.error("env %d failed: %s: %s; its restarts are spent\n%s", culprit, fault.kind, fault.detail, words)
            self._give_up(slot, culprit, f"{fault.kind}: {fault.detail}", words, now)
            return
        log.warning("env %d failed: %s: %s; its worker is replaced\n%s", culprit, fault.kind, fault.detail, words)
        resting = sum(len(other.envs) for other in self.slots if other.resting) + len(slot.envs)
        if self.was_reset and self.tracker.should_reduce(now) and resting <= len(self.rows) // 2:
            self.tracker.reductions += 1
            slot.resting = True
            log.warning("envs %s rest: too many failures lately; they come back after calm_seconds without one", slot.envs)
            return
        slot.restart_at = now + self.budget.wait_seconds(culprit)

    def failed_in_place(self, handle: WorkerHandle, index: int, trace: str, now: float, *, in_reset: bool) -> None:
        """Handle an env that failed with an exception and was rebuilt within its worker."""
        row, lines = self.rows[index], trace.strip().splitlines()
        detail = lines[-1] if lines else "no traceback"
        row.state, row.reason, row.fresh_fault = RowState.REBUILT, f"exception: {detail}", True
        self.busy = True
        self.tracker.in_place += 1
        self.tracker.failed(Failure(now, index, "exception", detail))
        progress = self.steps - self._up_since_step[index] >= _PROGRESS_STEPS
        self._up_since_step[index] = self.steps
        repeated = self._is_deterministic(index, trace if in_reset else "", had_progress=progress)
        if not repeated and self.budget.spend(index, now, had_progress=progress):
            log.warning("env %d failed: exception; it is rebuilt in its worker\n%s", index, trace)
            return
        assert self.block is not None
        self.block.owner[index] = NO_WORKER
        kind = RepeatedFaultError if repeated else RestartBudgetError
        self._give_up(self.slot_with(handle), index, row.reason, trace, now, kind=kind)

    def _give_up(
        self,
        slot: Slot,
        culprit: int,
        reason: str,
        words: str,
        now: float,
        *,
        kind: type[RestartBudgetError] = RestartBudgetError,
    ) -> None:
        slot.envs.remove(culprit)
        row = self.rows[culprit]
        row.state, row.host, row.reason = RowState.LOST, None, reason
        if slot.envs and slot.handle is None:
            slot.restart_at = now
        error = kind(culprit, self.budget.spent_by(culprit), reason, words)
        everyone_lost = all(other.state is RowState.LOST for other in self.rows)
        if self.settings.on_exhausted == "sync" and self.layout is not None:
            self._fall_back(row, error, now)
        elif self.settings.on_exhausted == "raise" or everyone_lost:
            self._fatal = self._fatal or error

    def raise_if_spent(self) -> None:
        """Raise the error of a spent budget, after the answers of all other workers have been read.

        Raises:
            RestartBudgetError: restarts are spent and `on_exhausted` is "raise", or no env is left.
        """
        error, self._fatal = self._fatal, None
        if error is not None:
            raise error

    def _fall_back(self, row: Row, error: RestartBudgetError, now: float) -> None:
        """Host the env in this process. What kills it now kills this process, so its errors are raised."""
        self._incarnations += 1
        plan = HostPlan({row.index: self.factories[row.index]}, self.attributes, self._incarnations, self.mode)
        assert self.block is not None
        # A factory may raise anything; it becomes the cause of the error of the spent budget.
        try:
            host = LocalHost(self._incarnations, EnvHost(plan))
            host.host.build()
        except Exception as cause:  # noqa: BLE001
            error.__cause__ = cause
            self._fatal = self._fatal or error
            return
        host.host.attach(self.block)
        if self.was_reset:
            report = host.host.reset(FIRST_OBSERVATIONS, {row.index: self.first_seed(row.index)}, None)
            if report.faults:
                self._fatal = self._fatal or error
                return
            row.first_info, row.first_observation = report.infos.get(row.index, {}), report.observations.get(row.index)
        self.locals.append(host)
        self._assign(row, host, now)

    # --- inspections

    def inspect(self, now: float) -> None:
        """Check memory and stderr and start preventive rebuilds, once a second or every `check_episodes` episodes."""
        if now < self._next_inspection and self.tracker.episodes - self._episodes_at_inspection < self.settings.check_episodes:
            return
        self._next_inspection, self._episodes_at_inspection = now + _INSPECTION_SECONDS, self.tracker.episodes
        self.tracker.checks += 1
        settings = self.settings
        for slot, handle in list(self.handles()):
            handle.trim_stderr()
            used = handle.memory_bytes() if settings.memory_limit_bytes or settings.rebuild_memory_bytes else 0
            if 0 < settings.memory_limit_bytes <= used:
                self.fail(slot, handle, WorkerFault("memory", f"{used >> 20} MiB are above the limit"), now)
            elif handle is slot.handle and self._is_due(slot, handle, used, now):
                log.info("worker to be rebuilt: envs %s, %d episodes, %d MiB", slot.envs, handle.episodes, used >> 20)
                self._start_standby(slot, now)
                self.busy = True

    def _is_due(self, slot: Slot, handle: WorkerHandle, used: int, now: float) -> bool:
        if any(other.standby is not None or other.restart_at is not None for other in self.slots):
            return False  # one at a time
        by_memory = 0 < self.settings.rebuild_memory_bytes <= used
        by_episodes = 0 < self.settings.rebuild_episodes <= handle.episodes and now >= self._next_rebuild
        return by_memory or by_episodes

    def _bring_back(self, now: float) -> None:
        if not self.tracker.may_bring_back(now):
            return
        for slot in self.slots:
            if slot.resting:
                log.info("envs %s come back after calm_seconds without a failure", slot.envs)
                slot.resting, slot.restart_at = False, now
                self.tracker.brought_back(now)
                return

    def summary(self) -> dict[str, Any]:
        """The present state of rows and workers, as plain values."""
        return {
            "envs": len(self.rows),
            "envs_by_state": {state.value: sum(row.state is state for row in self.rows) for state in RowState},
            "resting": sorted(index for slot in self.slots if slot.resting for index in slot.envs),
            "lost": {row.index: row.reason for row in self.rows if row.state is RowState.LOST},
            "in_process": sorted(index for local in self.locals for index in local.host.envs),
            "workers": [
                {
                    "envs": list(handle.envs),
                    "pid": handle.process.pid,
                    "episodes": handle.episodes,
                    "memory_bytes": handle.memory_bytes(),
                }
                for _, handle in self.handles()
            ],
            "restarts_spent": self.budget.spent_in_all(),
        }

    # --- the end

    def shutdown(self, close_seconds: float) -> None:
        """Close every env, kill the workers that are left and free everything. A second call has no effect."""
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
            worker_link.wait_readable(living, 0.005)
            time.sleep(0.001)
        for handle in workers:
            handle.kill()
        if self._fork_server is not None:
            self._fork_server.close()
        for local in self.locals:
            local.host.close()


log = logging.getLogger(__name__)


def _last_line(trace: str) -> str:
    return (trace.strip().splitlines() or ["no traceback"])[-1]


def _place_of(trace: str) -> str:
    """The innermost line of a traceback and the type of its exception; its message may differ from time to time."""
    lines = trace.strip().splitlines()
    innermost = next((line for line in reversed(lines) if line.startswith('  File "')), "")
    raised = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
    return f"{innermost.strip()}: {raised.partition(':')[0]}" if innermost else ""
