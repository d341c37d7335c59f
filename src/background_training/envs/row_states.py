"""The state of every row of a vector env, and the contents of a row whose env was not stepped.

Such a row holds the last good observation and reward 0; its info says `worker_restarted`, and why. No row with
`worker_restarted` is experience. The first one of a failure is truncated if an episode was running, and so ends it; the
rows that follow, until the new env plays, are neither terminated nor truncated: each would be an episode of its own.
"""

from __future__ import annotations

import enum
from typing import Any

from gymnasium.vector import AutoresetMode

from background_training.envs import shared_arrays
from background_training.envs.shared_arrays import FIRST_OBSERVATIONS, NO_WORKER, ObservationBatches, SharedBlock


class RowState(enum.Enum):
    """LIVE: its env is stepped. DOWN: it waits for a new worker. READY: the new worker's first observation is there.

    REBUILT: its env failed in this step and was rebuilt within its worker. LOST: given up for good.
    """

    LIVE = "live"
    DOWN = "down"
    READY = "ready"
    REBUILT = "rebuilt"
    LOST = "lost"


class Row:
    """One env's place in the batch.

    host: what steps it, or will from the next step on: a worker's handle, or the host in this process.
    reason: why it is not LIVE.
    fresh_fault: whether the failure happened in this very step.
    after_fault: whether its next first observation follows a failure; otherwise a preventive rebuild.
    playing: whether an episode is running whose end the caller has not seen yet.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = RowState.DOWN
        self.host: Any = None
        self.reason = ""
        self.fresh_fault = False
        self.after_fault = False
        self.playing = False
        self.first_info: dict[str, Any] = {}
        self.first_observation: Any = None
        self.last_observation: Any = None  # only where observations travel as messages

    def begin(self) -> None:
        """Mark it as LIVE: its host plays it from the first observation of an episode on."""
        self.state, self.fresh_fault, self.after_fault, self.playing = RowState.LIVE, False, False, True

    def fault_info(self, phase: str) -> dict[str, Any]:
        """The info of a row that is no experience; phase: fault, waiting, ready, lost."""
        return {"worker_restarted": True, "restart_reason": self.reason, "restart_phase": phase}


class RowFiller:
    """Writes the rows that no worker has written in this step."""

    def __init__(self, block: SharedBlock, batches: ObservationBatches, mode: AutoresetMode) -> None:
        self._block = block
        self._batches = batches
        self._mode = mode

    def fill(self, row: Row, buffer: int, observations: dict[int, Any]) -> dict[str, Any]:
        """Write one row that is not LIVE, move it on where it is READY or REBUILT, and return its info.

        Args:
            row: the row.
            buffer: the observation batch of this step.
            observations: of this step, per env, where they travel as messages; one is added, or replaced.
        """
        if row.state is RowState.REBUILT:
            return self._fill_rebuilt(row, buffer, observations)
        if row.state is RowState.READY and not row.fresh_fault and self._mode is not AutoresetMode.DISABLED:
            return self._fill_first(row, buffer, observations)
        self._put_last_good(row, buffer, observations)
        lost = row.state is RowState.LOST
        info = row.fault_info("lost" if lost else "fault" if row.fresh_fault else "waiting")
        row.fresh_fault = False
        return self._cut(row, info)

    def _fill_rebuilt(self, row: Row, buffer: int, observations: dict[int, Any]) -> dict[str, Any]:
        info = row.fault_info("fault")
        same_step = self._mode is AutoresetMode.SAME_STEP
        if same_step:  # the new env's first observation is in place already
            info = {**row.first_info, **info}
        else:
            self._put_last_good(row, buffer, observations)
        info = self._cut(row, info)
        row.state, row.fresh_fault, row.playing = RowState.LIVE, False, same_step
        return info

    def _fill_first(self, row: Row, buffer: int, observations: dict[int, Any]) -> dict[str, Any]:
        """Begin the new env's first episode: in NEXT_STEP mode a reset like any other."""
        info = dict(row.first_info)
        if self._mode is AutoresetMode.SAME_STEP:
            info.update(row.fault_info("ready"))
        elif row.after_fault:
            info["restart_phase"] = "ready"
        self.put_first(row, buffer, observations)
        self._mark(row.index, truncated=False)
        return info

    def put_first(self, row: Row, buffer: int, observations: dict[int, Any]) -> None:
        """Copy a READY row's first observation into the batch and assign the row to its new host."""
        if self._block.observations is not None:
            shared_arrays.copy_row(self._block.observations[buffer], self._block.observations[FIRST_OBSERVATIONS], row.index)
        else:
            observations[row.index] = row.first_observation
        self._block.owner[row.index] = row.host.incarnation
        row.begin()

    def last_good(self, row: Row) -> Any:
        """A copy of the observation before this step's."""
        if self._block.observations is not None:
            return shared_arrays.row_reader(self._block.observations[self._batches.previous])(row.index)
        return row.last_observation

    def present(self, row: Row, buffer: int, observations: dict[int, Any]) -> Any:
        """A copy of this step's observation."""
        if self._block.observations is not None:
            return shared_arrays.row_reader(self._block.observations[buffer])(row.index)
        return observations[row.index]

    def _put_last_good(self, row: Row, buffer: int, observations: dict[int, Any]) -> None:
        if self._block.observations is not None:
            observed = self._block.observations
            shared_arrays.copy_row(observed[buffer], observed[self._batches.previous], row.index)
        else:
            observations[row.index] = row.last_observation

    def keep(self, row: Row, buffer: int, observations: dict[int, Any]) -> None:
        """Leave a row as it was: it takes no part in this reset."""
        self._put_last_good(row, buffer, observations)

    def _cut(self, row: Row, info: dict[str, Any]) -> dict[str, Any]:
        """End the running episode, if there is one, with the last good observation."""
        cut, row.playing = row.playing, False
        self._mark(row.index, truncated=cut)
        if not cut or self._mode is not AutoresetMode.SAME_STEP:
            return info
        return {"final_info": row.fault_info("fault"), "final_obs": self.last_good(row), **info}

    def _mark(self, index: int, *, truncated: bool) -> None:
        self._block.rewards[index] = 0.0
        self._block.terminations[index] = False
        self._block.truncations[index] = truncated


def release(row: Row, block: SharedBlock | None, reason: str) -> None:
    """Take a row from its host, which has failed."""
    row.state, row.host, row.reason, row.fresh_fault, row.after_fault = RowState.DOWN, None, reason, True, True
    if block is not None:
        block.owner[row.index] = NO_WORKER
