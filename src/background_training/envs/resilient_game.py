"""A single game whose exceptions end an episode instead of the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import gymnasium

from background_training.envs.env_host import own_copy
from background_training.errors import GameError
from background_training.plain_values import one_number

log = logging.getLogger(__name__)


class ResilientGame(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Turns an exception in `step` into a truncated episode, and tries `reset` again a bounded number of times.

    A step that raised returns the last good observation, reward 0, truncated, and an info with `worker_restarted`,
    `restart_reason` and `game_error`: it is no experience. It does not help against a game that kills or hangs its
    process; ResilientAsyncVectorEnv does.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        reset_attempts: int = 3,
        rebuild: Callable[[], gymnasium.Env[Any, Any]] | None = None,
    ) -> None:
        """Wrap a game.

        Args:
            env: the game.
            reset_attempts: tries of `reset` before it is an error; at least 1.
            rebuild: makes a new game; used after an exception, before the next reset.
        """
        super().__init__(env)
        if reset_attempts < 1:
            raise ValueError(f"reset_attempts is {reset_attempts}; at least 1 is needed")
        self._reset_attempts = reset_attempts
        self._rebuild = rebuild
        self._broken = False
        self._last_observation: Any = None
        self.errors = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            GameError: every attempt failed; the last exception is its cause.
        """
        for attempt in range(1, self._reset_attempts + 1):
            # A game may raise anything; it becomes part of the log and of the error.
            try:
                self._mend()
                observation, info = self.env.reset(seed=seed, options=options)
            except Exception as error:
                self._note("reset", error)
                if attempt == self._reset_attempts:
                    raise GameError("reset", attempt, f"{type(error).__name__}: {error}") from error
            else:
                break
        self._last_observation = own_copy(observation)
        return self._last_observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; an exception ends the episode."""
        if self._broken:
            raise gymnasium.error.ResetNeeded("The game has failed; call `reset` before the next `step`")
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            reward = one_number(reward)
        except gymnasium.error.ResetNeeded:
            raise
        except Exception as error:  # noqa: BLE001  # as in reset
            self._note("step", error)
            text = f"{type(error).__name__}: {error}"
            info = {
                "worker_restarted": True,
                "restart_reason": f"exception: {text}",
                "restart_phase": "fault",
                "game_error": text,
            }
            return self._last_observation, 0.0, False, True, info
        # Copies, as a vector env over us that resets in the same step returns these as final_obs and final_info, and a step
        # that raises may have written into the env's buffer before.
        self._last_observation = own_copy(observation)
        if terminated or truncated:
            info = own_copy(info)
        return self._last_observation, reward, terminated, truncated, info

    def _note(self, where: str, error: Exception) -> None:
        self.errors += 1
        self._broken = True
        log.warning("the game failed in %s: %s: %s", where, type(error).__name__, error, exc_info=error)

    def _mend(self) -> None:
        if self._broken and self._rebuild is not None:
            with contextlib.suppress(Exception):  # it is broken, and is replaced next
                self.env.close()
            self.env = self._rebuild()
        self._broken = False
