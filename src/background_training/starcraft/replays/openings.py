"""Which opening a build order plays: the order of the first hatchery, extractor and spawning pool.

Pure. Openings are told apart because a mean over them names a game that nobody plays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Line = tuple[int, float, str]
"""(supply, start in seconds, item), a line of a build order as results keep it."""

SHORT_NAMES = {"Hatchery": "hatch", "Extractor": "gas", "ExtractorRich": "gas", "SpawningPool": "pool"}

EARLY_POOL_DRONES = 2
"""A pool at most that many drones after the start is an early pool: a rush, not an economic opening."""

TEXT_BUILDINGS = 6
"""Buildings an opening's text names at most."""


class Opening(NamedTuple):
    """`key` counts openings ("hatch-gas-pool"); `text` is this player's ("17 hatch, 18 gas, 17 pool")."""

    key: str
    text: str


def opening_of(build_order: Sequence[Line], start_supply: int) -> Opening:
    """Name the opening of one build order.

    The key lists hatcheries, extractors and the pool up to the pool: "hatch-gas-pool", "hatch-hatch-pool",
    "gas-pool". What begins with the pool is "early-pool" up to two drones after the start, else "pool-first". Without
    any pool it is "no-pool". The text goes on until hatchery, extractor and pool have each been named, six buildings at most.
    """
    buildings = [(supply, SHORT_NAMES[item]) for supply, _, item in build_order if item in SHORT_NAMES]
    names = [name for _, name in buildings]
    return Opening(_key(names, buildings, start_supply), _text(names, buildings))


def _key(names: list[str], buildings: list[tuple[int, str]], start_supply: int) -> str:
    if "pool" not in names:
        return "no-pool"
    until_pool = names[: names.index("pool") + 1]
    if len(until_pool) > 1:
        return "-".join(until_pool[:TEXT_BUILDINGS])
    return "early-pool" if buildings[0][0] <= start_supply + EARLY_POOL_DRONES else "pool-first"


def _text(names: list[str], buildings: list[tuple[int, str]]) -> str:
    firsts = [names.index(name) for name in ("hatch", "gas", "pool") if name in names]
    length = min(TEXT_BUILDINGS, max(firsts, default=-1) + 1)
    return ", ".join(f"{supply} {name}" for supply, name in buildings[:length])
