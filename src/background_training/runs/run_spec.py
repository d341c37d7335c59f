"""What players are told, and what they tell of a game that was lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from background_training.runs.gymnasium_game import GameFault


@dataclass(frozen=True)
class PlayOrder:
    """What all players need to know."""

    game: str
    root: Path
    seed: int
    training: bool = True
    run_id: str = ""

    def game_seed(self, number: int) -> int:
        """The seed of the game of this number; no two games of a run share one."""
        return (self.seed * 1_000_003 + number) % 2**31

    def episode_id(self, number: int) -> str:
        """What the episode of this game is called, however often a crash has it played: it is trained on once."""
        return f"{self.run_id}-{number}" if self.run_id else ""


@dataclass(frozen=True)
class LostGame:
    """A game that raised, or whose process failed: its episode is forgotten, and the next one is played in a new game.

    kind: what losses for the same reason share; the exception's type and place, if it was one.
    trace: the traceback of the exception, if it was one; a process that died has none.
    """

    number: int
    steps: int
    reason: str
    kind: str = ""
    trace: str = ""

    @classmethod
    def by_fault(cls, number: int, steps: int, fault: GameFault) -> LostGame:
        """A game that raised."""
        where = f" (raised in {fault.place})" if fault.place else ""
        return cls(number, steps, f"{fault.reason}{where}", fault.kind, fault.trace)

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        remedy = "The game is made again" if self.trace else "Its process is replaced"
        return f"Game {self.number} was lost after {self.steps} steps: {self.reason}. {remedy}"
