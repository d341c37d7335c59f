"""run_with_training.py as its user runs it: it plays, learns, ends cleanly, and goes on where it was."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import psutil
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.ipc.json_lines import Channel
from background_training.paths import CHECKOUT, Paths
from background_training.records import ledger_lines
from background_training.storage import model_store

pytest.importorskip("gymnasium", reason="the games extra is not installed")

from background_training.runs import evaluation, greedy_games
from background_training.runs.gymnasium_game import GymnasiumGame

pytestmark = pytest.mark.slow  # real processes

COMMAND = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--game", "CartPole-v1"]


def _run(root: Path, *arguments: str, exit_code: int = 0) -> str:
    command = [*COMMAND, "--root", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _games(root: Path) -> list[dict[str, str]]:
    with open(Paths(root).logs / "games.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _is_playing(root: Path) -> bool:
    path = Paths(root).logs / "games.csv"
    return path.exists() and len(path.read_text("utf-8").splitlines()) > 3


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _game_processes(pid: int) -> list[psutil.Process]:
    """The processes that games are played in."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "background_training.runs.game_process" in child.cmdline():
                found.append(child)
    return found


def _trained(root: Path) -> list[dict[str, Any]]:
    """What has been trained on in the end: on a busy machine a run does not wait for its last batches."""
    assert learner_runs.command(root, "--drain", "--quiet").returncode == 0
    return [line for line in ledger_lines.read_lines(Paths(root).ledger) if line["fate"] == "trained"]


def test_games_are_played_trained_on_and_summed_up(root: Path) -> None:
    """Each game is in the CSV and in the ledger; the messages of the guides and the summary are printed."""
    printed = _run(root, "--games", "12", "--seed", "3")

    assert len(_games(root)) == len(_trained(root)) == 12
    for promised in (
        "[OK] Background parallel learner initialized and started",
        "[INFO] Experience replay training will run in background",
        f"[INFO] Monitoring directory: {Paths(root).buffer}",
        "[BACKGROUND LEARNING] STATISTICS",
        "Mean return, last tenth",
        str(Paths(root).model),
    ):
        assert promised in printed
    assert Paths(root).model.exists() and (Paths(root).logs / "learning_curve.png").stat().st_size > 1000


def test_second_run_goes_on_where_the_first_ended(root: Path) -> None:
    """Games are numbered on, none is played twice with one seed, and the model's version goes on rising."""
    _run(root, "--games", "5", "--quiet")
    _run(root, "--games", "5", "--quiet")

    games = _games(root)
    assert [int(game["number"]) for game in games] == list(range(1, 11))
    assert len({game["seed"] for game in games}) == 10
    assert int(games[-1]["policy_version"]) > int(games[0]["policy_version"])


def test_summary_tells_of_episodes_of_another_game(root: Path) -> None:
    """A bot's, say: how many were rejected, which sizes met, and how to go on: with another root, or a new model here."""
    _run(root, "--games", "2", "--quiet")

    for number in range(3):
        episodes.write(Paths(root).buffer, f"{number}.npz", number, width=6)
    printed = _run(root, "--games", "3", "--quiet")

    row = next(line for line in printed.splitlines() if "Episodes that do not fit:" in line)
    assert "3 rejected: they do not match this root's model" in row
    assert "a state holds 6 numbers; models/rl_agent_model.npz takes states of 4 numbers and chooses actions 0 to 1" in row
    assert "use another --root to keep both models" in row and "data/ledger.jsonl elsewhere to start a new one here" in row


@pytest.mark.parametrize("instances", ["1", "2"])
def test_the_policy_is_shown_without_exploring_too(root: Path, instances: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Games of their own, whose seeds no training game has: one a version on the way, a few of the last; the summary tells it."""
    printed = _run(root, "--games", "60", "--instances", instances, "--quiet")

    model = model_store.read(Paths(root).model)
    games = greedy_games.read(Paths(root))
    versions = [game.version for game in games]
    last = [game.episode_return for game in games if game.version == model.version]
    assert versions == sorted(versions) and last  # a busy machine does not play all of the last ones in their time
    assert len({game.seed for game in games}) == len(games) and all(game.seed >= 2**31 for game in games)
    row = next(line for line in printed.splitlines() if "Greedy, without exploring:" in line)
    assert f" {sum(last) / len(last):.1f} " in row and f"(mean return of {len(last)} games of version" in row
    assert ("+-" in row and "95 % interval" in row) if len(last) >= 10 else "too few for an interval" in row
    with contextlib.closing(GymnasiumGame("CartPole-v1")) as game:
        again = evaluation.returns_of(game, model, [one.seed for one in games][-len(last) :], greedy=True)
        monkeypatch.setattr(greedy_games, "LAST_SECONDS", PATIENCE_SECONDS)
        greedy_games.follow(
            Paths(root), game, "CartPole-v1", greedy_games.Orders(Channel(io.BytesIO(b'{"event": "last"}\n'), io.BytesIO()))
        )
    assert again == last
    assert len(greedy_games.read(Paths(root))) - len(games) in (greedy_games.LAST_GAMES, greedy_games.LAST_GAMES + 1)


def test_several_instances_play_at_a_time(root: Path) -> None:
    """Two processes share the games; every number is played once and every episode is accounted for."""
    _run(root, "--games", "14", "--instances", "2", "--quiet")

    assert sorted(int(game["number"]) for game in _games(root)) == list(range(1, 15))
    assert len(_trained(root)) == 14


def test_no_training_plays_without_a_trace_in_the_buffer(root: Path) -> None:
    """Without training there is no learner, no episode and no model."""
    printed = _run(root, "--games", "3", "--no-training")

    assert len(_games(root)) == 3
    assert not Paths(root).data.exists() and not Paths(root).model.exists()
    assert "Background parallel learner" not in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--game", "NoSuchGame-v0"], "NoSuchGame-v0"),
        (["--game", "no_such_module:Game-v0"], "no_such_module"),
        (["--games", "0"], "--games"),
        (["--learning_rate", "7"], "learning.learning_rate"),
        (["--instances", "2", "--watch"], "--watch"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(root: Path, arguments: list[str], named: str) -> None:
    """The line names what is wrong; there is no traceback."""
    printed = _run(root, *arguments, "--quiet", exit_code=2)

    assert named in printed and "Traceback" not in printed


@pytest.mark.leaves_partials  # of the episode that was being written; the next learner sweeps it
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C is sent as a POSIX signal here")
@pytest.mark.parametrize("instances", ["1", "2"])
def test_interrupt_ends_the_run_with_a_summary_and_nothing_left_running(root: Path, instances: str) -> None:
    """Ctrl+C goes to the whole group, as a terminal sends it; within seconds all processes are gone."""
    command = [*COMMAND, "--root", str(root), "--instances", instances, "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True) as process:
        wait_until(lambda: _is_playing(root))
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0
    assert "SUMMARY" in printed
    assert family
    wait_until(lambda: not any(_is_alive(child) for child in family))


@pytest.mark.leaves_partials  # of the episode that was being written; the next learner sweeps it
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_game_process_that_is_killed_costs_one_episode(root: Path) -> None:
    """Its game is named as lost, a new process plays the next ones, and every other game is there."""
    command = [*COMMAND, "--root", str(root), "--game", "Acrobot-v1", "--games", "40", "--instances", "2", "--quiet"]
    # Otherwise the processes are killed while they wait for the learner, which costs no game.
    environment = {**os.environ, "LOCAL_TRAINING_GAMES_MAX_EPISODES_AHEAD": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment) as process:
        wait_until(lambda: _is_playing(root))
        assert process.stdout is not None
        said = ""
        while "was lost" not in said:  # a process that is killed between two games costs nothing
            assert process.poll() is None, "it was over before a game could be lost"
            for child in _game_processes(process.pid)[:1]:
                child.kill()
                wait_until(lambda child=child: not _is_alive(child))
            if select.select([process.stdout], [], [], 0.2)[0]:
                said += process.stdout.readline()
        said += process.communicate(timeout=PATIENCE_SECONDS)[0]

    assert process.returncode == 0, said
    lost = re.findall(r"Game (\d+) was lost after \d+ steps: died: killed by SIGKILL", said)
    assert f"{len(lost)}; the last one, game {lost[-1]}: died" in said
    played = [int(game["number"]) for game in _games(root)]
    assert sorted([*played, *map(int, lost)]) == list(range(1, 41))
    assert len(_trained(root)) == len(played)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_killed_run_takes_its_processes_along(root: Path) -> None:
    """When the run is killed outright, worker and games notice and end by themselves, and a new run goes on."""
    command = [*COMMAND, "--root", str(root), "--instances", "2", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: _is_playing(root))
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    wait_until(lambda: not any(_is_alive(child) for child in family))
    _run(root, "--games", "3", "--quiet")

    names = [line["name"] for line in ledger_lines.read_lines(Paths(root).ledger) if line["fate"] == "trained"]
    assert len(names) == len(set(names))


@pytest.mark.leaves_partials  # of the episode that was being written; the next learner sweeps it
def test_second_run_on_one_root_plays_without_a_learner_and_says_so(root: Path) -> None:
    """A learner that is already at work is not disturbed; the second run names its process and only plays."""
    command = [*COMMAND, "--root", str(root), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        try:
            wait_until(lambda: _is_playing(root))
            printed = _run(root, "--games", "2", "--quiet")
        finally:
            first.terminate()

    assert "[WARNING] Failed to start background learner" in printed and f"process {first.pid}" in printed
