"""What can go wrong with a vector environment beyond repair."""

from __future__ import annotations

from background_training.errors import WorkerError


class RestartBudgetError(WorkerError):
    """An env keeps failing, and its restarts, or those of all envs, are spent."""

    def __init__(self, env: int, restarts: int, reason: str, details: str) -> None:
        super().__init__(env, restarts, reason, details)
        self.env = env
        self.restarts = restarts
        self.reason = reason
        self.details = details

    def __str__(self) -> str:
        text = f"env {self.env} failed again after {self.restarts} restarts: {self.reason}; the restart budget is spent"
        return f"{text}. The last words of its worker:\n{self.details}" if self.details else text


class RepeatedFaultError(RestartBudgetError):
    """An env can't be built or reset: the same exception came from the same place again and again, with no step between."""

    def __str__(self) -> str:
        text = f"env {self.env} can't be built or reset: {self.reason}, from the same place each time and without a step between"
        return f"{text}; no further restart is tried (same_fault_limit). The worker's traceback:\n{self.details}"


class EnvCallError(WorkerError):
    """A worker was lost while it answered `call`, `get_attr`, `set_attr` or `render`; it is being replaced."""

    def __init__(self, name: str, env: int, reason: str) -> None:
        super().__init__(name, env, reason)
        self.name = name
        self.env = env
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} has no answer from env {self.env}: {self.reason}. Its worker is being replaced; call again"


class GarbledMessageError(WorkerError):
    """Bytes came out of a worker's pipe that nobody of ours has put there."""


class GameError(WorkerError):
    """A game raises, however often it is tried."""

    def __init__(self, where: str, attempts: int, reason: str) -> None:
        super().__init__(where, attempts, reason)
        self.where = where
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        return f"the game's {self.where} failed {self.attempts} times in a row; the last time with {self.reason}"
