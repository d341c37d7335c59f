"""What a vector env asks its workers, and how it waits for the answers: steps, resets, calls and attributes.

A worker that dies, hangs or sends garbage meanwhile is replaced, not waited for.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from background_training.envs import worker_link
from background_training.envs.env_host import HostReport
from background_training.envs.row_states import Row, RowState
from background_training.envs.worker_handle import WorkerFault, WorkerHandle
from background_training.envs.worker_supervisor import LocalHost, WorkerSupervisor
from background_training.errors import EnvCallError, RestartBudgetError

_CHECK_SECONDS = 0.1


class Answers:
    """The answers to one step or reset, merged into one `report`."""

    def __init__(self, workers: WorkerSupervisor) -> None:
        self._workers = workers
        self.report = HostReport()

    def begin(self) -> None:
        """Drop the report of the step before."""
        if self.report:
            self.report = HostReport()

    def absorb(self, handle: WorkerHandle, report: HostReport, now: float) -> None:
        """Merge a worker's report about its envs into this one.

        Raises:
            WorkerFault: an env of it failed and could not be rebuilt.
        """
        for index, trace in report.faults.items():
            if index not in report.rebuilt:
                lines = trace.strip().splitlines()
                in_reset = index in report.in_reset
                raise WorkerFault("exception", lines[-1] if lines else "", trace, env=index, in_reset=in_reset)
        for index in report.rebuilt:
            self._workers.rows[index].first_info = report.infos.pop(index, {})
            self._workers.failed_in_place(handle, index, report.faults[index], now, in_reset=index in report.in_reset)
        self.report.infos.update(report.infos)
        self.report.observations.update(report.observations)

    def quick_step(self) -> list[WorkerHandle]:
        """Take the answers without a report that come within a moment; returns the other workers."""
        asked, slow = self._workers.stepping, []
        # The worker that was asked last answers last: by then the others have answered, and did not have to wake this process.
        for handle in reversed(asked):
            try:
                if not handle.poll_answer():
                    slow.append(handle)
            except WorkerFault as fault:
                self._fail(handle, fault)
        return slow

    def wait(self, pending: list[WorkerHandle], kind: str, limit_seconds: float, timeout: float | None = None) -> None:
        """Wait until every worker has answered or was given up.

        Args:
            pending: those still to answer; emptied one by one.
            kind: "step" or "reset".
            limit_seconds: what one env may take.
            timeout: of the caller; None waits as long as it takes.

        Raises:
            multiprocessing.TimeoutError: the caller's time is up. Nothing is lost; wait again.
        """
        start = time.monotonic()
        for handle in pending:
            handle.expect(kind, limit_seconds)
        while pending:
            now = time.monotonic()
            for handle in tuple(pending):
                if handle.closed or self._has_answered(handle, kind, limit_seconds, now):
                    pending.remove(handle)
            self._workers.inspect(now)
            if self._workers.busy:
                self._workers.pump(now)
            if not pending:
                return
            if timeout is not None and now - start >= timeout:
                raise multiprocessing.TimeoutError(f"The call to `{kind}_wait` has timed out after {timeout} second(s).")
            worker_link.wait_readable([handle.link for handle in pending if not handle.closed], _CHECK_SECONDS)

    def _has_answered(self, handle: WorkerHandle, kind: str, limit_seconds: float, now: float) -> bool:
        try:
            message = handle.next_message()
            if message is None:
                if kind == "step" and handle.has_stepped():
                    return True
                handle.check(self._workers.block)
                return False
            if not isinstance(message, tuple) or message[0] != kind:
                raise WorkerFault("garbled pipe", f"{kind} was answered by {message!r:.80}")
            self.absorb(handle, message[1], now)
        except WorkerFault as fault:
            self._fail(handle, fault)
        return True

    def _fail(self, handle: WorkerHandle, fault: WorkerFault) -> None:
        if not handle.closed:
            self._workers.fail(self._workers.slot_with(handle), handle, fault, time.monotonic())


def ask(
    workers: WorkerSupervisor, handle: WorkerHandle, question: tuple[object, ...], answer_kind: str, limit_seconds: float
) -> bool:
    """Send a question and wait for its answer; False if the worker had to be given up (`workers` then replaces it)."""
    try:
        handle.send(*question)
        handle.expect(answer_kind, limit_seconds)
        answer_of(handle, answer_kind)
    except WorkerFault as fault:
        workers.fail(workers.slot_with(handle), handle, fault, time.monotonic())
        return False
    handle.expect("", float("inf"))
    return True


def answer_of(handle: WorkerHandle, kind: str) -> tuple[Any, ...]:
    """Wait for a worker's answer of the kind.

    Raises:
        WorkerFault: it has failed, or answers something else.
    """
    while True:
        message = handle.next_message()
        if isinstance(message, tuple) and message[0] == kind:
            return message
        if message is not None:
            raise WorkerFault("garbled pipe", f"{kind} was answered by {message!r:.80}")
        handle.check(None)
        worker_link.wait_readable([handle.link], _CHECK_SECONDS)


def wait_until(workers: WorkerSupervisor, condition: Callable[[], bool]) -> None:
    """Advance restarts until the condition holds.

    Raises:
        RestartBudgetError: restarts are spent.
    """
    while True:
        workers.pump(time.monotonic())
        workers.raise_if_spent()
        if condition():
            return
        starting = [slot.standby.link for slot in workers.slots if slot.standby is not None and not slot.standby.ready]
        if starting:
            worker_link.wait_readable(starting, 0.05)
        else:
            time.sleep(0.005)


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


class PendingReset:
    """A reset under way.

    done: the envs whose new first observation is in the batch.
    """

    def __init__(
        self, workers: WorkerSupervisor, seeds: dict[int, int | None], options: dict[str, Any] | None, buffer: int
    ) -> None:
        self._workers = workers
        self._seeds = seeds
        self._options = options
        self._buffer = buffer
        self._answers = Answers(workers)
        self._pending: list[WorkerHandle] = []
        self._asked: dict[int, Any] = {}
        self._faulty: dict[int, str] = {}
        self.done: set[int] = set()
        for index, seed in seeds.items():
            if seed is not None:
                workers.seeds[index] = seed

    def send(self) -> None:
        """Ask every worker that is up and hosts envs that are still to be reset."""
        workers = self._workers
        workers.was_reset = True
        workers.wake(self._seeds)
        workers.pump(time.monotonic())
        rows = [workers.rows[index] for index in self._seeds if index not in self.done]
        for row in rows:
            self._assign(row)
        workers.refresh_stepping()
        for host in {id(row.host): row.host for row in rows if row.host is not None}.values():
            self._ask(host, {row.index: self._seeds[row.index] for row in rows if row.host is host})

    def _assign(self, row: Row) -> None:
        """Assign the row to the worker that is to reset it: the standby, where there is one."""
        workers = self._workers
        assert workers.block is not None
        if row.state is RowState.LIVE:
            workers.hand_over(row, time.monotonic())
        if row.state in (RowState.READY, RowState.REBUILT):
            if row.after_fault or row.fresh_fault:
                self._faulty[row.index] = row.reason
            workers.block.owner[row.index] = row.host.incarnation
            row.begin()

    def _ask(self, host: Any, seeds: dict[int, int | None]) -> None:
        self._asked.update(dict.fromkeys(seeds, host))
        if isinstance(host, LocalHost):
            report = host.host.reset(self._buffer, seeds, self._options)
            self._answers.report.infos.update(report.infos)
            self._answers.report.observations.update(report.observations)
            return
        try:
            host.send("reset", self._buffer, seeds, self._options)
        except WorkerFault as fault:
            self._workers.fail(self._workers.slot_with(host), host, fault, time.monotonic())
            return
        self._pending.append(host)

    def finish(self, timeout: float | None) -> HostReport:
        """Wait until every env has a first observation or is given up.

        Raises:
            multiprocessing.TimeoutError: the caller's time is up. Nothing is lost; call again.
            RestartBudgetError: restarts are spent.
        """
        workers = self._workers
        while True:
            self._answers.wait(self._pending, "reset", workers.settings.reset_seconds, timeout)
            self._note_done()
            rest = [workers.rows[index] for index in self._seeds if index not in self.done]
            if all(row.state is RowState.LOST for row in rest):
                break
            if all(row.host is None for row in rest):
                self._wait_for_any(rest)
            self.send()
        return self._report_with_faults(rest)

    def _wait_for_any(self, rows: list[Row]) -> None:
        wait_until(self._workers, lambda: any(row.host is not None or row.state is RowState.LOST for row in rows))

    def _note_done(self) -> None:
        for index, host in self._asked.items():
            row = self._workers.rows[index]
            if row.host is host and row.state in (RowState.LIVE, RowState.REBUILT):
                if row.state is RowState.REBUILT:
                    self._answers.report.infos[index] = row.first_info
                    self._assign(row)
                row.playing = True
                self.done.add(index)
            elif row.state is RowState.DOWN:
                self._faulty[index] = row.reason
        self._asked = {}

    def _report_with_faults(self, lost: list[Row]) -> HostReport:
        infos = self._answers.report.infos
        for index, reason in self._faulty.items():
            infos[index] = {**infos.get(index, {}), "worker_restarted": True, "restart_reason": reason, "restart_phase": "ready"}
        for row in lost:
            infos[row.index], row.playing = row.fault_info("lost"), False
        return self._answers.report


def call(workers: WorkerSupervisor, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Call a method of every env; those being rebuilt are waited for.

    Raises:
        EnvCallError: a worker was lost during the call.
    """
    groups = _rows_by_host(workers)
    questions = [(host, cloudpickle.dumps((name, indexes, args, kwargs))) for host, indexes in groups]
    values: dict[int, Any] = {}
    for host, indexes in groups:
        if isinstance(host, LocalHost):
            values.update({index: host.host.call(name, index, args, kwargs) for index in indexes})
    for answer in _ask_all(workers, "call", name, questions):
        values.update(answer)
    return tuple(values.get(row.index) for row in workers.rows)


def set_attr(workers: WorkerSupervisor, name: str, values: list[Any]) -> None:
    """Set an attribute of every env, each to its value, and store it for envs built later.

    Raises:
        EnvCallError: a worker was lost during the call; its replacement has the attribute.
    """
    for index, value in enumerate(values):
        workers.attributes.setdefault(index, {})[name] = value
    questions = []
    for host, indexes in _rows_by_host(workers):
        if isinstance(host, LocalHost):
            for index in indexes:
                host.host.set_attr(name, index, values[index])
        questions.append((host, cloudpickle.dumps((name, {index: values[index] for index in indexes}))))
    for slot in workers.slots:  # a standby hosts the same envs, which will be used later
        if slot.standby is not None and slot.standby.ready and all(host is not slot.standby for host, _ in questions):
            questions.append((slot.standby, cloudpickle.dumps((name, {index: values[index] for index in slot.envs}))))
    _ask_all(workers, "set", name, questions)


def _rows_by_host(workers: WorkerSupervisor) -> list[tuple[Any, list[int]]]:
    """Every host that steps rows, with these rows."""
    workers.wake(row.index for row in workers.rows if row.state is RowState.DOWN)
    wait_until(workers, lambda: not workers.awaited_rows())
    hosts = {id(row.host): row.host for row in workers.rows if row.host is not None}
    return [(host, [row.index for row in workers.rows if row.host is host]) for host in hosts.values()]


def _ask_all(workers: WorkerSupervisor, kind: str, name: str, questions: list[tuple[Any, bytes]]) -> list[Any]:
    asked: list[WorkerHandle] = []
    lost: tuple[int, str] | None = None
    for host, packed in questions:
        if isinstance(host, WorkerHandle):
            try:
                host.send(kind, packed)
                host.expect(kind, workers.settings.call_seconds)
                asked.append(host)
            except WorkerFault as fault:
                failure = _give_up(workers, host, fault)
                lost = lost or failure
    answers: list[Any] = []
    errors: list[BaseException] = []
    for handle in asked:
        try:
            _, good, value = answer_of(handle, kind)
        except WorkerFault as fault:
            failure = _give_up(workers, handle, fault)
            lost = lost or failure
            continue
        handle.expect("", float("inf"))
        (answers if good else errors).append(value)
    workers.raise_if_spent()
    if lost is not None:
        raise EnvCallError(name, *lost)
    if errors:
        raise errors[0]
    return answers


def _give_up(workers: WorkerSupervisor, handle: WorkerHandle, fault: WorkerFault) -> tuple[int, str]:
    env = handle.culprit(workers.block)
    workers.fail(workers.slot_with(handle), handle, fault, time.monotonic())
    return env, f"{fault.kind}: {fault.detail}"


def step_local(
    workers: WorkerSupervisor, local: LocalHost, buffer: int, actions: dict[int, Any] | None, report: HostReport
) -> None:
    """Step an env that lives in this process.

    Raises:
        RestartBudgetError: it failed here too.
    """
    own = local.host.step(buffer, actions) or HostReport()
    for index, trace in own.faults.items():
        row = workers.rows[index]
        row.state, row.host = RowState.LOST, None
        workers.locals.remove(local)
        raise RestartBudgetError(index, workers.budget.spent_by(index), "it failed in this process too", trace)
    report.infos.update(own.infos)
    report.observations.update(own.observations)
