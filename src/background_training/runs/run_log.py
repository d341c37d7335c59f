"""The log of a run: each game in logs/games.csv as soon as it is over, and now and then the state of the run."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from background_training import command_lines
from background_training.errors import GameFailedError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GameResult, LostGame
from background_training.runs.run_state import RunSpec, RunState, RunStateFile
from background_training.storage import atomic_files

SAME_LOSSES_IN_A_ROW, LOSSES_IN_A_ROW = 5, 25
"""A run ends when this many games in a row were lost for the same reason, or for any reasons."""
_FIELDS = tuple(field.name for field in dataclasses.fields(GameResult))


def append_row(path: Path, fields: Sequence[str], row: Iterable[object]) -> None:
    """Append a row to a CSV file, whole or not at all; a new or empty file gets the field names first.

    Raises:
        OSError: the machine failed, or the folder is missing.
    """
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    if not path.exists() or not path.stat().st_size:
        lines.writerow(fields)
    lines.writerow(row)
    atomic_files.append_whole(path, text.getvalue().encode(), durable=False)


def read_games(paths: Paths) -> list[tuple[int, float, int]]:
    """(number, return, policy version) of all games in logs/games.csv; a torn line is left out."""
    rows: list[tuple[int, float, int]] = []
    if not paths.games_log.exists():
        return rows
    with open(paths.games_log, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                rows.append((int(row["number"]), float(row["episode_return"]), int(row["policy_version"])))
            except (TypeError, ValueError, KeyError):
                continue
    return rows


class GameLog:
    """Appends each game to logs/games.csv, a whole line at a time.

    Attributes:
        earlier_rows: of the games that the file held when it was opened.
    """

    def __init__(self, paths: Paths, *, is_mine: bool) -> None:
        """Open the log.

        Args:
            is_mine: no other process writes to it, so a line that a power cut has torn may be cut off.
        """
        self._path = paths.games_log
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if is_mine:
            _cut_torn_line(self._path)
        self.earlier_rows = read_games(paths)

    @property
    def earlier_numbers(self) -> list[int]:
        """The numbers of the earlier games."""
        return [number for number, _, _ in self.earlier_rows]

    @property
    def last_number(self) -> int:
        """The highest number of an earlier game; 0 if there is none."""
        return max(self.earlier_numbers, default=0)

    def add(self, result: GameResult) -> None:
        append_row(self._path, _FIELDS, dataclasses.astuple(result))

    def flush(self) -> None:
        """Return only when the disk has all rows."""
        if self._path.exists():
            atomic_files.append_whole(self._path, b"", durable=True)


def _cut_torn_line(path: Path) -> None:
    """Keep whole lines only; otherwise the next row would be appended to half a line."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


class RunLog:
    """Counts the games of a run, so that it can be resumed after being killed at any moment.

    Attributes:
        state: how much of the run is done.
        returns: of its games, in the order in which they ended; with those from before an interruption.
    """

    def __init__(self, state_file: RunStateFile, games: GameLog, state: RunState, save_freq: int) -> None:
        self._state_file = state_file
        self._games = games
        self._save_freq = save_freq
        self._has_started = False
        self._losses: list[LostGame] = []  # since a game was played to its end
        self.state = state
        self.returns = [earned for number, earned, _ in games.earlier_rows if number >= state.spec.first_number]

    @property
    def spec(self) -> RunSpec:
        return self.state.spec

    def numbers(self) -> Iterator[int]:
        """The numbers of the games to play, in order."""
        # Saved here and not on construction; otherwise a game that can't be made would replace an interrupted run.
        self._has_started = True
        self._state_file.save(self.state)
        yield from self.state.played.remaining(self.spec.games)

    def add(self, result: GameResult) -> None:
        """Log a finished game."""
        self._losses.clear()
        self._games.add(result)
        self.state.played.add(result.number)
        self.returns.append(result.episode_return)
        self.state.undelivered += self.spec.training and not result.saved
        if len(self.returns) % self._save_freq == 0:
            self.save()

    def add_loss(self, lost: LostGame) -> None:
        """Log a lost game.

        Raises:
            GameFailedError: too many in a row. The state is kept: a resumed run plays those games.
        """
        self.state.add_loss(lost)
        self._losses.append(lost)
        self._state_file.save(self.state)
        newest = self._losses[-SAME_LOSSES_IN_A_ROW:]
        if len(newest) == SAME_LOSSES_IN_A_ROW and len({one.kind for one in newest}) == 1:
            self._fail(newest)
        if len(self._losses) == LOSSES_IN_A_ROW:
            self._fail(self._losses)

    def check_any_was_played(self) -> None:
        """Refuse to call a run successful in which every game was lost.

        Raises:
            GameFailedError: that is so; the state is kept, as by `add_loss`.
        """
        if self._losses and not self.returns:
            self._fail(self._losses)

    def _fail(self, losses: list[LostGame]) -> None:
        self.state.remove_losses(losses)
        self._state_file.save(self.state)
        paths = self._state_file.paths
        resume = f"{command_lines.command('run', paths.root)} --resume"
        raise GameFailedError(len(losses), losses[-1].reason, str(paths.lost_games_log), resume)

    def save(self) -> None:
        """Write games and state to the disk, durably."""
        if self._has_started:
            self._games.flush()
            self._state_file.save(self.state)

    def close(self) -> None:
        """Remove the state, if the run has played all its games or had no number of games."""
        if self.state.is_over or self.spec.games is None:
            self._state_file.delete()
