"""For how many processes others leave a processor each: a game wants the whole of its own whenever a frame begins.

Pure, as the governor, whose memory this is a part of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

READINGS_FOR_MORE = 3
"""Readings that have to show room for another process before it gets it."""
_NOT_A_GAME = 0.2
"""So much of one processor is always used by something."""
_NOT_A_GAME_AT_A_GLANCE = 0.3
"""Likewise in so short a time that a few ticks of the machine's clock make a difference."""


@dataclass(frozen=True)
class Room:
    """How many processes find a processor that others leave alone.

    The first has its place always, and before readings have shown that there is room there is it alone: a game that has
    just begun, or is about to, has nothing to wait for.

    against: readings in a row that have seen room for more.
    others_cpu_percent: the newest reading, of either kind; None at first and where it is not known.
    """

    processes: int = 1
    against: int = 0
    others_cpu_percent: float | None = None


def after_reading(room: Room, processors: int | None, others_cpu_percent: float | None, most: int) -> Room:
    """Less room counts at once, more of it after some readings in a row."""
    seen = _seats(processors, others_cpu_percent, most, _NOT_A_GAME)
    if seen <= room.processes or room.against + 1 >= READINGS_FOR_MORE:
        return Room(seen, 0, others_cpu_percent)
    return Room(room.processes, room.against + 1, others_cpu_percent)


def after_glance(room: Room, processors: int | None, others_cpu_percent: float | None, most: int) -> Room:
    """A short look between two readings only ever takes room away."""
    seen = _seats(processors, others_cpu_percent, most, _NOT_A_GAME_AT_A_GLANCE)
    return Room(seen, 0, others_cpu_percent) if seen < room.processes else room


def words(room: Room, most: int) -> str:
    """Why there are fewer processes than the most."""
    if room.against or room.others_cpu_percent is None:
        return f"{room.processes} of {most} processes, until it is certain that there is room for more"
    return f"{room.processes} of {most} processes, as others use {room.others_cpu_percent:.0f} % of the processor"


def _seats(processors: int | None, others_cpu_percent: float | None, most: int, not_a_game: float) -> int:
    if processors is None or others_cpu_percent is None:
        return most
    left = processors * (1.0 - others_cpu_percent / 100.0)
    return min(max(math.floor(left + not_a_game), 1), most)
