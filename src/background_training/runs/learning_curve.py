"""How the returns of the games went: logs/games.csv, one line a game, and a picture of it."""

from __future__ import annotations

import bisect
import csv
import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from background_training.paths import Paths
from background_training.runs import csv_lines, greedy_games
from background_training.runs.gymnasium_game import GameResult
from background_training.storage import atomic_files

_FIELDS = tuple(field.name for field in dataclasses.fields(GameResult))


def csv_path(paths: Paths) -> Path:
    return paths.games_log


def picture_path(paths: Paths) -> Path:
    return paths.logs / "learning_curve.png"


class GameLog:
    """Appends each game to the CSV file, a whole line at a time, and knows those that were played before."""

    def __init__(self, paths: Paths, *, is_mine: bool) -> None:
        """Open the log.

        Args:
            is_mine: nobody else writes to it; a line that a power cut has torn is cut off.
        """
        self._path = csv_path(paths)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if is_mine:
            _cut_torn_line(self._path)
        self.rows_before = read(self._path)

    @property
    def played_before(self) -> int:
        """The number of the last game."""
        return max((number for number, _, _ in self.rows_before), default=0)

    def add(self, result: GameResult) -> None:
        csv_lines.append(self._path, _FIELDS, dataclasses.astuple(result))

    def flush(self) -> None:
        """Return only when the disk has all that was added."""
        if self._path.exists():
            atomic_files.append_whole(self._path, b"", durable=True)


def _cut_torn_line(path: Path) -> None:
    """Leave whole lines only: what follows would otherwise be added to half a line."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> list[tuple[int, float, int]]:
    """(number, return, policy version) of all games of the file; a torn line is left out."""
    rows: list[tuple[int, float, int]] = []
    if not path.exists():
        return rows
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                rows.append((int(row["number"]), float(row["episode_return"]), int(row["policy_version"])))
            except (TypeError, ValueError, KeyError):
                continue
    return rows


def tenths(returns: Sequence[float]) -> tuple[float, float]:
    """Mean of the first and of the last tenth, at least one game each."""
    size = max(1, len(returns) // 10)
    return sum(returns[:size]) / size, sum(returns[-size:]) / size


def _greedy_means(paths: Paths, rows: Sequence[tuple[int, float, int]]) -> list[tuple[int, float]]:
    """(game, mean of five greedy returns), at the last game of the run that the version or an older one played."""
    newest = {version: number for number, _, version in sorted(rows)}
    versions = sorted(newest)
    games = greedy_games.read(paths)
    found = {}
    for place, game in enumerate(games, 1):  # of several games of one version, the place of the last one
        five = [other.episode_return for other in games[max(0, place - 5) : place]]
        if known := bisect.bisect_right(versions, game.version):
            found[newest[versions[known - 1]]] = sum(five) / len(five)
    return sorted(found.items())


def draw(paths: Paths, title: str) -> Path | None:
    """Draw the returns of all games so far, and their running mean; None if there is nothing to draw with."""
    try:
        # Not by way of pyplot, which takes longer and would settle for the whole process how it draws.
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows = read(csv_path(paths))
    numbers, returns = [row[0] for row in rows], [row[1] for row in rows]
    window = max(1, len(returns) // 20)
    sums = [0.0, *itertools.accumulate(returns)]
    means = [(sums[i] - sums[max(0, i - window)]) / min(window, i) for i in range(1, len(sums))]
    figure = Figure(figsize=(9, 5))
    axes = figure.subplots()
    axes.plot(numbers, returns, ".", markersize=3, alpha=0.4, label="one game")
    axes.plot(numbers, means, linewidth=2, label=f"mean of {window} games")
    if greedy := _greedy_means(paths, rows):
        axes.plot(*zip(*greedy, strict=True), "--", linewidth=2, label="greedy: without exploring, mean of 5")
    axes.set(title=title, xlabel="game", ylabel="return")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path = picture_path(paths)
    figure.savefig(path, dpi=110)
    return path
