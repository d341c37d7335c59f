"""The first screen of a run: one panel that fits every terminal, few lines in a pipe, and a summary with what to do next."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeClock

pytest.importorskip("gymnasium", reason="the games extra is not installed")

from background_training.paths import Paths
from background_training.runs import greedy_games, progress
from background_training.runs.progress import RunView
from background_training.storage import atomic_files

LAG = "12 episodes wait: training gives way, as other programs use 97 % of the processor (throttle.cpu_limit changes the limit)"


def _view(games: int | None, clock: FakeClock, learner: str = "trains, 3 episodes to go") -> RunView:
    return RunView("LunarLander-v3", games, Path("/data/my bots/lander"), [], lambda: 34, lambda: learner, lambda: "", clock)


def _played(view: RunView, clock: FakeClock, games: int, seconds_each: float) -> None:
    for number in range(games):
        clock.advance(seconds_each)
        view.returns.append(float(number))  # type: ignore[attr-defined]
        view.ended.append(clock())


def _drawn(view: RunView, width: int, encoding: str = "utf-8") -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(progress.panel(view, width, encoding))
    return capture.get().splitlines()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    """A clock that only the test moves."""
    yield FakeClock()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_the_panel_shows_all_and_fits(clock: FakeClock, width: int, height: int) -> None:
    """Game, progress, pace, time left, returns, version, the learner's reason, how to stop and where to look; nothing is cut."""
    pytest.importorskip("rich", reason="the monitor extra is not installed")
    view = _view(400, clock, LAG)
    _played(view, clock, 120, 0.5)
    rows = _drawn(view, width)

    assert len(rows) < height and all(len(row) <= width for row in rows)
    text = " ".join(" ".join(row.strip("│ ").split()) for row in rows)
    for promised in ("LunarLander-v3", "120 played of 400", "2.0 games/s, about 2m 20s left", "94.5 on average over the last 50"):
        assert promised in text
    assert LAG in text and "version 34" in text and "Ctrl+C" in text and "monitor" in text and "report" in text
    sparkline = next(row.strip("│ ") for row in rows if "█" in row)
    assert len(sparkline) == 50 and sparkline[0] == "▁"


def test_a_terminal_without_block_characters_gets_ascii(clock: FakeClock) -> None:
    """An old code page can print the whole panel; a run without an end has no bar and no time left."""
    pytest.importorskip("rich", reason="the monitor extra is not installed")
    view = _view(None, clock)
    assert "no game has ended yet" in "\n".join(_drawn(view, 80, "cp1252"))
    _played(view, clock, 10, 30.0)
    text = "\n".join(_drawn(view, 80, "ascii"))
    assert text.isascii() and "10 played, until Ctrl+C" in text and "2.0 games/min" in text and "left" not in text


def test_205_games_in_a_pipe_are_few_lines(clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> None:
    """Also on a machine so busy that they take five minutes; the last game is always there."""
    view = _view(205, clock)
    with progress.display(view, quiet=False) as show:
        for number in range(205):
            clock.advance(1.5)
            view.returns.append(float(number))  # type: ignore[attr-defined]
            show()
    lines = capsys.readouterr().out.splitlines()
    assert 5 < len(lines) < 30 and lines[-1].startswith("[GAME] 205/205: mean return of the last 50: 179.5, model version 34")


@pytest.mark.parametrize(
    ("games", "words"), [(10, "5.5 +- 2.2 (mean return of 10 games of version 7, 95 % interval)"), (3, "too few")]
)
def test_the_greedy_mean_has_an_interval_from_ten_games_on(paths: Paths, games: int, words: str) -> None:
    """Fewer games are named as too few."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"7,{number},{number}.0\n" for number in range(1, games + 1))
    atomic_files.write_atomically(paths.greedy_log, f"version,seed,episode_return\n{rows}".encode(), durable=False)
    assert words in greedy_games.words(paths)
