"""The books of a run: each game in the CSV file the moment it is over, and now and then how far the run has come."""

from __future__ import annotations

from collections.abc import Iterator

from background_training import command_lines
from background_training.errors import GameFailedError
from background_training.runs.gymnasium_game import GameResult
from background_training.runs.learning_curve import GameLog
from background_training.runs.run_spec import LostGame
from background_training.runs.run_state import RunKeeper, RunPlan, RunState

SAME_LOSSES_IN_A_ROW, LOSSES_IN_A_ROW = 5, 25
"""A run ends when so many games in a row were lost for the same reason, or for any reasons."""


class RunAccount:
    """Counts the games of a run, so that one that is killed at any moment can be gone on with.

    Attributes:
        state: how far it has come.
        returns: of its games, in the order in which they were over; those before a crash too.
    """

    def __init__(self, keeper: RunKeeper, log: GameLog, state: RunState, save_freq: int) -> None:
        self._keeper = keeper
        self._log = log
        self._save_freq = save_freq
        self._has_begun = False
        self._losses: list[LostGame] = []  # since a game was played to its end
        self.state = state
        self.returns = [earned for number, earned, _ in log.rows_before if number >= state.plan.first_number]

    @property
    def plan(self) -> RunPlan:
        return self.state.plan

    def numbers(self) -> Iterator[int]:
        """The games to play, in order."""
        # Not before somebody asks: a game that can't be made must not take the place of a run that was broken off.
        self._has_begun = True
        self._keeper.save(self.state)
        yield from self.state.played.remaining(self.plan.games)

    def add(self, result: GameResult) -> None:
        """Note a game that is over."""
        self._losses.clear()
        self._log.add(result)
        self.state.played.add(result.number)
        self.returns.append(result.episode_return)
        self.state.undelivered += self.plan.training and not result.saved
        if len(self.returns) % self._save_freq == 0:
            self.save()

    def lose(self, lost: LostGame) -> None:
        """Note a game that will never be over.

        Raises:
            GameFailedError: this goes on and on. The run is kept: resumed, it plays the games that it has ended over.
        """
        self.state.note_loss(lost)
        self._losses.append(lost)
        self._keeper.save(self.state)
        newest = self._losses[-SAME_LOSSES_IN_A_ROW:]
        if len(newest) == SAME_LOSSES_IN_A_ROW and len({one.kind for one in newest}) == 1:
            self._end_over(newest)
        if len(self._losses) == LOSSES_IN_A_ROW:
            self._end_over(self._losses)

    def check_any_was_played(self) -> None:
        """Refuse to call a run done in which every game was lost.

        Raises:
            GameFailedError: that is so; the run is kept, as by `lose`.
        """
        if self._losses and not self.returns:
            self._end_over(self._losses)

    def _end_over(self, losses: list[LostGame]) -> None:
        self.state.take_back(losses)
        self._keeper.save(self.state)
        paths = self._keeper.paths
        resume = f"{command_lines.command('run', paths.root)} --resume"
        raise GameFailedError(len(losses), losses[-1].reason, str(paths.lost_games_log), resume)

    def save(self) -> None:
        """Have it on the disk, also after a power cut."""
        if self._has_begun:
            self._log.flush()
            self._keeper.save(self.state)

    def close(self) -> None:
        """End the run for good, if all its games are over, or nobody has said how many there should be."""
        if self.state.is_over or self.plan.games is None:
            self._keeper.forget()
