"""Shows the progress of a run: a bar on a terminal, otherwise a line every two seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from background_training.runs.gymnasium_game import GameResult

Show = Callable[[GameResult, Sequence[float], int, str], None]

_LINE_SECONDS = 2.0
_WINDOW = 40


@contextlib.contextmanager
def display(games: int | None, *, quiet: bool, before: int = 0) -> Iterator[Show]:
    """Show progress while inside; call the yielded function after each game.

    Args:
        games: their number, or None without an end.
        before: the number of those that were played before.

    The function takes the game's result, all returns, the model's version, and why the learner lags behind, or "".
    """
    if quiet:
        yield lambda result, returns, version, starved: None
    elif sys.stdout.isatty() and _has_rich():
        yield from _bar(games, before)
    else:
        yield from _lines(games)


def sentence(returns: Sequence[float], version: int, starved: str = "") -> str:
    newest = returns[-_WINDOW:]
    mean = f"mean return of the last {len(newest)}: {sum(newest) / len(newest):.1f}"
    return f"{mean}, model version {version}" + (f"; {starved}" if starved else "")


def _lines(games: int | None) -> Iterator[Show]:
    due = time.monotonic()

    def show(result: GameResult, returns: Sequence[float], version: int, starved: str) -> None:
        nonlocal due
        if time.monotonic() >= due or len(returns) == games:
            due = time.monotonic() + _LINE_SECONDS
            total = f"/{games}" if games else ""
            print(f"[GAME] {len(returns)}{total}: {sentence(returns, version, starved)}", flush=True)

    yield show


def _has_rich() -> bool:
    import importlib.util

    return importlib.util.find_spec("rich") is not None


def _bar(games: int | None, before: int) -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Games"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, refresh_per_second=5) as progress:
        task = progress.add_task("", total=games, completed=before)

        def show(result: GameResult, returns: Sequence[float], version: int, starved: str) -> None:
            progress.update(task, advance=1, description=sentence(returns, version, starved))

        yield show
