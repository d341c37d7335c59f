"""When the disk is full: rates from the newest games, and the settings that bound what grows."""

from __future__ import annotations

import json
import os
from typing import Any

import commands
import pytest

from background_training.monitor import advice, facts
from background_training.paths import Paths
from background_training.records import disk_forecast
from background_training.records.disk_forecast import GrowthRate
from background_training.settings import RetentionSettings

WEEK = 604_800
A_GAME_A_SECOND = GrowthRate(1000, 1.0, 18_000.0, 260.0)


def _forecast(free: float = 1e12, **retention: Any) -> disk_forecast.Forecast | None:
    return disk_forecast.forecast(A_GAME_A_SECOND, free, RetentionSettings(**retention))


def test_the_figures_of_a_game_a_second() -> None:
    """18 kB a game are 10.9 GB a week, 260 bytes a line 157 MB; both settings are named."""
    found = _forecast(free=3 * 86_400 * 18_260.0)
    assert found is not None and found.days == pytest.approx(3.0)
    assert "archive grows by 10.9 GB and the ledger grows by 157 MB a week: the disk is full in 3 days" in found.sentence
    assert "retention.archive_bytes" in found.remedy and "retention.ledger_lines" in found.remedy


@pytest.mark.parametrize("bound", ["archive_files", "archive_bytes", "archive_days"])
def test_a_bounded_archive_does_not_count(bound: str) -> None:
    """What is left is the ledger, and only its setting is named."""
    found = _forecast(free=86_400 * 260.0, **{bound: 1})
    assert found is not None and found.days == pytest.approx(1.0)
    assert "archive" not in found.sentence + found.remedy and "24 hours" in found.sentence


@pytest.mark.parametrize(("growth", "free"), [(None, 1e9), (A_GAME_A_SECOND, None), (GrowthRate(20, 0.0, 1.0, 1.0), 1e9)])
def test_nothing_is_forecast_of_what_is_not_known(growth: GrowthRate | None, free: float | None) -> None:
    """No rate, no free space known, or no growth."""
    assert disk_forecast.forecast(growth, free, RetentionSettings()) is None
    assert _forecast(archive_files=1, ledger_lines=1) is None


def _played(paths: Paths, games: int, seconds_apart: float, size: int = 9_000) -> None:
    lines = []
    for number in range(games):
        file = paths.archive / f"{number:05d}.npz"
        file.write_bytes(bytes(size))
        os.utime(file, (1e9 + number * seconds_apart,) * 2)
        lines.append(json.dumps({"seq": 1, "sha256": f"{number:064x}", "name": file.name, "fate": "trained", "steps": 9}))
    paths.ledger.write_text("\n".join([*lines, '{"torn']), encoding="ascii")


@pytest.mark.parametrize(("games", "apart"), [(50, 2.0), (3000, 0.5), (20, 60.0)])
def test_rates_are_measured_from_the_newest_games(paths: Paths, games: int, apart: float) -> None:
    """Also where only the end of the ledger is read, and its last line is being written."""
    _played(paths, games, apart)
    growth = disk_forecast.measured_growth(paths)
    assert growth is not None
    assert growth.games_per_second == pytest.approx(1 / apart, rel=0.06) and growth.archive_bytes == 9_000
    assert 100 < growth.ledger_bytes < 200


@pytest.mark.parametrize(("games", "apart"), [(0, 1.0), (19, 60.0), (40, 0.0)])
def test_too_little_gives_no_rate(paths: Paths, games: int, apart: float) -> None:
    """Few games, or all at once: of copies of an old archive nothing follows."""
    _played(paths, games, apart)
    assert disk_forecast.measured_growth(paths) is None


def test_monitor_and_doctor_tell(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words; a learner whose settings bound the archive and the ledger has none."""
    _played(paths, 100, 1.0)
    monkeypatch.setattr(disk_forecast, "free_bytes", lambda folder: 1e9)
    snapshot = facts.Reader(paths, 0.0).snapshot()
    told = [item for item in advice.advice(snapshot, "root") if "disk is full in" in item.seen]
    assert [item.level for item in told] == [advice.WARNING] and "retention.archive_bytes" in told[0].cure
    bounded = {"retention": {"archive_files": 5, "ledger_lines": 5}}
    assert disk_forecast.ForecastWatch(paths).look(bounded) is None
    for strange in ({"retention": {"archive_files": "x"}}, {"retention": 5}, {"retention": {"no": 1}}, None):
        assert disk_forecast.ForecastWatch(paths).look(strange) is not None


def test_the_doctor_command_shows_it(paths: Paths) -> None:
    """From outside, with the disk as it is."""
    _played(paths, 100, 1.0)
    assert "At the rate of the last 100 games (1.01 a second)" in commands.run_tool("doctor.py", paths.root, exit_code=1)


def test_a_file_of_a_strange_name_is_passed_over(paths: Paths) -> None:
    """A ledger that somebody else has written names no file that a system can have."""
    _played(paths, 30, 10.0)
    line = {"seq": 1, "sha256": "", "name": "a\0b", "fate": "trained"}
    paths.ledger.write_text(paths.ledger.read_text("ascii").replace('{"torn', json.dumps(line) + "\n"), encoding="ascii")
    assert disk_forecast.measured_growth(paths) is not None
