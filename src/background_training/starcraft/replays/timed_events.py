"""What happened in a game and when: the few kinds of event a build order is read from, free of any library.

`loop` counts game loops from the start of the game, `unit` is a number that no other unit of the game bears,
`player` is the number under which the game knows a player, 0 for nobody.
"""

from __future__ import annotations

from typing import NamedTuple


class Born(NamedTuple):
    """A unit came into the game finished: hatched, or there from the start."""

    loop: int
    unit: int
    name: str
    player: int


class Begun(NamedTuple):
    """A building was placed and is unfinished."""

    loop: int
    unit: int
    name: str
    player: int


class Done(NamedTuple):
    """An unfinished building was finished."""

    loop: int
    unit: int


class Changed(NamedTuple):
    """A unit became another type: morphed, burrowed, uprooted."""

    loop: int
    unit: int
    name: str


class Died(NamedTuple):
    """A unit left the game: killed, cancelled, or used up by a morph."""

    loop: int
    unit: int


class Researched(NamedTuple):
    """A player's upgrade was finished."""

    loop: int
    player: int
    name: str


class Counted(NamedTuple):
    """The game's own count of the supply a player uses; at loop 1, then every 160 loops."""

    loop: int
    player: int
    supply: float


Event = Born | Begun | Done | Changed | Died | Researched | Counted
