"""Stand-ins that a test moves by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeClock:
    """A clock that moves only when told to; its `sleep` moves it and remembers for how long."""

    seconds: float = 1_000_000.0
    naps: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.seconds += seconds


def windows_error(winerror: int) -> OSError:
    """The error of a Windows call, on every system."""
    error = PermissionError(13, "the file is in use by another process")
    error.winerror = winerror  # type: ignore[attr-defined]
    return error


class Failing:
    """A function that raises the given errors, one a call, and then does what the real one does."""

    def __init__(self, real: Callable[..., Any], *errors: BaseException) -> None:
        self._real = real
        self._errors = list(errors)
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return self._real(*arguments, **options)


class DiesAtCall:
    """A function that raises PowerCut instead of its n-th call (1 for the first), as if the process ended there.

    BaseException, as no clause of the code under test may mend what a dead process can't.
    """

    def __init__(self, real: Callable[..., Any], number: int) -> None:
        self._real = real
        self._number = number
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self._number:
            raise PowerCut
        return self._real(*arguments, **options)


class PowerCut(BaseException):
    """The process is no more."""
