"""Long commands show how far they are, on a terminal and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import episodes
import learner_runs
import pytest
from fakes import FakeClock

from background_training.commands import common, rebuild, tensorboard
from background_training.commands.common import ProgressBar
from background_training.paths import Paths


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds_each", "lines"), [(0.01, 0), (1.0, 3), (10.0, 31), (25.0, 31)])
def test_in_a_pipe_a_line_every_ten_seconds(seconds_each: float, lines: int) -> None:
    """A short command prints none, a long one is never silent for longer than its next piece of work."""
    out, clock = io.StringIO(), FakeClock()
    progress = ProgressBar("replays", out=out, clock=clock)
    for done in range(1, 32):
        clock.advance(seconds_each)
        progress.show(done, 31)
    progress.end()
    assert len(out.getvalue().splitlines()) == lines and "\r" not in out.getvalue()


def test_on_a_terminal_a_bar_that_is_redrawn() -> None:
    """Every piece of work shows at once; the end leaves the line."""
    out, clock = _Terminal(), FakeClock()
    progress = ProgressBar("replays", out=out, clock=clock)
    for done in (1, 2):
        clock.advance(0.5)
        progress.show(done, 4)
    progress.end()
    assert out.getvalue().count("\r") == 2 and out.getvalue().endswith("[###############...............] 2/4 replays, 2.0/s \n")


def test_a_quiet_one_and_an_empty_one_say_nothing() -> None:
    """Neither a division by nothing nor an empty line."""
    out = _Terminal()
    ProgressBar("replays", enabled=False, out=out).show(1, 2)
    ProgressBar("replays", out=out).end()
    assert out.getvalue() == ""
    ProgressBar("replays", out=out).show(0, 0)


@pytest.fixture
def trained(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of four versions; every step of a command counts as long."""
    for number in range(12):
        episodes.write(paths.buffer, f"{number:02d}.npz", number)
    learner_runs.drain(paths.root)
    monkeypatch.setattr(common, "_PIPED_SECONDS", 0.0)
    return paths.root


def test_a_rebuild_tells_its_versions(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that what it answers can be piped on."""
    rebuild.main(["--root", str(trained)])
    said = capsys.readouterr()
    assert [line.split(",")[0] for line in said.err.splitlines() if "versions" in line] == [
        f"[INFO] {number}/4 versions" for number in (1, 2, 3, 4)
    ]
    assert "versions," not in said.out


def test_an_export_tells_its_batches(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first look writes all there is."""
    assert tensorboard.main(["--root", str(trained), "--once"]) == 0
    assert "[INFO] 4/4 batches" in capsys.readouterr().err
