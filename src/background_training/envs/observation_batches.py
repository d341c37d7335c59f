"""Which batch of observations the next step goes to, and how the present one is handed out.

Two batches alternate, so that the last good observation survives a worker that dies while it writes the next. A large
batch is not copied for the caller: he gets the shared memory itself, and nobody writes there again until he has let
go of it. Whoever keeps many gets copies from the third on.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from background_training.envs import shared_observations
from background_training.envs.env_worker import FIRST_OBSERVATIONS

WORTH_LENDING_BYTES = 1 << 18
"""A batch from this size on is lent; below, a copy is as cheap."""

SPARE_BATCHES = 3


def spare_batches(byte_count: int, *, copy: bool) -> int:
    """How many more batches than the usual ones it takes to lend batches of this size."""
    return SPARE_BATCHES if copy and byte_count >= WORTH_LENDING_BYTES else 0


class ObservationBatches:
    """The batches of one vector env.

    present: the one that the last step or reset went to. previous: the one before it, never the same.
    """

    def __init__(self, observations: tuple[Any, ...], *, copy: bool) -> None:
        self._observations = observations
        self._copy = copy
        self._order = [number for number in range(len(observations)) if number != FIRST_OBSERVATIONS] or [0, 1]
        self._lends = len(self._order) > 2
        self._lent: dict[int, list[weakref.ref[Any]]] = {}
        self.present, self.previous = 0, 1

    def advance(self) -> int:
        """Go on to the next batch: another than the present one, and none that is still in the caller's hands."""
        taken, self.previous = self.present, self.present
        if not self._lends:
            self.present = 1 - taken
            return self.present
        # Always the first that is free: the fewer batches are in use, the more of them stay in the caches.
        self.present = next(number for number in self._order if number != taken and self._free(number))
        return self.present

    def _free(self, number: int) -> bool:
        if any(kept() is not None for kept in self._lent.get(number, ())):
            return False
        self._lent.pop(number, None)
        return True

    def hand_out(self) -> Any:
        """The present batch for the caller: his for as long as he likes, unless he wants no copies."""
        rows = self._observations[self.present]
        if not self._copy:
            return rows
        # With two others left there is always one to go on to: the next step needs one, which may have to be copied,
        # and the step after that another.
        if self._lends and sum(self._free(number) for number in self._order if number != self.present) >= 2:
            roots: list[weakref.ref[Any]] = []
            lent = _view(rows, roots)
            self._lent[self.present] = roots
            return lent
        return shared_observations.copy_batch(rows)


def _view(rows: Any, roots: list[weakref.ref[Any]]) -> Any:
    """The same memory as new arrays. Whatever is derived from one of them keeps its root alive, and the root alone tells."""
    if isinstance(rows, dict):
        return {key: _view(part, roots) for key, part in rows.items()}
    if isinstance(rows, tuple):
        return tuple(_view(part, roots) for part in rows)
    # Over a memoryview, as NumPy would look through an array and make the batch itself the root of all.
    root = np.frombuffer(memoryview(rows), rows.dtype)
    roots.append(weakref.ref(root))
    return root.reshape(rows.shape)
