"""What players are told, and what they tell of a game that was lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlayOrder:
    """What all players need to know. `start_method` is that of VectorSettings."""

    game: str
    root: Path
    seed: int
    training: bool = True
    render_mode: str | None = None
    run_id: str = ""
    start_method: str = "spawn"

    def game_seed(self, number: int) -> int:
        """The seed of the game of this number; no two games of a run share one."""
        return (self.seed * 1_000_003 + number) % 2**31

    def episode_id(self, number: int) -> str:
        """What the episode of this game is called, however often a crash has it played: it is trained on once."""
        return f"{self.run_id}-{number}" if self.run_id else ""


@dataclass(frozen=True)
class LostGame:
    """A game whose process failed: its episode is forgotten, and the next one is played in a new process."""

    number: int
    steps: int
    reason: str
