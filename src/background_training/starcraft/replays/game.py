"""What a replay says about its game, free of any library: the players, the length, and the events a build order is read from.

`loop` counts game loops from the start of the game, `unit` is a number that is unique within the game, `player` is the number
under which events name a player, 0 for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from background_training.starcraft.replays import unit_facts


@dataclass(frozen=True)
class Player:
    """One participant, observers not counted.

    number: by which events name the player.
    race: the race played, also for "Random".
    result: "Win", "Loss", "Tie" or "Unknown".
    team: the same number for players of one team.
    """

    number: int
    name: str
    race: str
    result: str
    is_human: bool
    team: int
    start_supply: int = 0


@dataclass(frozen=True)
class Game:
    """The facts of one game, without its events.

    identity: the same for all recordings of one game, by any player; "" if the file does not contain it.
    played_at: when the recording ended, UTC, "2026-01-25T14:32:05Z"; "" if the file does not contain it.
    """

    version: str
    loops: int
    map_name: str
    played_at: str
    identity: str
    players: tuple[Player, ...]

    @property
    def seconds(self) -> float:
        return unit_facts.seconds_of(self.loops)

    def opponent_of(self, player: Player) -> Player:
        """The other one of a game of two."""
        first, second = self.players
        return second if player is first else first


class Born(NamedTuple):
    """A unit came into the game finished: hatched, or there from the start."""

    loop: int
    unit: int
    name: str
    player: int


class Started(NamedTuple):
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


Event = Born | Started | Done | Changed | Died | Researched | Counted
