"""A learner that does not keep up is named where the games are seen, with its reason; so are the episodes that it leaves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT, Paths
from background_training.records import back_pressure, pause_file
from background_training.records.status import EMPTY_STATS
from tests.commands import run_tool

pytest.importorskip("gymnasium", reason="the games extra is not installed")

from background_training.runs import progress

pytestmark = pytest.mark.slow  # real processes

NOW = 1000.0


@pytest.mark.parametrize(
    ("stats", "running", "waiting", "words"),
    [
        (
            {"governor": "paused: the game is busy: boss fight"},
            True,
            3,
            "3 episodes wait: training is paused, as the game is busy",
        ),
        ({"governor": "paused: the battery is at 9 %"}, True, 1, "1 episode waits: training is paused, as the battery is at 9 %"),
        ({"governor": "giving way: other programs use 97 % of the processor"}, True, 9, "gives way, as other programs use 97 %"),
        ({"governor": "free", "last_batch_time": NOW - 40}, True, 7, "7 episodes wait: no batch was trained for 40 s"),
        ({"last_error": "the disk is full"}, False, 2, "2 episodes wait: the learner has stopped (the disk is full)"),
        ({}, False, 2, "2 episodes wait: the learner has stopped"),
    ],
)
def test_a_starved_learner_is_named_with_its_reason(stats: dict[str, object], running: bool, waiting: int, words: str) -> None:
    """As the governor words it, and behind the figures of the games."""
    said = back_pressure.starvation({**EMPTY_STATS, **stats}, running, waiting, NOW)

    assert words in said
    assert progress.sentence([1.0, 3.0], 4, said) == f"mean return of the last 2: 2.0, model version 4; {said}"


@pytest.mark.parametrize(
    ("stats", "running", "waiting"),
    [
        ({"governor": "paused: the game is busy"}, True, 0),
        ({}, False, 0),
        ({"governor": "giving way: 1 of 2 processes, until it is certain that there is room for more"}, True, 2),
        ({"governor": "free", "last_batch_time": NOW - 2}, True, 30),
        ({"governor": "free", "last_batch_time": NOW - 60}, True, 1),
        ({"governor": "", "last_batch_time": None}, True, 3),
    ],
)
def test_a_learner_that_keeps_up_is_not(stats: dict[str, object], running: bool, waiting: int) -> None:
    """Nothing waits, or little, or a batch has just been trained."""
    assert back_pressure.starvation({**EMPTY_STATS, **stats}, running, waiting, NOW) == ""


def test_a_paused_run_says_so_and_names_the_episodes_that_wait(paths: Paths) -> None:
    """In the progress line and in the summary; the command that it names trains on all of them."""
    pause_file.pause(paths)
    printed = _run(paths.root, "--games", "6", "--instances", "1")

    assert re.search(r"\[GAME\] .*6/6: .* episodes wait: training is paused, as the user has asked for it", printed), printed
    command = f'python tools/background_parallel_learner.py --root "{paths.root}" --drain'
    assert f"Episodes still waiting:    6; to train on them: {command}" in printed
    pause_file.resume(paths)
    assert "6 files trained" in run_tool("background_parallel_learner.py", paths.root, "--drain")
    assert "Episodes still waiting" not in _run(paths.root, "--games", "2", "--quiet", "--no-training")


def _run(root: Path, *arguments: str) -> str:
    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--game", "CartPole-v1", "--root", str(root), *arguments]
    config = root.parent / "any_lead.yaml"
    config.write_text("games:\n  max_episodes_ahead: 0\n")
    done = subprocess.run([*command, "--config", str(config)], capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
