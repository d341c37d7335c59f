"""Shows the progress of a run: one live panel on a terminal with rich, otherwise a line now and then."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from background_training import command_lines, printable
from background_training.monitor import humanize

if TYPE_CHECKING:
    from rich.console import RenderableType

NEWEST_GAMES = 50
"""Games of the mean return and of its sparkline."""
_FIRST_LINE_SECONDS, _MOST_LINE_SECONDS, _LINE_GROWTH = 2.0, 60.0, 1.3
"""Time between two lines: it grows, so that a long run does not fill a file, and a short one is not silent."""
_GAMES_FOR_A_RATE = 3
_REFRESHES = 4


@dataclass
class RunView:
    """What is shown of a run.

    returns: of all games, also those from before an interruption; the run appends to it.
    version: the model's version now.
    learner: what the learner does, and why it waits, in one sentence.
    lag: why the learner does not keep up, "" if it does.
    ended: when the newest games of this process ended, on `clock`.
    """

    game: str
    games: int | None
    root: Path
    returns: Sequence[float]
    version: Callable[[], int]
    learner: Callable[[], str]
    lag: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    ended: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST_GAMES))

    def __post_init__(self) -> None:
        self.ended.append(self.clock())

    def rate(self) -> float | None:
        """Games per second of the newest games; it falls while no game ends. None before there are a few."""
        if len(self.ended) <= _GAMES_FOR_A_RATE:
            return None
        return (len(self.ended) - 1) / max(self.clock() - self.ended[0], 1e-3)

    def pace(self) -> str:
        """Rate and time left, as far as they are known."""
        rate = self.rate()
        if rate is None:
            return "not known yet"
        words = f"{rate:.1f} games/s" if rate >= 1 else f"{60 * rate:.1f} games/min"
        if self.games is None:
            return words
        return f"{words}, about {humanize.duration(max(0, self.games - len(self.returns)) / rate)} left"


def has_panel() -> bool:
    """Whether progress is a live panel: stdout is a terminal, and rich is installed."""
    return sys.stdout is not None and sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


@contextlib.contextmanager
def display(view: RunView, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show progress while inside; call the yielded function after each game."""
    if quiet:
        yield lambda: None
    elif has_panel():
        yield from _panel(view)
    else:
        yield from _lines(view)


def sentence(returns: Sequence[float], version: int, starved: str = "") -> str:
    newest = returns[-NEWEST_GAMES:]
    mean = f"mean return of the last {len(newest)}: {sum(newest) / len(newest):.1f}"
    return f"{mean}, model version {version}" + (f"; {starved}" if starved else "")


def _lines(view: RunView) -> Iterator[Callable[[], None]]:
    due, seconds = view.clock(), _FIRST_LINE_SECONDS

    def show() -> None:
        nonlocal due, seconds
        moment = view.clock()
        view.ended.append(moment)
        if moment >= due or len(view.returns) == view.games:
            due, seconds = moment + seconds, min(seconds * _LINE_GROWTH, _MOST_LINE_SECONDS)
            total = f"/{view.games}" if view.games else ""
            printable.say(f"[GAME] {len(view.returns)}{total}: {sentence(view.returns, view.version(), view.lag())}")

    yield show


def panel(view: RunView, width: int, encoding: str) -> RenderableType:
    """The panel as it is now. Long values are wrapped, and none is cut."""
    from rich import box
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from background_training.monitor.terminal import screen

    signs = screen.glyphs_for(encoding)
    played = len(view.returns)
    rows = Table.grid(padding=(0, 2, 0, 0), expand=True)
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold", ratio=1)
    of_all = f" of {view.games:,}" if view.games else ", until Ctrl+C"
    rows.add_row("Games", Text(f"{played:,} played{of_all}"))
    if view.games:
        bar_width = max(10, min(width - 18, 80))
        filled, empty = screen.bar(played / view.games, bar_width, signs)
        is_plain = signs is screen.ASCII
        rows.add_row(
            "", Text.assemble((filled, "green"), (empty, "dim")) if is_plain else ProgressBar(view.games, played, bar_width)
        )
    rows.add_row("Pace", Text(view.pace()))
    newest = list(view.returns[-NEWEST_GAMES:])
    if newest:
        mean = f"{sum(newest) / len(newest):,.1f} on average over the last {len(newest)}, {newest[-1]:,.1f} in the last one"
        rows.add_row("Return", Text(mean))
        rows.add_row("", Text(screen.chart(newest, 1, signs, min(newest), max(newest))[0], "cyan"))
    else:
        rows.add_row("Return", Text("no game has ended yet"))
    rows.add_row("Model", Text(f"version {view.version():,}"))
    rows.add_row("Learner", Text(printable.visible(view.learner())))
    rows.add_row("Stop", Text("Ctrl+C: model and games are kept"))
    rows.add_row("Look", Text(f"in a second terminal: {command_lines.command('monitor', view.root)}"))
    rows.add_row("", Text(f"one page about the run: {command_lines.command('report', view.root)}"))
    frame = box.ASCII if signs is screen.ASCII else box.ROUNDED
    title = Text(f" {printable.visible(view.game)} ", "bold")
    return Panel(rows, title=title, title_align="left", box=frame, border_style="cyan", width=width)


def _panel(view: RunView) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.live import Live

    console = Console()

    def drawn() -> RenderableType:
        return panel(view, console.width, console.encoding)

    # Text that is printed meanwhile appears above the panel: rich redirects stdout and stderr.
    with Live(get_renderable=drawn, console=console, refresh_per_second=_REFRESHES, vertical_overflow="visible"):
        yield lambda: view.ended.append(view.clock())
