"""The learning curve of a root: the returns of its games, with and without exploration, as a picture."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

from background_training.paths import Paths
from background_training.runs import greedy_games, run_log


def tenths(returns: Sequence[float]) -> tuple[float, float]:
    """Mean of the first and of the last tenth, at least one game each."""
    size = max(1, len(returns) // 10)
    return sum(returns[:size]) / size, sum(returns[-size:]) / size


def _greedy_means(paths: Paths, rows: Sequence[tuple[int, float, int]]) -> list[tuple[int, float]]:
    """(game, mean of five greedy returns); a version's place is the last game that it, or an older version, played."""
    newest = {version: number for number, _, version in sorted(rows)}
    versions = sorted(newest)
    games = greedy_games.read(paths)
    found = {}
    for place, game in enumerate(games, 1):  # of several games of one version, the last one counts
        five = [other.episode_return for other in games[max(0, place - 5) : place]]
        if known := bisect.bisect_right(versions, game.version):
            found[newest[versions[known - 1]]] = sum(five) / len(five)
    return sorted(found.items())


def draw(paths: Paths, title: str) -> Path | None:
    """Draw the returns of all games so far and their running mean; the picture's path, or None without Matplotlib."""
    try:
        # Not pyplot, which loads more slowly and would choose a drawing backend for the whole process.
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows = run_log.read_games(paths)
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
    path = paths.logs / "learning_curve.png"
    figure.savefig(path, dpi=110)
    return path
