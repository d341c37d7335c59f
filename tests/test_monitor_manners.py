"""What a monitor is to the learner beside it: a quiet neighbour, of whom nothing is left when it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import learner_runs
import psutil
import pytest
import web_pages
from conftest import wait_until

from background_training.ipc import process_limits
from background_training.paths import Paths

pytestmark = pytest.mark.slow  # real processes

WAYS = {"terminal": [], "page": ["--web", "--port", "0"]}


@pytest.mark.parametrize("way", WAYS)
def test_it_runs_at_low_priority_and_leaves_nothing_behind_when_killed(way: str, paths: Paths) -> None:
    """Neither a file, nor a lock, nor a process, whether it is the page's server or in the terminal."""
    if way == "page":
        pytest.importorskip("nicegui", reason="NiceGUI (extra web) is not installed")
    paths.status.write_text("{}")
    before = _content(paths.root)
    command = [sys.executable, str(web_pages.SCRIPT), *WAYS[way], "--root", str(paths.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=learner_runs.environment()) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            wait_until(lambda: _has_low_priority(process.pid))
        finally:
            process.kill()
    assert _content(paths.root) == before


def _has_low_priority(pid: int) -> bool:
    found = psutil.Process(pid).nice()
    return found == psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else found >= process_limits.NICENESS


def _content(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}
