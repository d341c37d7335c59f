"""What a replay says about its game, free of any library: who played whom, for how long, and which game it is."""

from __future__ import annotations

from dataclasses import dataclass

from background_training.starcraft.replays import unit_facts


@dataclass(frozen=True)
class Player:
    """One participant, observers not counted.

    number: under which the game's events name the player.
    race: the race played; what "Random" became.
    result: "Win", "Loss", "Tie" or "Unknown".
    team: players of one team bear one number.
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

    identity: the same for all recordings of one game, whoever saved them; "" if the file does not tell.
    played_at: when the recording ended, UTC, "2026-01-25T14:32:05Z"; "" if the file does not tell.
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
