"""The key timings of a build order: when the buildings that decide a game were begun, and at which supply.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.build_order import Order
from background_training.starcraft.replays.supply_count import SupplyCount
from background_training.starcraft.replays.timed_events import Event, Researched

FIRST_ORDERS = {
    "spawning_pool": ("SpawningPool",),
    "extractor": ("Extractor", "ExtractorRich"),
    "queen": ("Queen",),
    "roach_warren": ("RoachWarren",),
    "hydralisk_den": ("HydraliskDen",),
    "lair": ("Lair",),
    "hive": ("Hive",),
}
"""Timings that are the start of the first order of an item."""

BASES = ("base_2", "base_3", "base_4")
"""The first, second and third hatchery ordered; the start hatchery is base 1. A macro hatchery counts as a base."""

RESEARCH = {"metabolic_boost": "zerglingmovementspeed"}

NAMES = ("spawning_pool", "extractor", *BASES, "queen", "roach_warren", "hydralisk_den", "lair", "hive", *RESEARCH)
"""Every key timing, in the order in which tables show them."""


class Timing(NamedTuple):
    """The start of something, in seconds of play, and the supply used just before."""

    seconds: float
    supply: int


def key_timings(orders: Sequence[Order], events: Sequence[Event], player: int) -> dict[str, Timing]:
    """The key timings of one player; what the player never ordered is left out.

    Args:
        orders: the player's build order, sorted by start.
        events: of the whole game; they tell when research was finished.
    """
    found: dict[str, Timing] = {}
    for name, items in FIRST_ORDERS.items():
        for order in orders:
            if order.item in items:
                found[name] = Timing(order.seconds, order.supply)
                break
    hatcheries = (order for order in orders if order.item == "Hatchery")
    found.update({name: Timing(order.seconds, order.supply) for name, order in zip(BASES, hatcheries, strict=False)})
    found.update(_research_timings(events, player))
    return {name: found[name] for name in NAMES if name in found}


def _research_timings(events: Sequence[Event], player: int) -> dict[str, Timing]:
    """Research tells us only of its end; it was begun its whole duration before."""
    found: dict[str, Timing] = {}
    supply = SupplyCount(events, player)
    for name, upgrade in RESEARCH.items():
        for event in events:
            if isinstance(event, Researched) and event.player == player and event.name == upgrade:
                loop = max(0, event.loop - unit_facts.RESEARCH_LOOPS[upgrade])
                found[name] = Timing(unit_facts.seconds_of(loop), int(supply.at(loop)))
                break
    return found
