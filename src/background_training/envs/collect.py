"""Wait for the answers of many workers; whoever dies, hangs or babbles meanwhile is replaced, not waited for."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from background_training.envs import worker_platform
from background_training.envs.env_host import News
from background_training.envs.worker_handle import WorkerFault, WorkerHandle
from background_training.envs.worker_supervisor import Fleet

_LOOK_SECONDS = 0.1


class Gathering:
    """The answers to one step or reset.

    infos and observations: per env, as the workers told them. failed: whether any worker or env did.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.news = News()

    def begin(self) -> None:
        """Forget what was told about the step before."""
        if self.news:
            self.news = News()

    def absorb(self, handle: WorkerHandle, news: News, now: float) -> None:
        """Take in what a worker tells about its envs.

        Raises:
            WorkerFault: an env of it failed and could not be built anew.
        """
        for index, trace in news.faults.items():
            if index not in news.rebuilt:
                lines = trace.strip().splitlines()
                in_reset = index in news.in_reset
                raise WorkerFault("exception", lines[-1] if lines else "", trace, env=index, in_reset=in_reset)
        for index in news.rebuilt:
            self._fleet.rows[index].first_info = news.infos.pop(index, {})
            self._fleet.failed_in_place(handle, index, news.faults[index], now, in_reset=index in news.in_reset)
        self.news.infos.update(news.infos)
        self.news.observations.update(news.observations)

    def quick_step(self) -> list[WorkerHandle]:
        """Take the answers of workers that have nothing to tell; returns the others."""
        asked, slow = self._fleet.stepping, []
        # Who was asked last answers last: when he has, the others have already, and did not have to wake us.
        for handle in reversed(asked):
            try:
                if not handle.quick_answer():
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
            handle.expect(kind, start + limit_seconds)
        while pending:
            now = time.monotonic()
            for handle in tuple(pending):
                if handle.closed or self._has_answered(handle, kind, limit_seconds, now):
                    pending.remove(handle)
            self._fleet.look_after(now)
            if self._fleet.busy:
                self._fleet.pump(now)
            if not pending:
                return
            if timeout is not None and now - start >= timeout:
                raise multiprocessing.TimeoutError(f"The call to `{kind}_wait` has timed out after {timeout} second(s).")
            worker_platform.wait_readable([handle.link for handle in pending if not handle.closed], _LOOK_SECONDS)

    def _has_answered(self, handle: WorkerHandle, kind: str, limit_seconds: float, now: float) -> bool:
        try:
            message = handle.next_message()
            if message is None:
                if kind == "step" and handle.has_stepped():
                    return True
                handle.check(now, self._fleet.block, limit_seconds)
                return False
            if not isinstance(message, tuple) or message[0] != kind:
                raise WorkerFault("garbled pipe", f"{kind} was answered by {message!r:.80}")
            self.absorb(handle, message[1], now)
        except WorkerFault as fault:
            self._fail(handle, fault)
        return True

    def _fail(self, handle: WorkerHandle, fault: WorkerFault) -> None:
        if not handle.closed:
            self._fleet.fail(self._fleet.slot_with(handle), handle, fault, time.monotonic())


def ask(fleet: Fleet, handle: WorkerHandle, question: tuple[object, ...], answer_kind: str, limit_seconds: float) -> bool:
    """Send a question and wait for its answer; False if the worker had to be given up (`fleet` then replaces it)."""
    try:
        handle.send(*question)
        handle.expect(answer_kind, time.monotonic() + limit_seconds)
        answer_of(handle, answer_kind)
    except WorkerFault as fault:
        fleet.fail(fleet.slot_with(handle), handle, fault, time.monotonic())
        return False
    handle.expect("", float("inf"))
    return True


def answer_of(handle: WorkerHandle, kind: str) -> tuple[Any, ...]:
    """Wait for a worker's answer of the kind.

    Raises:
        WorkerFault: it is of no more use, or answers something else.
    """
    while True:
        message = handle.next_message()
        if isinstance(message, tuple) and message[0] == kind:
            return message
        if message is not None:
            raise WorkerFault("garbled pipe", f"{kind} was answered by {message!r:.80}")
        handle.check(time.monotonic(), None, 0.0)
        worker_platform.wait_readable([handle.link], _LOOK_SECONDS)


def wait_until(fleet: Fleet, condition: Callable[[], bool]) -> None:
    """Let restarts go on until the condition holds.

    Raises:
        RestartBudgetError: restarts are spent.
    """
    while True:
        fleet.pump(time.monotonic())
        fleet.raise_if_spent()
        if condition():
            return
        starting = [slot.standby.link for slot in fleet.slots if slot.standby is not None and not slot.standby.ready]
        if starting:
            worker_platform.wait_readable(starting, 0.05)
        else:
            time.sleep(0.005)
