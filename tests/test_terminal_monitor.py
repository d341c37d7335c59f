"""The live screen: it fits whatever terminal it meets, costs little, hears its keys, and leaves the terminal as it was."""

from __future__ import annotations

import dataclasses
import io
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS, wait_until
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from background_training.monitor import history
from background_training.monitor.facts import ModelFileFacts, Snapshot, StatusFacts
from background_training.monitor.folder_census import FileFacts, FolderFacts
from background_training.monitor.history import learning, whole_run
from background_training.monitor.replays import ReplayCensus, ReplayProgress
from background_training.monitor.terminal.live_facts import LOOK_SECONDS, LiveFacts, LiveReader, QueueFlow
from background_training.paths import CHECKOUT, Paths
from background_training.records import metrics, pause_file, status
from background_training.records.metrics import BATCHES, GAMES
from background_training.records.status import EMPTY_STATS
from tests.json_values import json_values

pytest.importorskip("rich", reason="rich is not installed")
from rich.cells import cell_len

from background_training.monitor.terminal import screen
from background_training.monitor.terminal.screen import ASCII, BLOCKS

SCRIPT = CHECKOUT / "tools" / "monitor_background_training.py"
NOW = 1_700_000_000.0
SIZES = [(20, 3), (40, 10), (80, 24), (140, 24), (160, 50), (240, 70)]
RANDOM = np.random.default_rng(3)


def _games(count: int) -> np.ndarray:
    games = np.zeros(count, GAMES)
    games["weight"] = 1
    games["episode_return"] = RANDOM.normal(size=count) * 20
    games["episode_return"][RANDOM.random(count) < 0.1] = np.nan
    games["result"] = RANDOM.integers(0, 4, count)
    return games


def _batches(count: int) -> np.ndarray:
    batches = np.zeros(count, BATCHES)
    batches["waiting"] = np.arange(count)
    for name in (*history.FIGURES, *(f"{stage}_seconds" for stage in history.STAGES)):
        batches[name] = RANDOM.random(count)
    return batches


STATS = {**EMPTY_STATS, "model_version": 12, "files_processed": 123_456, "max_workers": 2, "active_workers": 1}
ERRORS = {
    "errors": 12,
    "last_error": "MachineError: " + "a very long path/" * 30,
    "worker_restarts": 2,
    "last_misfit": "x " * 300,
}
SNAPSHOT = Snapshot(
    started=NOW - 65,
    now=NOW,
    buffer=FolderFacts("/r/buffer", "", 3, 3, 4096, (FileFacts("new.npz", 2048, NOW - 1),), arrived=2, looked_at=NOW),
    archive=FolderFacts("/r/archive", "", 123_456, 4_000, 81920, (FileFacts("old.npz", 9, NOW - 9),), looked_at=NOW - 30),
    model=ModelFileFacts("/r/models/rl_agent_model.npz", size_bytes=140_000, modified=NOW - 197, version=12),
    status=StatusFacts(
        {
            "state": "paused",
            "updated_at": NOW - 2,
            "stats": {**STATS, **ERRORS},
            "governor": {"state": "giving way", "reason": "other programs use 96 % of the processor (limit 80 %); " * 3},
        }
    ),
    log_path="/r/logs/background_training.log",
    log_lines=tuple(f"  Batch Size:      {number} games" for number in range(40)),
    pause=pause_file.Pause(NOW - 7, "ann"),
)
RUN = whole_run(_games(500))
FACTS = LiveFacts(
    "/r/" + "a long root/" * 20 + "☃ 雪",
    SNAPSHOT,
    learning(_batches(30), _games(500)),
    *RUN,
    None,
    ReplayProgress(120, 34, "20 of 34"),
)


def _text(facts: LiveFacts, width: int, height: int, **more: Any) -> str:
    return "\n".join(row.plain for row in screen.screen(facts, width, height, BLOCKS, **more))


def _fits(facts: LiveFacts, width: int, height: int) -> None:
    shown = screen.screen(facts, width, height, BLOCKS)
    assert len(shown) == height
    assert {cell_len(row.plain) for row in shown} == {width}
    assert all(row.plain.isprintable() for row in shown)


# What it shows, and how it fits


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("games", [0, 1, 50, 1000])
def test_it_fits_every_terminal(size: tuple[int, int], games: int) -> None:
    """Just as many rows and columns as there are, with many games and with none, errors and a pause among them."""
    for batches in (0, games):
        _fits(dataclasses.replace(FACTS, learning=learning(_batches(batches), _games(games))), *size)
    quiet = dataclasses.replace(SNAPSHOT, status=StatusFacts(None, is_there=False), pause=None, log_lines=())
    _fits(LiveFacts("/r", quiet), *size)


def test_a_small_screen_keeps_what_matters_and_cuts_no_advice() -> None:
    """At 80x24, with errors and while paused: state, governor, curves, backlog, the worst errors whole, and the keys."""
    text = _text(dataclasses.replace(FACTS, root="/bots/my bots/雪"), 80, 24)
    for wanted in ("PAUSED", "State ", "Governor ", "giving way", "Return ", "Won ", "Buffer ", "q  quit", "looks for the"):
        assert wanted in text
    title = _text(FACTS, 80, 24).splitlines()[0]
    assert " 雪 " in title and "..." in title
    assert "Last of 12 errors" in text and "more; python tools/doctor.py" in text


def test_a_wide_screen_shows_more_and_higher_curves() -> None:
    """Two columns, the log, files and figures that a small one has no room for."""
    small, wide = _text(FACTS, 80, 24), _text(FACTS, 160, 50)
    for wanted in ("Log ", "new.npz", "gradient", "Staleness", "Batch Size:      39 games", "20 of 34"):
        assert wanted in wide and wanted not in small
    assert sum(line.count("█") > 20 for line in wide.splitlines()) > 3
    assert "34 read of 120" in wide and "counted" not in wide and "(30s ago)" in wide


def test_the_log_grows_with_the_screen_and_its_end_comes_first() -> None:
    """What is left of a higher screen is the log's."""
    well = dataclasses.replace(SNAPSHOT, pause=None, status=StatusFacts({"state": "idle", "updated_at": NOW, "stats": STATS}))
    seen = [_text(dataclasses.replace(FACTS, snapshot=well), 80, rows) for rows in (48, 60)]
    assert [text.count("Batch Size:") > 3 for text in seen] == [True, True]
    assert seen[0].count("Batch Size:") < seen[1].count("Batch Size:")
    assert all("39 games" in text for text in seen)


JSON_VALUES = json_values([*EMPTY_STATS, "state", "updated_at", "stats", "settings", "governor", "reason", "replays", "folder"])


@pytest.mark.slow
@given(JSON_VALUES)
def test_any_status_can_be_shown(value: Any) -> None:
    """Whatever JSON stands in status.json, the screen comes up, fits, and moves no cursor."""
    everywhere = dict.fromkeys(("state", "updated_at", "stats", "settings", "governor"), value)
    for content in (
        value,
        everywhere,
        {"stats": dict.fromkeys(EMPTY_STATS, value), "governor": {"state": value, "reason": value}},
    ):
        if isinstance(content, dict):
            flow = QueueFlow()
            flow.note(content)
            snapshot = dataclasses.replace(SNAPSHOT, status=StatusFacts(content))
            for size in ((80, 24), (160, 40)):
                _fits(dataclasses.replace(FACTS, snapshot=snapshot, rates=flow.rates(NOW)), *size)


@given(st.text(max_size=200), st.integers(4, 40), st.integers(1, 4))
def test_wrapped_lines_fit(text: str, width: int, most: int) -> None:
    """No line is wider than asked, wide signs and accents among them; nothing is lost that is not marked so."""
    plain = "".join(sign for sign in text if sign.isprintable())
    lines = screen.wrapped(plain, width, most)
    assert len(lines) <= most and all(cell_len(line) <= width for line in lines)
    if not (lines and lines[-1].endswith("...")):
        assert "".join("".join(lines).split()) == "".join(plain.split())
    assert cell_len(screen.cut_left(plain, width)) <= width


def test_curves_and_bars_say_what_the_numbers_say() -> None:
    """The least value has a mark, the greatest fills its column, what is unknown leaves a gap."""
    assert screen.chart([0.0, 5.0, float("nan"), 10.0], 1, BLOCKS, 0.0, 10.0) == ["▁▅ █"]
    high = screen.chart([0.0, 5.0, 10.0], 2, BLOCKS, 0.0, 10.0)
    assert high == ["  █", "▁██"] or high == [" ▁█", "▁██"]
    assert screen.chart([3.0, 3.0], 1, ASCII, 3.0, 3.0) == ["-="] or len(screen.chart([3.0, 3.0], 1, ASCII, 3.0, 3.0)[0]) == 2
    assert [screen.bar(share, 10, ASCII) for share in (0.0, 0.001, 0.5, 0.999, 1.0, 7.0)] == [
        ("", "." * 10),
        ("#", "." * 9),
        ("#" * 5, "." * 5),
        ("#" * 9, "."),
        ("#" * 10, ""),
        ("#" * 10, ""),
    ]
    assert screen.glyphs_for("utf-8") is BLOCKS and screen.glyphs_for("cp437") is ASCII and screen.glyphs_for("ascii") is ASCII


def test_figures_are_what_a_slow_loop_says() -> None:
    """Means and shares of the last 200 games, stage times of the last 20 batches."""
    games, batches = _games(350), _batches(50)
    found = learning(batches, games)
    last = [float(value) for value in games["episode_return"][-200:]]
    known = [value for value in last if value == value]
    results = [int(result) for result in games["result"][-200:]]
    assert found.games == 200 and found.mean_return == pytest.approx(sum(known) / len(known))
    assert (found.won, found.decided) == (results.count(metrics.WON), 200 - results.count(metrics.UNKNOWN))
    assert found.stage_seconds["train"] == pytest.approx(sum(float(value) for value in batches["train_seconds"][-20:]) / 20)
    assert found.most_waiting == 49
    halves = [value for result in results[-20:] if (value := {1: 1.0, 2: 0.0, 3: 0.5}.get(result)) is not None]
    assert found.wins[-1] == pytest.approx(sum(halves) / len(halves))


def test_the_whole_run_is_told_in_stretches_of_as_many_games() -> None:
    """Records that stand for many games count as many; the means are those of a slow loop."""
    games = _games(1000)
    games["weight"][:500] = 4
    total, means = whole_run(games, 100)
    assert total == 2500 and len(means) == 100
    stretches: list[list[float]] = [[] for _ in range(100)]
    place = 0
    for game in games:
        middle = place + int(game["weight"]) / 2
        place += int(game["weight"])
        if np.isfinite(game["episode_return"]):
            stretches[int(middle * 100 / 2500)] += [float(game["episode_return"])] * int(game["weight"])
    assert means == pytest.approx([sum(one) / len(one) for one in stretches])
    assert whole_run(_games(0))[0] == 0 and len(whole_run(_games(1))[1]) == 1


def _counts(moment: float, trained: int, waiting: int, rejected: int = 0) -> dict[str, Any]:
    return {
        "updated_at": moment,
        "stats": {**EMPTY_STATS, "files_processed": trained, "buffer_file_count": waiting, "files_rejected": rejected},
    }


def test_rates_are_those_of_the_last_minute() -> None:
    """Ten come in a second, eight are trained on, one is set aside; after a minute of silence nothing is known."""
    flow = QueueFlow()
    assert flow.rates(NOW) is None
    for second in range(200):
        flow.note(_counts(NOW + second, 8 * second, second, second))
    found = flow.rates(NOW + 199)
    assert found is not None
    assert (found.arriving, found.trained, found.archived) == pytest.approx((10.0, 8.0, 9.0))
    slower = flow.rates(NOW + 229)
    assert slower is not None and slower.trained == pytest.approx(8.0 * 61 / 91, rel=0.05)
    assert flow.rates(NOW + 400) is None
    flow.note(_counts(NOW + 200, 0, 0))
    assert flow.rates(NOW + 200) is None


def test_replays_are_counted_where_the_learner_was_given_some(paths: Paths, tmp_path: Path) -> None:
    """Results against files; without a folder and without results there is nothing to show."""
    settings = {"replays": {"folder": str(tmp_path / "replays")}}
    assert ReplayCensus(paths).look(None) is None
    (tmp_path / "replays" / "old").mkdir(parents=True)
    paths.replay_results.mkdir()
    for name in ("a.SC2Replay", "old/b.sc2replay", "notes.txt"):
        (tmp_path / "replays" / name).touch()
    for name in ("index.json", "0a.json"):
        (paths.replay_results / name).touch()
    assert ReplayCensus(paths).look(settings) == ReplayProgress(2, 1)
    assert ReplayCensus(paths).look({"replays": {"folder": "\0"}}) == ReplayProgress(0, 1)


# Looking


def test_a_look_without_news_is_none_and_news_are_seen_soon(paths: Paths) -> None:
    """Within one second the same is told once. A pause is seen at once; status, log and games twice a second."""
    clock = FakeClock(NOW)
    reader = LiveReader(paths, NOW, clock)
    assert reader.look() is not None and reader.look() is None
    status.write(paths, "idle", {**EMPTY_STATS, "model_version": 3})
    assert reader.look() is None
    clock.advance(LOOK_SECONDS + 0.01)
    seen = reader.look()
    assert seen is not None and (seen.snapshot.status.content or {})["stats"]["model_version"] == 3
    pause_file.pause(paths)
    seen = reader.look()
    assert seen is not None and seen.snapshot.pause is not None
    pause_file.resume(paths)
    episodes.write(paths.buffer, "game.npz")
    learner_runs.drain(paths.root)
    clock.advance(LOOK_SECONDS + 0.01)
    seen = reader.look()
    assert seen is not None and seen.learning.games == 1 and seen.snapshot.log_lines and seen.snapshot.pause is None
    clock.advance(LOOK_SECONDS + 0.01)
    assert reader.look() is None


# Drawing


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_what_has_changed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same screen again costs nothing; another second costs its row."""
    monkeypatch.setenv("TERM", "xterm-256color")
    out = _Terminal()
    assert screen.can_draw(out)
    canvas = screen.Canvas(out)
    canvas.enter()
    shown = screen.screen(FACTS, 80, 24, canvas.signs)
    canvas.draw(shown)
    first = len(out.getvalue())
    canvas.draw(shown)
    assert len(out.getvalue()) == first > 80 * 20
    later = dataclasses.replace(FACTS, snapshot=dataclasses.replace(SNAPSHOT, now=NOW + 1))
    canvas.draw(screen.screen(later, 80, 24, canvas.signs))
    assert len(out.getvalue()) - first < 500
    canvas.leave()
    canvas.leave()
    assert out.getvalue().count("\x1b[?1049h") == out.getvalue().count("\x1b[?1049l") == 1
    assert screen.picture(shown, "monitor").startswith("<svg")


# In a real terminal

if sys.platform != "win32":
    import fcntl
    import pty
    import termios


class _Live:
    """A monitor on a pseudo-terminal of its own, and what it has written there."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int) -> None:
        self.process, self.leader, self.seen = process, leader, b""

    def press(self, keys: bytes) -> None:
        os.write(self.leader, keys)

    def wait_shown(self, text: bytes, times: int = 1) -> None:
        def shown() -> bool:
            if select.select([self.leader], [], [], 0)[0]:
                self.seen += os.read(self.leader, 65536)
            return self.seen.count(text) >= times

        wait_until(shown)

    def read_rest(self) -> None:
        os.set_blocking(self.leader, False)
        try:
            while part := os.read(self.leader, 65536):
                self.seen += part
        except OSError:
            pass


@contextmanager
def _live(root: Path, *command: str) -> Iterator[_Live]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(follower)
    environment = {key: value for key, value in os.environ.items() if key not in ("LINES", "COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *(command or (str(SCRIPT),)), "--root", str(root)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environment, "TERM": "xterm-256color"},
        cwd=CHECKOUT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    live = _Live(process, leader)
    try:
        yield live
        assert process.wait(PATIENCE_SECONDS) == 0
        live.read_rest()
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_keys_pause_resume_and_quit(paths: Paths) -> None:
    """One key each, without Enter; the screen says what it did, and in the end the terminal is as before."""
    with _live(paths.root) as live:
        live.wait_shown(b"BACKGROUND TRAINING")
        live.press(b"\x1b[Ax")  # an arrow key and one without a meaning
        live.press(b"p")
        live.wait_shown(b"press r to resume")
        assert pause_file.read(paths) is not None
        live.press(b"R")
        live.wait_shown(b"Resumed")
        assert pause_file.read(paths) is None
        live.press(b"q")
    assert live.seen.count(b"\x1b[?1049l") == 1 and live.seen.endswith(b"Monitoring stopped; the learner continues.\r\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
@pytest.mark.parametrize("end", ["ctrl-c", "term", "quit-from-background"])
def test_the_terminal_is_given_back_however_it_ends(paths: Paths, end: str) -> None:
    """Ctrl+C, a signal, Ctrl+Z with a way back: cursor, screen and echo are as before."""
    with _live(paths.root) as live:
        live.wait_shown(b"q ")
        pressed = time.monotonic()
        if end == "ctrl-c":
            live.press(b"\x03")
        elif end == "term":
            live.process.send_signal(signal.SIGTERM)
        else:
            live.process.send_signal(signal.SIGTSTP)
            live.wait_shown(b"\x1b[?1049l")
            # Told to go on before it stands still, it would stand still after that, for ever.
            wait_until(lambda: psutil.Process(live.process.pid).status() == psutil.STATUS_STOPPED)
            live.process.send_signal(signal.SIGCONT)
            live.wait_shown(b"BACKGROUND TRAINING", 2)
            live.press(b"q")
        live.process.wait(PATIENCE_SECONDS)
        assert time.monotonic() - pressed < PROMPT_SECONDS
    assert live.seen.count(b"\x1b[?25h") == live.seen.count(b"\x1b[?25l") == live.seen.count(b"\x1b[?1049l")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_without_rich_it_shows_plain_lines(paths: Paths) -> None:
    """The dashboard of text, over the last one, and Ctrl+C."""
    code = "import sys; sys.modules['rich'] = None; from background_training.commands.monitor import main; sys.exit(main())"
    with _live(paths.root, "-c", code) as live:
        live.wait_shown(b"BACKGROUND TRAINING LIVE MONITOR")
        live.press(b"\x03")
    assert b"\x1b[?1049h" not in live.seen and b"State:" in live.seen


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_a_terminal_that_is_closed_ends_it(paths: Paths) -> None:
    """The window is closed, or the SSH connection is lost: no monitor is left running."""
    pytest.importorskip("rich", reason="rich is not installed")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--root", str(paths.root), "--interval", "0.1"],
        stdin=follower,
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(follower)
    os.read(leader, 1)
    os.close(leader)
    wait_until(lambda: process.poll() is not None)
