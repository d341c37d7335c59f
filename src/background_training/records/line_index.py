"""Where the lines of a growing file lie, by what they are looked up with: some 16 bytes for each line, however many there are."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]

_FEWEST_LOOSE = 4096
_LOOSE_SHARE = 32


def key_of(text: str) -> int:
    """64 bits that stand for a text; two texts may share them, so whoever looks up compares what the lines say."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class LineIndex:
    """Places by key: a sorted array, and a small dict of the newest, which joins it from time to time."""

    def __init__(self, keys: Numbers | None = None, places: Numbers | None = None) -> None:
        """Go on from what `arrays` gave, or from nothing."""
        self._keys = np.empty(0, np.uint64) if keys is None else keys
        self._places = np.empty(0, np.uint64) if places is None else places
        self._loose: dict[int, list[int]] = {}

    def add(self, key: int, place: int) -> None:
        self._loose.setdefault(key, []).append(place)
        if len(self._loose) >= max(_FEWEST_LOOSE, len(self._keys) // _LOOSE_SHARE):
            self._tidy()

    def places(self, key: int) -> list[int]:
        """All places that were added under this key, oldest first."""
        wanted = np.uint64(key)
        first, end = np.searchsorted(self._keys, wanted), np.searchsorted(self._keys, wanted, "right")
        return [*self._places[first:end].tolist(), *self._loose.get(key, ())]

    def arrays(self) -> tuple[Numbers, Numbers]:
        """All keys in their order, with their places."""
        self._tidy()
        return self._keys, self._places

    def _tidy(self) -> None:
        pairs = [(key, place) for key, places in self._loose.items() for place in places]
        keys = np.concatenate([self._keys, np.array([key for key, _ in pairs], np.uint64)])
        places = np.concatenate([self._places, np.array([place for _, place in pairs], np.uint64)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]
        self._loose = {}
