"""Facts about Zerg units in StarCraft II: build times, supply, morphs.

Times are in game loops. They were measured in replays of 2.0.8 to 5.0.16: the loops between an egg's first
event and the birth from it. They are the same in all these versions.
"""

from __future__ import annotations

LOOPS_PER_SECOND = 22.4
"""Game loops in a second at the speed "Faster", in which every ranked and tournament game is played."""

TOWN_HALLS = {
    "Hatchery": "Zerg",
    "Lair": "Zerg",
    "Hive": "Zerg",
    "Nexus": "Protoss",
    "CommandCenter": "Terran",
}
"""The race of a player's first building; it resolves "Random"."""

START_SUPPLIES = (6, 8, 12)
"""Up to Heart of the Swarm; 5.0.16 and later; Legacy of the Void up to 5.0.15."""

BUILD_LOOPS = {
    "Drone": 272,
    "Overlord": 400,
    "Zergling": 384,
    "Queen": 800,
    "Roach": 432,
    "Hydralisk": 528,
    "Mutalisk": 528,
    "Corruptor": 640,
    "Infestor": 800,
    "SwarmHostMP": 640,
    "Viper": 640,
    "Ultralisk": 880,
    "Baneling": 320,
}
"""Units of which only the birth is recorded; they were ordered this many loops before."""

MORPH_LOOPS = {"Lair": 1280, "Hive": 1600, "GreaterSpire": 1600}
"""Buildings whose type changes at the end of the morph; its start is not recorded."""

COCOONS = {
    "BanelingCocoon": "Baneling",
    "RavagerCocoon": "Ravager",
    "LurkerMPEgg": "LurkerMP",
    "BroodLordCocoon": "BroodLord",
    "OverlordCocoon": "Overseer",
    "TransportOverlordCocoon": "OverlordTransport",
}
"""Types that units have during a morph."""

RESEARCH_LOOPS = {"zerglingmovementspeed": 1760}
"""Upgrades of which only the end is recorded."""

NOT_ORDERED = ("CreepTumor", "CreepTumorQueen")
"""Unfinished things that a unit's spell creates: no order, no supply, no price in minerals."""

NOT_BUILT_BY_DRONES = (*NOT_ORDERED, "NydusCanal")
"""Unfinished Zerg buildings that did not take a drone."""

_SUPPLY = {
    "Drone": 1.0,
    "Zergling": 0.5,
    "Baneling": 0.5,
    "BanelingCocoon": 0.5,
    "Queen": 2.0,
    "Roach": 2.0,
    "RavagerCocoon": 3.0,
    "Ravager": 3.0,
    "Hydralisk": 2.0,
    "LurkerMPEgg": 3.0,
    "LurkerMP": 3.0,
    "Mutalisk": 2.0,
    "Corruptor": 2.0,
    "BroodLordCocoon": 4.0,
    "BroodLord": 4.0,
    "Infestor": 2.0,
    "SwarmHostMP": 3.0,
    "Viper": 3.0,
    "Ultralisk": 6.0,
}


def supply_of(name: str) -> float:
    """The supply a Zerg unit takes, burrowed or not; 0 for buildings, larvae and everything unknown."""
    return _SUPPLY.get(name.replace("Burrowed", ""), 0.0)


def supply_of_order(item: str) -> float:
    """By how much the order of `item` changes the supply used at once: a unit takes its own, a building frees its drone's."""
    if item == "Zergling":
        return 1.0
    if item in COCOONS.values() or item in MORPH_LOOPS or item in NOT_BUILT_BY_DRONES or item == "Baneling":
        return 0.0
    return supply_of(item) if item in BUILD_LOOPS else -1.0


def order_loop(loop: int, name: str) -> int:
    """The loop in which a unit was ordered that hatched, or a building whose morph ended, in `loop`."""
    return max(0, loop - (BUILD_LOOPS.get(name) or MORPH_LOOPS[name]))


def supply_loop(birth_loop: int, name: str) -> int:
    """The loop from which a unit born in `birth_loop` takes supply: that of its order.

    A baneling is the exception, since until its birth the zergling it comes from is counted.
    """
    if birth_loop == 0 or name == "Baneling" or name not in BUILD_LOOPS:
        return birth_loop
    return order_loop(birth_loop, name)


def seconds_of(loop: int) -> float:
    """Seconds of play at that loop, to the hundredth; a loop is 0.045 s."""
    return round(loop / LOOPS_PER_SECOND, 2)
