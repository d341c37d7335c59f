"""The report tells what the records hold, says how sure it is, and gives nothing away; foreign texts stay texts."""

from __future__ import annotations

import base64
import dataclasses
import getpass
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS
from hypothesis import given
from hypothesis import strategies as st

from background_training import html_page
from background_training.algo import intervals
from background_training.paths import Paths
from background_training.reports import report, run_facts
from background_training.settings import Settings
from tests import commands, doctor_roots, episodes, learner_runs

pytestmark = pytest.mark.slow  # real processes

HOSTILE = """<img src=x onerror="document.title='run'"> $\\frac{$"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _meta(number: int, opponent: str = "Terran") -> np.ndarray:
    result = "Victory" if number % 3 else "Defeat"
    meta = {"action_count": 2, "game": "Light", "map": f"map {number % 2}", "opponent": opponent, "result": result}
    return np.array(json.dumps(meta))


@pytest.fixture(scope="session")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four games of a real learner against two opponents, with some that were set aside; only ever read."""
    root = tmp_path_factory.mktemp("run") / "some Wörk"
    root.mkdir()
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(exist_ok=True)
    for number in range(24):
        doctor_roots.drop(
            paths.buffer, f"g{number:03d}.npz", number, number // 3, meta=_meta(number, ("Terran", HOSTILE)[number % 2])
        )
    (paths.buffer / f"of {getpass.getuser()}.npz").write_bytes(b"no episode")
    doctor_roots.drop(paths.buffer, "wide.npz", 1, states=np.zeros((30, 5), np.float32))
    learner_runs.drain(root)
    return root


@pytest.fixture(scope="session")
def made(run_root: Path) -> report.Report:
    return _report(run_root)


def _report(root: Path) -> report.Report:
    settings = Settings(root=root)
    return report.write(run_facts.gather(settings), run_facts.private_words(settings.paths), 1_700_000_000.0)


def test_the_page_tells_what_the_records_hold(made):
    """Games, versions, opponents and maps, fates and reasons, machine and settings."""
    pytest.importorskip("matplotlib", reason="nothing to draw with")
    text = re.sub(r"<[^>]*>", " ", made.page)
    assert "Training report: Light" in text and re.search(r"\b24\s+games trained on", text) and re.search(r"\b720\s+steps", text)
    for told in (
        "By opponent",
        "Terran",
        "By map",
        "map 0",
        "not a zip",
        "wrong width",
        "a state holds 5 numbers",
        "learning.hidden_size",
    ):
        assert told in text
    assert set(made.pictures) == {"returns", "distributions", "lengths", "by_opponent", "by_map", "staleness"}


def test_the_page_is_complete_in_itself(made):
    """No script, nothing from elsewhere; its pictures are those that are told of, and are pictures."""
    assert "<script" not in made.page and "http" not in made.page.replace("http-equiv", "")
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', made.page)]
    assert inside == list(made.pictures.values())
    assert all(png.startswith(b"\x89PNG") for png in inside)


def test_foreign_texts_stay_texts(made):
    """An opponent's name is shown as it is written."""
    page = made.page
    assert "<img src=x" not in page and "&lt;img src=x onerror=" in page


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_runs_nothing_of_it(made, tmp_path):
    """In a real browser the hostile name changes nothing, and every picture is shown."""
    page = tmp_path / "page.html"
    page.write_text(made.page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert "<title>Training report: Light</title>" in done.stdout
    assert done.stdout.count("<img alt=") == 6


def test_nothing_private_is_told(run_root, made):
    """Neither where the root lies, nor who plays, nor what the machine is called."""
    page = made.page
    for word in run_facts.private_words(Paths(run_root)):
        assert not re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", page)


def test_private_words_are_struck_out_as_words():
    """A user called "me" keeps the rest of the language."""
    facts = run_facts.RunFacts(
        np.zeros(1),
        np.ones(1),
        np.ones(1),
        reasons=(run_facts.Reason("rejected", "unusable", 1, "/there/me/bot of me: some --me"),),
    )
    page = report.write(facts, ["/there/me/bot", "me"], 0.0).page
    assert "... of ...: some --me" in page


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_games_make_a_page_too(root, count):
    """Nothing played, one game, two: no number is made up."""
    doctor_roots.play(root, count) if count else Paths(root).data.mkdir()
    page = _report(root).page
    assert ("No game has been trained on yet." in page) == (count == 0)
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).casefold()


def test_a_page_without_pictures(run_root, monkeypatch):
    """Where nothing can draw, the numbers are told all the same."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    made = _report(run_root)
    assert not made.pictures and "Without pictures" in made.page and "In numbers" in made.page


def test_the_command_writes_page_and_pictures(run_root, tmp_path):
    """One page, its pictures beside it; a folder without a run is an error that says so."""
    out = tmp_path / "posts" / "my run.html"
    printed = commands.run_tool("report.py", run_root, "--out", str(out))
    assert str(out) in printed
    names = sorted(path.name for path in out.parent.iterdir())
    assert "my run.html" in names and "my run_returns.png" in names
    assert "there is no run in it" in commands.run_tool("report.py", tmp_path / "nothing", exit_code=5)


def test_settings_that_hold_paths_are_left_out(run_root):
    """Where somebody's replays lie is nobody's business."""
    settings = Settings(root=run_root).with_values("test", replays={"folder": "/secret/replays"}, learner={"batch_size": 7})
    page = report.write(dataclasses.replace(run_facts.gather(settings, sampled=1), returns=np.zeros(0), samples=()), [], 0.0).page
    assert "/secret" not in page and "learner.batch_size" in page


def test_samples_are_taken_evenly(run_root):
    """Of a long run some games are read, the first and the last among them."""
    facts = run_facts.gather(Settings(root=run_root), sampled=5)
    assert [sample.number for sample in facts.samples] == [1, 6, 12, 18, 24]


def test_students_quantile_by_its_integral():
    """Slow oracle: the density between the two quantiles holds 95 %."""
    for freedom in (1, 2, 5, 16, 17, 30, 200):
        edge = intervals.student_quantile(freedom)
        x = np.linspace(-edge, edge, 200_001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = np.exp(log_scale) * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
        held = float(((density[1:] + density[:-1]) / 2).sum() * (x[1] - x[0]))
        assert held == pytest.approx(0.95, abs=2e-4)


def test_wilsons_interval():
    """The worked examples of Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    known = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for wins, count, low, high in known:
        share = intervals.share_of(wins, count)
        assert (share.low, share.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(1, 50))
def test_stretches_hold_every_game_once(values, most):
    """In order, nearly equal in length, and no more of them than asked for."""
    parts = intervals.stretches(np.array(values), most)
    assert len(parts) <= most
    assert [number for part in parts for number in range(part.first, part.last + 1)] == list(range(1, len(values) + 1))
    assert sum(part.mean.games for part in parts) == len(values)
    assert all(part.mean.low <= part.mean.value <= part.mean.high for part in parts)


def test_cells_are_escaped():
    """All but what was made here."""
    assert html_page.table(("<a>",), [("<b>", html_page.Markup("<i>"))]).count("&lt;") == 2


def test_it_shows_whether_long_games_come_too_late(root: Path) -> None:
    """Of ten long games eight came too late, of thirty short ones none."""
    paths = Paths(root)
    paths.buffer.mkdir(parents=True)
    for number in range(30):
        episodes.write(paths.buffer, f"short_{number}.npz", seed=number, steps=10)
    for number in range(10):
        age_seconds = 7200.0 if number < 8 else 0.0
        episodes.write(paths.buffer, f"long_{number}.npz", seed=50 + number, steps=40, age_seconds=age_seconds)
    learner_runs.drain(root, max_file_age=3600.0)

    page = report.write(run_facts.gather(Settings(root=root)), [], 0.0).page

    assert "Of the longest quarter of these games (40 steps or more), 20% (" in page
    assert "of the others, 100% (" in page
