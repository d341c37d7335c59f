"""The spaces of a vector env: those of its first workers' envs, checked against each other and batched."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import cloudpickle
from gymnasium import Space
from gymnasium.error import CustomSpaceError
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces, batch_space, create_shared_memory

from background_training.envs import shared_arrays, worker_requests
from background_training.envs.row_states import RowState
from background_training.envs.shared_arrays import Layout, block_bytes
from background_training.envs.worker_supervisor import WorkerSupervisor


@dataclass(frozen=True)
class BatchSpaces:
    """The spaces of one env and of all, and metadata and render mode of the first env."""

    single_observation: Space[Any]
    observation: Space[Any]
    single_action: Space[Any]
    action: Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None


def agree_on_spaces(
    workers: WorkerSupervisor, observation_mode: str | tuple[Any, Any], *, copy: bool, shared_memory: bool | None = None
) -> BatchSpaces:
    """Wait until every env is built, check that their spaces fit together, and lay out the shared memory.

    Raises:
        RuntimeError: they don't.
        ValueError, TypeError: `observation_mode` is none of Gymnasium's.
        ValueError, TypeError: `shared_memory` is True, and Gymnasium cannot share the observations either.
        RestartBudgetError: an env can't be built.
    """
    worker_requests.wait_until(workers, lambda: all(slot.handle is not None or not slot.envs for slot in workers.slots))
    described = {
        index: spaces for slot in workers.slots for index, spaces in sorted(slot.described.items()) if index in slot.envs
    }
    observations = [env[0] for _, env in sorted(described.items())]
    _, single_action, metadata, render_mode = described[min(described)]
    single, batched = _batch(observations, observation_mode, len(workers.rows))
    _check(described, single, single_action, observation_mode)
    count = len(workers.rows)
    shareable = shared_arrays.is_shareable(single)
    if shared_memory and not shareable:
        _refuse_unless_gymnasium_shares(single)
    shared = single if shareable and shared_memory is not False else None
    shared_action = single_action if shared_arrays.is_shareable(single_action) else None
    size = 0 if shared is None else shared_arrays.byte_count(shared, count)
    spare = shared_arrays.spare_batches(size, copy=copy)
    _attach(workers, Layout(shared, shared_action, count, spare, block_bytes(shared, shared_action, count, spare)))
    return BatchSpaces(single, batched, single_action, batch_space(single_action, count), metadata, render_mode)


def _refuse_unless_gymnasium_shares(single: Space[Any]) -> None:
    try:
        create_shared_memory(single, n=1)  # a TypeError names a space without a fixed size
    except CustomSpaceError as error:
        raise ValueError(f"{single} cannot go through shared memory; leave `shared_memory` out, or set it to False") from error


def _batch(observations: list[Any], mode: str | tuple[Any, Any], count: int) -> tuple[Any, Any]:
    if isinstance(mode, tuple) and len(mode) == 2:
        batched, single = mode
        if not isinstance(batched, Space) or not isinstance(single, Space):
            raise TypeError(f"Expected both elements of observation_mode to be Spaces, got {type(batched)} and {type(single)}")
        return single, batched
    if mode == "same":
        return observations[0], batch_space(observations[0], count)
    if mode == "different":
        return observations[0], batch_differing_spaces(observations)
    raise ValueError(
        "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch observation space, "
        f"actual got {mode}"
    )


def _check(described: dict[int, Any], single: Any, single_action: Any, mode: Any) -> None:
    for index, (observation, action, _, _) in described.items():
        fits = observation == single if mode == "same" else is_space_dtype_shape_equiv(observation, single)
        if not fits:
            raise RuntimeError(
                "observation_mode='same' however some of the sub-environments observation spaces are not equivalent. "
                f"Env {index} has {observation}, the first has {single}. "
                "If this is intentional, use `observation_mode='different'` instead."
                if mode == "same"
                else f"env {index} has the observation space {observation}, the first has {single}; with "
                f"observation_mode={mode!r} shape and dtype must agree_on_spaces"
            )
        if action != single_action:
            raise RuntimeError(f"env {index} has the action space {action}, the first has {single_action}; they must be equal")


def _attach(workers: WorkerSupervisor, layout: Layout) -> None:
    workers.lay_out(layout)
    assert workers.block is not None
    packed = cloudpickle.dumps(layout)
    for row in workers.rows:
        if row.state is RowState.READY:
            workers.block.owner[row.index] = row.host.incarnation
            row.state = RowState.LIVE
    for _, handle in list(workers.handles()):
        handle.attach(workers.block)
        worker_requests.ask(workers, handle, ("attach", packed), "attached", workers.settings.start_seconds)
    worker_requests.wait_until(workers, lambda: not workers.awaited_rows())
    workers.refresh_stepping()
    workers.pump(time.monotonic())
