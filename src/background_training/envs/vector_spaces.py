"""Ask the first workers for their envs' spaces, and make one batch of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import cloudpickle
from gymnasium import Space
from gymnasium.error import CustomSpaceError
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces, batch_space, create_shared_memory

from background_training.envs import collect, observation_batches, shared_observations
from background_training.envs.env_worker import Layout
from background_training.envs.row_states import RowState
from background_training.envs.shared_block import block_bytes
from background_training.envs.worker_supervisor import Fleet


@dataclass(frozen=True)
class BatchSpaces:
    """The spaces of one env and of all, and what else the first env says about itself."""

    single_observation: Space[Any]
    observation: Space[Any]
    single_action: Space[Any]
    action: Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None


def agree(fleet: Fleet, observation_mode: str | tuple[Any, Any], *, copy: bool, shared_memory: bool | None = None) -> BatchSpaces:
    """Wait until every env is built, check that their spaces fit together, and lay out the shared memory.

    Raises:
        RuntimeError: they don't.
        ValueError, TypeError: `observation_mode` is none of Gymnasium's.
        ValueError, TypeError: `shared_memory` is True, and Gymnasium cannot share the observations either.
        RestartBudgetError: an env can't be built.
    """
    collect.wait_until(fleet, lambda: all(slot.handle is not None or not slot.envs for slot in fleet.slots))
    described = {index: told for slot in fleet.slots for index, told in sorted(slot.described.items()) if index in slot.envs}
    observations = [told[0] for _, told in sorted(described.items())]
    _, single_action, metadata, render_mode = described[min(described)]
    single, batched = _batch(observations, observation_mode, len(fleet.rows))
    _check(described, single, single_action, observation_mode)
    count = len(fleet.rows)
    shareable = shared_observations.is_shareable(single)
    if shared_memory and not shareable:
        _refuse_unless_gymnasium_shares(single)
    shared = single if shareable and shared_memory is not False else None
    shared_action = single_action if shared_observations.is_shareable(single_action) else None
    size = 0 if shared is None else shared_observations.byte_count(shared, count)
    spare = observation_batches.spare_batches(size, copy=copy)
    _attach(fleet, Layout(shared, shared_action, count, spare, block_bytes(shared, shared_action, count, spare)))
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
                f"observation_mode={mode!r} shape and dtype must agree"
            )
        if action != single_action:
            raise RuntimeError(f"env {index} has the action space {action}, the first has {single_action}; they must be equal")


def _attach(fleet: Fleet, layout: Layout) -> None:
    fleet.lay_out(layout)
    assert fleet.block is not None
    packed = cloudpickle.dumps(layout)
    for row in fleet.rows:
        if row.state is RowState.READY:
            fleet.block.owner[row.index] = row.host.generation
            row.state = RowState.LIVE
    for _, handle in list(fleet.handles()):
        handle.attach(fleet.block)
        collect.ask(fleet, handle, ("attach", packed), "attached", fleet.settings.start_seconds)
    collect.wait_until(fleet, lambda: not fleet.awaited_rows())
    fleet.refresh_stepping()
    fleet.pump(time.monotonic())
