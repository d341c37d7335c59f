"""The monitor shows what is there, copes with whatever it finds, and leaves no trace."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS, wait_until
from hypothesis import given

from background_training import BackgroundParallelLearner
from background_training.episodes import buffer
from background_training.monitor import advice, dashboard, facts, folder_census, humanize, learner_state
from background_training.monitor.dashboard import Line
from background_training.monitor.facts import ModelFileFacts, Snapshot, StatusFacts
from background_training.monitor.folder_census import FileFacts, FolderCensus, FolderFacts
from background_training.paths import CHECKOUT, Paths
from background_training.records import status
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings
from tests.json_values import json_values

SCRIPT = CHECKOUT / "tools" / "monitor_background_training.py"
NOW = 1_700_000_000.0

SNAPSHOT = Snapshot(
    started=NOW - 65,
    now=NOW,
    buffer=FolderFacts("/r/data/buffer", "", 3, 3, 4096, (FileFacts("new.npz", 2048, NOW - 1),), arrived=2, looked_at=NOW),
    archive=FolderFacts("/r/data/archive", "", 40, 40, 81920, (FileFacts("old.npz", 1024, NOW - 9),), arrived=5, looked_at=NOW),
    model=ModelFileFacts("/r/models/rl_agent_model.npz", size_bytes=140_000, modified=NOW - 197, version=12),
    status=StatusFacts(
        {
            "state": "idle",
            "updated_at": NOW - 2,
            "writer_pid": 7,
            "stats": {**EMPTY_STATS, "model_version": 12, "files_processed": 40, "avg_loss": 0.12345, "max_workers": 2},
        }
    ),
    log_path="/r/logs/background_training.log",
    log_lines=("[2026-01-25 14:32:05] Batch Training Complete", "  Batch Size:      3 games"),
)


def _text(snapshot: Snapshot) -> str:
    return "\n".join(line.text for line in dashboard.lines(snapshot))


def _command(*options: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS, **more)


def _episode() -> dict[str, Any]:
    """A short episode, each its own, as a second delivery of the same one would count as a duplicate."""
    episode_id = np.array(secrets.token_hex(8))
    return {"states": [[0.0, 1.0]] * 5, "actions": [0, 1, 0, 1, 0], "rewards": [1.0] * 5, "episode_id": episode_id}


# What is shown


def test_dashboard_says_what_the_guides_show() -> None:
    """Users know these words from the guides, and look for them."""
    text = _text(SNAPSHOT)
    for words_of_the_guides in (
        "BACKGROUND TRAINING LIVE MONITOR",
        "Monitoring Started: ",
        "Current Time:",
        "Uptime:             1m 5s",
        "BUFFER DIRECTORY (Pending Training)",
        "Path:         /r/data/buffer",
        "File Count:   3 files",
        "Total Size:   4.0 KB",
        "+2 new files detected!",
        "Recent Files:",
        "- new.npz (2.0 KB, ",
        "ARCHIVE DIRECTORY (Processed)",
        "+5 files archived (training completed)",
        "Recently Archived:",
        "- old.npz (1.0 KB, ",
        "MODEL STATUS",
        "Model exists",
        "Model updated 3m 17s ago!",
        "Version:      12",
        "State:        idle (last update 2s ago)",
        "Files Processed:      40",
        "Average Loss:         0.1235",
        "TRAINING LOG (Last 10 lines)",
        "[2026-01-25 14:32:05] Batch Training Complete",
        "Refresh Rate: 2 seconds | Press Ctrl+C to stop monitoring",
    ):
        assert words_of_the_guides in text
    assert text.isascii()
    assert max(map(len, text.splitlines())) < 80


def test_last_error_is_shown_whole_on_one_line() -> None:
    """What is wrong is the first thing a person looks for; an escape code in it does not reach the terminal."""
    assert SNAPSHOT.status.content is not None
    stats = {**EMPTY_STATS, "errors": 2, "last_error": "disk full\n\x1b[2Jin /data"}
    content = {**SNAPSHOT.status.content, "state": "failed", "stats": stats}
    text = _text(dataclasses.replace(SNAPSHOT, status=StatusFacts(content)))
    assert "State:        failed 2s ago" in text
    assert r"Last Error:   disk full\n\x1b[2Jin /data" in text


def test_hostile_file_names_do_not_reach_the_terminal() -> None:
    """A file name may hold line feeds, escape codes, signs that turn the text around, or bytes of no encoding."""
    name = "a\n\x1b[2J\u202e\udcff" + "x" * 300 + ".npz"
    folder = dataclasses.replace(SNAPSHOT.buffer, newest=(FileFacts(name, 1, NOW),))
    shown = [line.text for line in dashboard.lines(dataclasses.replace(SNAPSHOT, buffer=folder)) if r"a\n" in line.text]
    assert len(shown) == 1 and shown[0].isascii() and shown[0].isprintable() and len(shown[0]) < 110


def test_partly_measured_folder_does_not_claim_a_total() -> None:
    """A size that is only known in part is said to be at least that, and an old count to be old."""
    folder = FolderFacts("/r", "", 100_000, 20_000, 1024, (), looked_at=NOW - 30)
    text = _text(dataclasses.replace(SNAPSHOT, archive=folder))
    assert "100,000 files (counted 30s ago)" in text
    assert "at least 1.0 KB (20,000 of 100,000 files measured)" in text


@pytest.mark.parametrize("rows", [1, 5, 23, 30, 60])
def test_small_screen_keeps_what_matters(rows: int) -> None:
    """What does not fit goes by its worth: first the decoration, then old log lines and details, never the states."""
    shown = dashboard.lines(SNAPSHOT)
    kept = dashboard.fitted(shown, rows)
    assert len(kept) == min(rows, len(shown))
    if rows >= 23:
        text = "\n".join(kept)
        assert "Ctrl+C" in kept[-1]
        assert "+2 new files detected!" in text and "Model updated 3m 17s ago!" in text and "State:        idle" in text
    if rows < len(shown):
        assert dashboard.RULE not in kept
    assert [line.text for line in shown if line.text in kept] == kept


def test_oldest_log_line_goes_first() -> None:
    """On a small screen the end of the log is worth more than its beginning."""
    shown = [Line("title"), *dashboard.lines(SNAPSHOT)[-4:-2]]
    assert "Batch Size" in dashboard.fitted(shown, 2)[1]


# Whether the learner lives


def _state(updated_at: object, state: str = "idle", gone: bool = False, **more: Any) -> str:
    content = {"state": state, "updated_at": updated_at, **more}
    return learner_state.state_words(StatusFacts(content, writer_is_gone=gone), NOW)


def test_dead_learner_is_not_taken_for_a_living_one() -> None:
    """A learner that was killed leaves its last words behind; their age tells, and its process."""
    assert _state(NOW - 4) == "idle (last update 4s ago)"
    assert _state(NOW - 4, gone=True) == "idle (last update 4s ago)"
    assert _state(NOW - 10, gone=True) == "NOT RESPONDING for 10s (it was idle); its process is gone from this machine"
    assert _state(NOW - 303).startswith("NOT RESPONDING for 5m 3s (it was idle)")
    assert _state(NOW - 303, "stopped", gone=True) == "stopped 5m 3s ago"
    assert _state(NOW - 303, "failed", gone=True) == "failed 5m 3s ago"


def test_slow_rescan_is_no_death() -> None:
    """A learner that is set to look every minute is silent for a minute."""
    settings = {"learner": {"rescan_seconds": 60.0}}
    assert _state(NOW - 61, gone=True, settings=settings).startswith("idle")
    assert _state(NOW - 211, settings=settings).startswith("NOT RESPONDING for 3m 31s")


@pytest.mark.parametrize("moment", [None, "yesterday", [], float("nan"), float("inf"), 10**400])
def test_unusable_time_is_said(moment: object) -> None:
    """A status without a usable time proves neither life nor death."""
    assert _state(moment) == "idle; status.json has no valid time"


def test_clocks_that_differ_are_said() -> None:
    """A status from the future tells of two clocks, not of a learner that is fine for ever."""
    assert "in the future (the clocks differ)" in _state(NOW + 60)


JSON_VALUES = json_values([*EMPTY_STATS, "state", "updated_at", "stats", "settings", "learner", "rescan_seconds"])


@pytest.mark.slow
@given(JSON_VALUES)
def test_any_status_can_be_shown(value: Any) -> None:
    """Whatever JSON stands in status.json, the dashboard comes up, on printable lines."""
    everywhere = dict.fromkeys(("state", "updated_at", "stats", "settings"), value)
    for content in (value, everywhere, {"stats": dict.fromkeys(EMPTY_STATS, value)}):
        if isinstance(content, dict):
            shown = dashboard.lines(dataclasses.replace(SNAPSHOT, status=StatusFacts(content)))
            assert all(line.text.isprintable() for line in shown)


# Counting folders


def _write(folder: Path, name: str, size: int = 10, modified: float = NOW) -> None:
    (folder / name).write_bytes(b"x" * size)
    os.utime(folder / name, (modified, modified))


def test_census_counts_measures_and_tells_what_is_new(tmp_path: Path) -> None:
    """Episodes are counted and measured; hidden files, notes and folders are none; new names are news once."""
    census = FolderCensus(tmp_path, clock=lambda: 0.0)
    for number in range(5):
        _write(tmp_path, f"e{number}.npz", 10 * number, NOW + number)
    _write(tmp_path, ".part.npz")
    _write(tmp_path, "e1.npz.reason.txt")
    (tmp_path / "stale").mkdir()
    first = census.look(NOW)
    assert (first.count, first.measured, first.total_bytes, first.arrived) == (5, 5, 100, 0)
    assert [file.name for file in first.newest] == ["e4.npz", "e3.npz", "e2.npz"]

    (tmp_path / "e0.npz").unlink()
    _write(tmp_path, "f.npz", 7)
    _write(tmp_path, "e4.npz", 400)
    second = census.look(NOW)
    assert (second.count, second.total_bytes, second.arrived) == (5, 10 + 20 + 30 + 400 + 7, 1)
    assert census.look(NOW).arrived == 0


def test_census_of_a_missing_folder_waits_for_it(tmp_path: Path) -> None:
    """No folder, or a file in its place, is a word on the screen; its first files are not news."""
    census = FolderCensus(tmp_path / "later", clock=lambda: 0.0)
    assert census.look(NOW).trouble == "not there yet"
    (tmp_path / "later").write_text("a file")
    assert "can't be listed" in census.look(NOW).trouble
    (tmp_path / "later").unlink()
    (tmp_path / "later").mkdir()
    _write(tmp_path / "later", "e.npz")
    found = census.look(NOW)
    assert (found.trouble, found.count, found.arrived) == ("", 1, 0)


def test_census_measures_a_large_folder_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large folder each look measures a bounded number of files, those with the latest names first."""
    monkeypatch.setattr(folder_census, "MEASURED_ANEW", 10)
    census = FolderCensus(tmp_path, measured_per_look=30, clock=lambda: 0.0)
    for number in range(80):
        _write(tmp_path, f"game_{number:03d}.npz", 1, NOW - 1000 + number)
    looks = [census.look(NOW) for _ in range(4)]
    assert [look.count for look in looks] == [80] * 4
    assert [look.measured for look in looks] == [30, 60, 80, 80]
    assert looks[0].newest[0].name == "game_079.npz"


def test_census_rests_after_a_long_look(tmp_path: Path) -> None:
    """A look that took a second is followed by a rest of twenty, however often one asks; the count says its age."""
    moment = [0.0]

    def clock() -> float:
        moment[0] += 0.25
        return moment[0]

    census = FolderCensus(tmp_path, clock=clock)
    census.look(NOW)
    _write(tmp_path, "e.npz")
    assert census.look(NOW + 5).count == 0
    assert census.look(NOW + 5).looked_at == NOW
    moment[0] += 100.0
    assert census.look(NOW + 100).count == 1


# Reading a root


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names, "."):
            path = os.path.join(folder, name)
            found[path] = (os.lstat(path).st_size, os.lstat(path).st_mtime_ns)
    return found


@pytest.mark.slow
def test_once_shows_a_real_root_and_changes_nothing(paths: Paths) -> None:
    """Asked once for a root in which a learner has worked, it shows what is there, and leaves no trace."""
    for _ in range(4):
        buffer.deposit(paths, _episode(), "Victory")
    drain = [sys.executable, str(CHECKOUT / "tools" / "background_parallel_learner.py"), "--drain", "--quiet", "--root"]
    subprocess.run([*drain, str(paths.root)], check=True, timeout=PATIENCE_SECONDS)
    buffer.deposit(paths, _episode(), "Defeat")
    before = _tree(paths.root)

    done = _command("--once", "--root", paths.root)

    assert done.returncode == 0, done.stderr
    assert "File Count:   1 file\n" in done.stdout and "File Count:   4 files\n" in done.stdout
    assert "Version:      1\n" in done.stdout and "Files Processed:      4 " in done.stdout
    assert "stopped" in done.stdout and "Total Batches:   1" in done.stdout
    assert "Mean Return:  " in done.stdout and " of 4 games\n" in done.stdout and "Won:          no result" in done.stdout
    assert "\x1b" not in done.stdout
    assert _tree(paths.root) == before


def test_missing_root_is_shown_and_not_made(root: Path) -> None:
    """Started before everything else, the monitor says that nothing is there yet; it makes no folder."""
    done = _command("--once", "--root", root / "later")
    assert done.returncode == 0
    assert done.stdout.count("not there yet") == 2 and "no model yet" in done.stdout
    assert "no learner has run here yet" in done.stdout and "nothing logged yet" in done.stdout
    assert os.listdir(root) == []


def test_name_that_the_console_lacks_is_no_end(root: Path) -> None:
    """On a console that knows only ASCII, a folder with other letters is shown with escapes."""
    done = _command("--once", "--root", root, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r"some W\xf6rk \u2603" in done.stdout


@pytest.mark.parametrize("written", [True, False])
def test_full_disk_is_the_first_thing_said(written: bool) -> None:
    """A learner on a full disk may not have been able to write that it is there; nobody is told to start another."""
    status = SNAPSHOT.status if written else StatusFacts(None, is_there=False)
    full = dataclasses.replace(SNAPSHOT, status=status, free_disk_bytes=4096.0)

    said = advice.advice(full, "/r")

    assert said[0].level == advice.ERROR and said[0].seen == "The disk is full: 4.0 KB are free"
    assert not any("Start one" in item.cure for item in said)
    assert not any("disk" in item.seen for item in advice.advice(SNAPSHOT, "/r"))
    shown = [line.text for line in dashboard.lines(full, advised=said)]
    assert shown[shown.index("WHAT TO DO") + 1].strip() == said[0].seen


def test_bad_usage_has_its_exit_code(root: Path) -> None:
    """A settings file with an unknown key is bad usage: one line, exit code 2."""
    config = root / "my.yaml"
    config.write_text("learner:\n  speed: 3\n")
    done = _command("--once", "--config", config)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "learner.speed" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 99}', "[" * 100_000, '"\\ud800"', "\x00\x01", json.dumps({"schema": 1, "stats": 5})]
)
def test_broken_status_is_said(paths: Paths, text: str) -> None:
    """A status.json that is cut, of another kind, or absurdly deep is a word on the screen."""
    paths.status.write_text(text, "utf-8")
    shown = _text(facts.Reader(paths, NOW).snapshot())
    assert "status.json can't be read" in shown or "status.json has no valid time" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders")
def test_pipes_and_folders_in_the_place_of_files_are_no_trap(paths: Paths) -> None:
    """A named pipe where the log or the status should be would hold a reader for ever."""
    os.mkfifo(paths.status)
    os.mkfifo(paths.training_log)
    paths.model.mkdir()
    done = _command("--once", "--root", paths.root)
    assert done.returncode == 0
    assert "status.json can't be read" in done.stdout and "not a regular file" in done.stdout


def test_last_lines_come_from_the_end_of_a_long_log(tmp_path: Path) -> None:
    """A long log is not read whole, and its foreign line ends and bytes are made harmless."""
    log = tmp_path / "log"
    log.write_bytes(b"old line\n" * 100_000 + b"\xff\x1b[2J\x0b one line \r\nlast\n")
    lines = facts.last_lines(log, 3)
    assert [humanize.visible(line) for line in lines] == ["old line", "�\\x1b[2J\\x0b one line ", "last"]


def test_dead_writer_is_noticed(paths: Paths) -> None:
    """The number of a process that has ended belongs to nobody on this machine."""
    writer = "import sys; from pathlib import Path; from background_training.paths import Paths; "
    writer += "from background_training.records import status; "
    writer += "status.write(Paths(Path(sys.argv[1])), 'idle', {})"
    subprocess.run([sys.executable, "-c", writer, str(paths.root)], cwd=CHECKOUT, check=True, timeout=PATIENCE_SECONDS)
    assert facts.status_facts(paths).writer_is_gone
    status.write(paths, "idle", {})
    assert not facts.status_facts(paths).writer_is_gone


# Live


def _live(root: Path, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-u", str(SCRIPT), "--root", str(root), *flags], **more)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_plain_lines_on_a_terminal_fit_it_and_ends_with_ctrl_c(paths: Paths) -> None:
    """On a terminal of 24 rows each picture fits and replaces the one before; Ctrl+C ends it at once, as intended."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("LINES", "COLUMNS")}
    process = _live(paths.root, "--plain", stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    seen = b""
    while seen.count(b"BACKGROUND TRAINING LIVE MONITOR") < 2:
        seen += os.read(leader, 65536)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    assert time.monotonic() - pressed < PROMPT_SECONDS
    os.close(leader)

    first = seen.decode().split("\x1b[H")[1]
    assert seen.startswith(b"\x1b[2J") and "\x1b[J" in first
    assert first.count("\n") <= 23 and "State:" in first


@pytest.mark.slow
def test_reader_who_leaves_ends_the_monitor_quietly(paths: Paths) -> None:
    """`monitor | head` ends without a complaint."""
    process = _live(paths.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert complaint == b""


@pytest.mark.slow
def test_killing_monitors_makes_no_difference_to_the_learner(root: Path) -> None:
    """Monitors are killed while a learner works beside them; it trains on everything, without an error."""
    learner = BackgroundParallelLearner(settings=Settings(root=root), verbose=False)
    learner.start()
    try:
        for number in range(3):
            monitors = [_live(root, stdout=subprocess.PIPE) for _ in range(2)]
            for monitor in monitors:
                assert monitor.stdout is not None
                monitor.stdout.readline()
            buffer.deposit(learner.settings.paths, _episode())
            for monitor in monitors:
                monitor.kill()
                monitor.communicate()
            wait_until(lambda count=number + 1: learner.get_stats()["files_processed"] == count)
        assert learner.get_stats()["errors"] == 0
    finally:
        learner.stop()
    assert not list(Paths(root).buffer.iterdir())
