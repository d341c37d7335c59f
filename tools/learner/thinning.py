"""Keeps a series of records bounded: the newest stay as they are, of the older ones each then stands for several."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from local_training.record_file import Records

_FULL_AGAIN_BELOW = 0.75
_NEWEST_SHARE = 0.25


def thinned(records: Records, most: int) -> Records:
    """At most three quarters of `most` records: the newest quarter of `most` untouched, and a fair choice of the others.

    Of each pair of neighbours with the least weight one is kept, and its weight doubled, until few enough are left; one
    that has no neighbour stays or goes with equal chance. So sums and means over all records, each times its weight, stay
    what they were but for chance.
    """
    newest = int(_NEWEST_SHARE * most)
    older, kept = records[:-newest].copy(), records[-newest:]
    # From what is there, so that the same records lead to the same choice; it is nobody's secret.
    rng = np.random.Generator(np.random.PCG64([len(records), int(records["version"][-1])]))
    while len(older) + len(kept) > _FULL_AGAIN_BELOW * most:
        older = _halved(older, np.flatnonzero(older["weight"] == older["weight"].min()), rng)
    return np.concatenate([older, kept])


def _halved(records: Records, chosen: npt.NDArray[Any], rng: np.random.Generator) -> Records:
    pairs = chosen[: len(chosen) // 2 * 2].reshape(-1, 2)
    # By chance, not always the first: opponents that take turns would otherwise lose one of them.
    losers = pairs[np.arange(len(pairs)), rng.integers(0, 2, len(pairs))]
    alone = chosen[len(pairs) * 2 :]
    losers = np.concatenate([losers, alone[rng.random(len(alone)) < 0.5]])
    records["weight"][np.setdiff1d(chosen, losers)] *= 2
    return np.delete(records, losers)
