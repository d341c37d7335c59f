"""All of a vector env's API but steps and resets: calls, attributes, frames, health, the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import logger
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import concatenate, create_empty_array

from background_training.envs import vector_calls
from background_training.envs.observation_batches import ObservationBatches
from background_training.envs.row_states import RowState
from background_training.envs.shared_block import SharedBlock
from background_training.envs.vector_settings import VectorSettings
from background_training.envs.worker_supervisor import Fleet


class VectorFace(VectorEnv[Any, Any, Any]):
    """What every vector env over a Fleet can do besides playing."""

    settings: VectorSettings
    copy: bool
    _fleet: Fleet
    _block: SharedBlock
    _batches: ObservationBatches
    _state: AsyncState
    _finalizer: Any

    def _batch(self, observations: dict[int, Any]) -> Any:
        if self._block.observations is not None:
            return self._batches.hand_out()
        for index, observation in observations.items():
            self._fleet.rows[index].last_observation = observation
        samples = [row.last_observation for row in self._fleet.rows]
        empty: Any = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, samples, empty)

    def _merge_infos(self, infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for index in sorted(infos):
            merged = self._add_info(merged, infos[index], index)
        return merged

    # --- everything else

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every env, or read an attribute; None for an env that was given up.

        Raises:
            EnvCallError: a worker was lost over it. Whatever the method itself raises is raised too.
        """
        self._assert_idle("call")
        return vector_calls.call(self._fleet, name, args, kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every env."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every env: one value for all, or a list or tuple with one for each. Rebuilt envs get it again."""
        self._assert_idle("set_attr")
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        vector_calls.set_attr(self._fleet, name, list(values))

    def render(self) -> tuple[Any, ...]:
        """The frames of all envs."""
        return self.call("render")

    @property  # type: ignore[misc]  # Gymnasium's own vector envs read it from their envs too
    def np_random(self) -> Any:
        """The envs' random generators, as copies."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The envs' seeds."""
        return self.get_attr("np_random_seed")

    @property
    def active(self) -> Any:
        """[N] bool, which envs are being stepped; the others' rows are no experience."""
        return np.array([row.state is RowState.LIVE for row in self._fleet.rows])

    @property
    def row_states(self) -> list[str]:
        """Per env: live, down (its worker is being replaced), ready (it is up, not yet stepped), rebuilt or lost."""
        return [row.state.value for row in self._fleet.rows]

    def health(self) -> dict[str, Any]:
        """What has failed, what was done about it, and how the workers are now; plain values."""
        return {**self._fleet.tracker.snapshot(), **vector_calls.present_state(self._fleet)}

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the envs, for `timeout` seconds at most, and end all workers. It never fails because of a worker."""
        seconds = 0.0 if terminate else self.settings.close_seconds if timeout is None else timeout
        self._fleet.shutdown(seconds)
        self._finalizer()
        # Last, as a warning may be an error; and a constructor that failed has left no state.
        pending = getattr(self, "_state", AsyncState.DEFAULT)
        if pending is not AsyncState.DEFAULT:
            logger.warn(f"Calling `close` while waiting for a pending call to `{pending.value}` to complete.")

    def _assert_idle(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")
        if self._state is not AsyncState.DEFAULT:
            message = f"Calling `{name}` while waiting for a pending call to `{self._state.value}` to complete."
            raise AlreadyPendingCallError(message, str(self._state.value))

    def _assert_waiting(self, state: AsyncState, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")
        if self._state is not state:
            raise NoAsyncCallError(f"Calling `{name}_wait` without any prior call to `{name}_async`.", state.value)
