"""The command as its user meets it: exit codes, one line for what is wrong, files where they belong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS, wait_until
from replay_fakes import install_fake_library, write_replays

from background_training.paths import CHECKOUT

pytestmark = pytest.mark.slow  # real processes

COMMAND = [sys.executable, str(CHECKOUT / "tools" / "analyze_replays.py")]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No folder and no root named, and a library in which every replay lacks players."""
    names = ("REPLAY_ARCHIVE_DIR", "LOCAL_TRAINING_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": install_fake_library(tmp_path), "PYTHONIOENCODING": "utf-8"}


def run(environment: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
    )


def test_it_runs_from_anywhere_and_writes_where_it_says(environment: dict[str, str], tmp_path: Path):
    """A folder with its own "tools", spaces and letters of another alphabet: results, summary, details and report are there."""
    replays = tmp_path / "повторы zerg"
    write_replays(replays, ["a", "b"])
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("raise RuntimeError('not ours')")

    done = run(environment, replays.name, "--root", "my root", "--details", "details.jsonl", "--report", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("0 of 2 replays teach a Zerg build order")
    lines = [json.loads(line) for line in (tmp_path / "details.jsonl").read_text().splitlines()]
    assert [(Path(line["file"]).name, line["verdict"], line["reason"]) for line in lines] == [
        ("a.SC2Replay", "skip", "no-players"),
        ("b.SC2Replay", "skip", "no-players"),
    ]
    assert all(len(line["sha256"]) == 64 and line["players"] == [] for line in lines)
    models = tmp_path / "my root" / "models"
    assert json.loads((models / "learned_build_orders.json").read_text())["counts"]["seen"] == 2
    assert "0 of 2" in (models / "replay_report.html").read_text()


def test_the_folder_may_come_from_the_environment(environment: dict[str, str], tmp_path: Path):
    """REPLAY_ARCHIVE_DIR names the default, LOCAL_TRAINING_ROOT the root."""
    write_replays(tmp_path / "replays", ["a"])
    named = {"REPLAY_ARCHIVE_DIR": str(tmp_path / "replays"), "LOCAL_TRAINING_ROOT": str(tmp_path / "root")}

    done = run({**environment, **named}, "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "root" / "models" / "learned_build_orders.json").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        ((), 2, "REPLAY_ARCHIVE_DIR"),
        (("not there",), 2, "'not there'"),
        ((".", "--workers", "0"), 2, "workers is 0"),
        ((".", "--timeout", "-1"), 2, "timeout_seconds is -1.0"),
        ((".", "--root", "a file"), 2, "a file"),
        ((".", "--details", "no folder/details.jsonl"), 5, "no folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(
    arguments: tuple[str, ...], exit_code: int, words: str, environment: dict[str, str], tmp_path: Path
):
    """2 is the user's, 5 the machine's; no traceback unless asked for."""
    (tmp_path / "a file").write_text("")
    root = () if "--root" in arguments else ("--root", str(tmp_path / "root"))

    done = run(environment, *arguments, *root, cwd=tmp_path)

    assert done.returncode == exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith("[ERROR] ") and words in line
    shown = run(environment, *arguments, *root, "--debug", cwd=tmp_path)
    assert shown.returncode == exit_code
    assert "Traceback" in shown.stderr


def test_without_the_library_it_says_what_to_install(environment: dict[str, str], tmp_path: Path):
    """sc2reader is optional; its absence is no traceback."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sc2reader'] = None\n")
    write_replays(tmp_path / "replays", ["a"])

    done = run({**environment, "PYTHONPATH": str(tmp_path)}, str(tmp_path / "replays"), "--root", str(tmp_path / "root"))

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install" in line


def test_help_names_every_option(environment: dict[str, str]):
    """--help exits 0."""
    done = run(environment, "--help")

    assert done.returncode == 0
    assert all(word in done.stdout for word in ("DIR", "--root", "--workers", "--details", "--report", "--debug", "Exit codes"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGTERM")
def test_watching_reads_what_comes_until_it_is_stopped(environment: dict[str, str], tmp_path: Path):
    """A replay saved while it runs is read without a restart; the summary follows."""
    write_replays(tmp_path / "replays", ["a"])
    arguments = [str(tmp_path / "replays"), "--root", str(tmp_path / "root"), "--watch", "--quiet"]
    environment = {**environment, "LOCAL_TRAINING_REPLAYS_RESCAN_SECONDS": "0.1"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE)
    try:
        wait_for_seen(tmp_path, 1)
        (path,) = [path for path in write_replays(tmp_path / "replays", ["b"]) if "b.SC2" in path]
        os.utime(path, (1000, 1000))  # it has stood still long enough
        wait_for_seen(tmp_path, 2)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, errors.decode()


def wait_for_seen(tmp_path: Path, count: int) -> None:
    summary = tmp_path / "root" / "models" / "learned_build_orders.json"
    wait_until(lambda: summary.exists() and json.loads(summary.read_bytes())["counts"]["seen"] == count)
