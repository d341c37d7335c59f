"""Where long work lets others go first: the places at which a batch may stand still for a while.

Which process gives way, and to whom, is a matter of the process as its priority is, so it is set once for the process
and not handed through the arithmetic. What is computed does not depend on it; a test compares the bits.
Both threads of an update come by here: while one stands still in `rest`, the other one waits for the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_rest: Callable[[], float] | None = None
_rested_seconds = 0.0
_lock = threading.Lock()


def rest_with(rest: Callable[[], float] | None) -> None:
    """From now on call `rest` at every yield point; it returns for how many seconds it stood still. None: never rest."""
    global _rest
    _rest = rest


def reached() -> None:
    """Stand still if this process has to. Costs next to nothing where nobody asked for it."""
    global _rested_seconds
    if _rest is not None:
        with _lock:
            _rested_seconds += _rest()


def rested_seconds() -> float:
    """For how long this process has stood still in all, so that times of work can be told without it."""
    return _rested_seconds
