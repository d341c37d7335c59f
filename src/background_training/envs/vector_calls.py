"""Calls and attributes of a vector env's envs, the step of those that have fallen back into this process, and a look at all."""

from __future__ import annotations

import time
from typing import Any

import cloudpickle

from background_training.envs import collect
from background_training.envs.env_host import News
from background_training.envs.row_states import RowState
from background_training.envs.slots import LocalHost
from background_training.envs.vector_errors import EnvCallError, RestartBudgetError
from background_training.envs.worker_handle import WorkerFault, WorkerHandle
from background_training.envs.worker_supervisor import Fleet


def call(fleet: Fleet, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Call a method of every env; those being rebuilt are waited for.

    Raises:
        EnvCallError: a worker was lost over it.
    """
    groups = _groups(fleet)
    questions = [(host, cloudpickle.dumps((name, indexes, args, kwargs))) for host, indexes in groups]
    values: dict[int, Any] = {}
    for host, indexes in groups:
        if isinstance(host, LocalHost):
            values.update({index: host.host.call(name, index, args, kwargs) for index in indexes})
    for answer in _ask_all(fleet, "call", name, questions):
        values.update(answer)
    return tuple(values.get(row.index) for row in fleet.rows)


def set_attr(fleet: Fleet, name: str, values: list[Any]) -> None:
    """Set an attribute of every env, each to its value, and remember it for envs built later.

    Raises:
        EnvCallError: a worker was lost over it; its successor has the attribute.
    """
    for index, value in enumerate(values):
        fleet.attributes.setdefault(index, {})[name] = value
    questions = []
    for host, indexes in _groups(fleet):
        if isinstance(host, LocalHost):
            for index in indexes:
                host.host.set_attr(name, index, values[index])
        questions.append((host, cloudpickle.dumps((name, {index: values[index] for index in indexes}))))
    for slot in fleet.slots:  # a standby hosts the same envs, which will be used later
        if slot.standby is not None and slot.standby.ready and all(host is not slot.standby for host, _ in questions):
            questions.append((slot.standby, cloudpickle.dumps((name, {index: values[index] for index in slot.envs}))))
    _ask_all(fleet, "set", name, questions)


def _groups(fleet: Fleet) -> list[tuple[Any, list[int]]]:
    """Every host that serves rows, with these rows."""
    fleet.wake(row.index for row in fleet.rows if row.state is RowState.DOWN)
    collect.wait_until(fleet, lambda: not fleet.awaited_rows())
    hosts = {id(row.host): row.host for row in fleet.rows if row.host is not None}
    return [(host, [row.index for row in fleet.rows if row.host is host]) for host in hosts.values()]


def _ask_all(fleet: Fleet, kind: str, name: str, questions: list[tuple[Any, bytes]]) -> list[Any]:
    asked: list[WorkerHandle] = []
    lost: tuple[int, str] | None = None
    for host, packed in questions:
        if isinstance(host, WorkerHandle):
            try:
                host.send(kind, packed)
                host.expect(kind, time.monotonic() + fleet.settings.call_seconds)
                asked.append(host)
            except WorkerFault as fault:
                told = _give_up(fleet, host, fault)
                lost = lost or told
    answers: list[Any] = []
    errors: list[BaseException] = []
    for handle in asked:
        try:
            _, good, value = collect.answer_of(handle, kind)
        except WorkerFault as fault:
            told = _give_up(fleet, handle, fault)
            lost = lost or told
            continue
        handle.expect("", float("inf"))
        (answers if good else errors).append(value)
    fleet.raise_if_spent()
    if lost is not None:
        raise EnvCallError(name, *lost)
    if errors:
        raise errors[0]
    return answers


def _give_up(fleet: Fleet, handle: WorkerHandle, fault: WorkerFault) -> tuple[int, str]:
    env = handle.culprit(fleet.block)
    fleet.fail(fleet.slot_with(handle), handle, fault, time.monotonic())
    return env, f"{fault.kind}: {fault.detail}"


def step_local(fleet: Fleet, local: LocalHost, buffer: int, actions: dict[int, Any] | None, news: News) -> None:
    """Step an env that lives in this process.

    Raises:
        RestartBudgetError: it failed here too.
    """
    told = local.host.step(buffer, actions) or News()
    for index, trace in told.faults.items():
        row = fleet.rows[index]
        row.state, row.host = RowState.LOST, None
        fleet.locals.remove(local)
        raise RestartBudgetError(index, fleet.budget.spent_by(index), "it failed in this process too", trace)
    news.infos.update(told.infos)
    news.observations.update(told.observations)


def present_state(fleet: Fleet) -> dict[str, Any]:
    """How rows and workers are now, as plain values."""
    workers = [
        {"envs": list(handle.envs), "pid": handle.process.pid, "episodes": handle.episodes, "memory_bytes": handle.memory_bytes()}
        for _, handle in fleet.handles()
    ]
    return {
        "envs": len(fleet.rows),
        "envs_by_state": {state.value: sum(row.state is state for row in fleet.rows) for state in RowState},
        "resting": sorted(index for slot in fleet.slots if slot.resting for index in slot.envs),
        "lost": {row.index: row.reason for row in fleet.rows if row.state is RowState.LOST},
        "in_process": sorted(index for local in fleet.locals for index in local.host.envs),
        "workers": workers,
        "restarts_spent": fleet.budget.spent_in_all(),
    }
