"""All workers of a vector env: started, watched, replaced when they fail, renewed before they do."""

from __future__ import annotations

import logging
from typing import Any

import cloudpickle
from gymnasium.vector import AutoresetMode

from background_training.envs import row_states
from background_training.envs.env_host import EnvHost, HostPlan, News
from background_training.envs.env_worker import FIRST_OBSERVATIONS
from background_training.envs.health import Failure
from background_training.envs.row_states import Row, RowState
from background_training.envs.shared_block import NOBODY
from background_training.envs.slots import LocalHost, Roster, Slot
from background_training.envs.vector_errors import RepeatedFaultError, RestartBudgetError
from background_training.envs.worker_handle import WorkerFault, WorkerHandle, zero_progress

log = logging.getLogger(__name__)

_PROGRESS_STEPS = 3  # one first observation, one good step, and the step that failed
_LOOK_SECONDS = 1.0


class Fleet(Roster):
    """The workers and rows of one vector env: what fails is replaced, what grows old is renewed."""

    def pump(self, now: float) -> None:
        """Move everything on that waits: starts, standbys, retired workers, resting envs. Never waits itself."""
        for slot in self.slots:
            if slot.restart_at is not None and now >= slot.restart_at and slot.standby is None and slot.envs:
                self._start_standby(slot, now)
            if slot.standby is not None and not slot.standby.ready:
                self._read_standby(slot, slot.standby, now)
        self._grow(now)
        self.bury(now)
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
                standby.check(now, None, 0.0)
                return
            if not isinstance(message, tuple) or message[0] not in ("built", "failed"):
                raise WorkerFault("garbled pipe", f"it should say that it is up, and said {message!r:.80}")
            if message[0] == "failed":
                raise WorkerFault("exception", _last_line(message[1]), message[1], env=message[2], in_reset=True)
            news = message[2]
            for index, trace in news.faults.items() if news else ():
                if index not in news.rebuilt:
                    raise WorkerFault("exception", _last_line(trace), trace, env=index, in_reset=True)
        except WorkerFault as fault:
            self.fail(slot, standby, fault, now)
            return
        self._standby_is_up(slot, standby, message, now)

    def _standby_is_up(self, slot: Slot, standby: WorkerHandle, message: Any, now: float) -> None:
        _, description, news = message
        standby.ready = True
        standby.expect("", float("inf"))
        if description is not None:
            slot.described = cloudpickle.loads(description)
        for index in slot.envs:
            row = self.rows[index]
            row.first_info = (news or News()).infos.get(index, {})
            row.first_observation = (news or News()).observations.get(index)
            if row.state is RowState.DOWN:
                self._give(row, standby, now)
            elif self.block is not None and self.mode is AutoresetMode.SAME_STEP:
                self.block.hold[index] = True
        self._next_rebuild = now + (now - slot.started_at) / self.settings.rebuild_share
        self._promote(slot, now)

    def _give(self, row: Row, host: Any, now: float) -> None:
        """Let a row go to its new host: at once before the first reset, otherwise with its first observation."""
        row.host = host
        row.state = RowState.READY
        self._up_since_step[row.index] = self.steps
        slot = self.slot_of[row.index]
        if slot.failed_at is not None:
            self.tracker.recovered(now - slot.failed_at)
            slot.failed_at = None
        if not self.was_reset and self.block is not None:
            self.block.owner[row.index] = host.generation
            row.state = RowState.LIVE

    def hand_over(self, row: Row, now: float) -> bool:
        """At the end of an episode: let the standby take the row. False if there is none."""
        slot = self.slot_of[row.index]
        if slot.standby is None or not slot.standby.ready or row.host is slot.standby:
            return False
        assert self.block is not None
        self.block.owner[row.index] = NOBODY
        self.block.hold[row.index] = False
        row.reason, row.after_fault = "preventive rebuild", False
        self._give(row, slot.standby, now)
        self._promote(slot, now)
        self.busy = True
        return True

    def _promote(self, slot: Slot, now: float) -> None:
        """Once the standby has every row, it is the slot's worker, and the old one may go."""
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
        """Kill a worker that is of no more use, take its rows down, and see to a new one, or give the env up."""
        culprit = handle.culprit(self.block) if fault.env is None else fault.env
        words = fault.trace or handle.last_words()
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
                    self._give(self.rows[index], slot.standby, now)
            self._promote(slot, now)

    def _is_deterministic(self, index: int, trace: str, *, had_progress: bool) -> bool:
        """Count how often building or resetting the env has raised the same at the same place; whether that is enough.

        Args:
            index: the env.
            trace: what was raised; empty for any other fault, which ends the row of the same.
            had_progress: whether the env was stepped since the last time, which ends it too.
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
        # A worker that never was up has made no progress, however far the others have come meanwhile.
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
            log.warning("envs %s rest: too many failures lately; they come back when it is calm", slot.envs)
            return
        slot.restart_at = now + self.budget.wait_seconds(culprit)

    def failed_in_place(self, handle: WorkerHandle, index: int, trace: str, now: float, *, in_reset: bool) -> None:
        """Note an env that failed with an exception and was built anew within its worker."""
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
            log.warning("env %d failed: exception; it is built anew in its worker\n%s", index, trace)
            return
        assert self.block is not None
        self.block.owner[index] = NOBODY
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
        """Raise what a spent budget leads to, now that every other worker's answer is in.

        Raises:
            RestartBudgetError: restarts are spent and `on_exhausted` is "raise", or no env is left.
        """
        error, self._fatal = self._fatal, None
        if error is not None:
            raise error

    def _fall_back(self, row: Row, error: RestartBudgetError, now: float) -> None:
        """Host the env in this process. What kills it now kills us, so its errors are raised."""
        self._generations += 1
        plan = HostPlan({row.index: self.factories[row.index]}, self.attributes, self._generations, self.mode)
        assert self.block is not None
        # A factory may raise anything; it is the cause of the error that says that nothing more can be done.
        try:
            host = LocalHost(self._generations, EnvHost(plan))
            host.host.build()
        except Exception as cause:  # noqa: BLE001
            error.__cause__ = cause
            self._fatal = self._fatal or error
            return
        host.host.attach(self.block)
        if self.was_reset:
            news = host.host.reset(FIRST_OBSERVATIONS, {row.index: self.first_seed(row.index)}, None)
            if news.faults:
                self._fatal = self._fatal or error
                return
            row.first_info, row.first_observation = news.infos.get(row.index, {}), news.observations.get(row.index)
        self.locals.append(host)
        self._give(row, host, now)

    # --- calm times

    def look_after(self, now: float) -> None:
        """Now and then: memory, stderr, preventive rebuilds."""
        if now < self._next_look and self.tracker.episodes - self._episodes_at_look < self.settings.check_episodes:
            return
        self._next_look, self._episodes_at_look = now + _LOOK_SECONDS, self.tracker.episodes
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

    def _grow(self, now: float) -> None:
        if not self.tracker.may_grow(now):
            return
        for slot in self.slots:
            if slot.resting:
                log.info("envs %s come back: it is calm", slot.envs)
                slot.resting, slot.restart_at = False, now
                self.tracker.grown(now)
                return


def _last_line(trace: str) -> str:
    return (trace.strip().splitlines() or ["no traceback"])[-1]


def _place_of(trace: str) -> str:
    """The innermost line of a traceback and the type of its exception; its message may differ from time to time."""
    lines = trace.strip().splitlines()
    innermost = next((line for line in reversed(lines) if line.startswith('  File "')), "")
    raised = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
    return f"{innermost.strip()}: {raised.partition(':')[0]}" if innermost else ""
