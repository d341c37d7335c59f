"""On Linux the processes of a run are forks of its command, which has loaded once what all of them need; how that may fail."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from background_training.ipc import process_names
from background_training.paths import CHECKOUT, Paths
from background_training.records import ledger_lines
from tests import learner_runs
from tests.conftest import PATIENCE_SECONDS, wait_until

pytest.importorskip("gymnasium", reason="the games extra is not installed")

from background_training.envs import fork_of_ours

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")]

COMMAND = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--game", "Acrobot-v1", "--instances", "2", "--quiet"]

PROGRAM = """
import os, sys, tempfile
from background_training.envs import fork_of_ours
from background_training.envs.forked_command import Command, ForkedCommand
with fork_of_ours.serving() as forks, tempfile.TemporaryFile() as errors:
    command = Command("tests.test_forks_of_a_run:answer", "answerer", ["7"], {"QUESTION": "six times seven"}, "/")
    child = ForkedCommand(forks, command, None, errors.fileno())
    child.stdin.write(b"go on\\n")
    child.stdin.close()
    print(child.stdout.read().decode())
    print("code", child.wait(20))
    errors.seek(0)
    print(errors.read().decode())
print("over")
"""


def answer() -> int:
    """The command that the program below has forked: says what it was given."""
    print(sys.argv, input(), os.environ["QUESTION"], Path.cwd(), os.getsid(0) == os.getpid(), psutil.Process().name())
    print("oh", file=sys.stderr)
    return 5


def _processes(pid: int) -> dict[str, list[psutil.Process]]:
    found: dict[str, list[psutil.Process]] = {}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.setdefault(child.name(), []).append(child)
    return found


def _games(root: Path) -> list[int]:
    path = Paths(root).games_log
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [int(row["number"]) for row in csv.DictReader(file)]


def test_forked_command_has_streams_arguments_and_a_code_of_its_own() -> None:
    """It gets what subprocess.Popen would give it, and what it is forked from goes on undisturbed, once."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    lines = [line for line in done.stdout.splitlines() if line]
    assert lines == ["['answerer', '7'] go on six times seven / True answerer", "code 5", "oh", "over"], done.stderr


def test_nothing_is_forked_beside_a_second_thread() -> None:
    """The locks that it holds would never be released in the fork."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with fork_of_ours.serving() as server:
            assert server is None
    finally:
        over.set()
        thread.join()


def test_run_goes_on_without_what_it_was_forked_from(root: Path) -> None:
    """The fork server is killed: no game and no version is lost, what has to be started anew is, and nothing is left behind."""
    command = [*COMMAND, "--games", "40", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8") as process:
        wait_until(lambda: len(_games(root)) > 1)
        family = _processes(process.pid)
        names = (process_names.LEARNER_WORKER, process_names.GREEDY_GAMES)
        assert [len(family[name]) for name in names] == [1, 1]
        family[process_names.FORK_SERVER][0].kill()
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0 and "SUMMARY" in said and "Errors:" not in said, said
    assert sorted(_games(root)) == list(range(1, 41))
    assert learner_runs.command(root, "--drain", "--quiet").returncode == 0  # a busy run does not wait for its last batches
    assert len([line for line in ledger_lines.read_lines(Paths(root).ledger) if line["fate"] == "trained"]) == 40
    left = [child for children in family.values() for child in children]
    wait_until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in left))
