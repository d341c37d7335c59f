"""A run that is killed is resumed: every game is played once, with its own seed, and no finished game is lost."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.errors import RunStateError, SettingsError
from background_training.paths import CHECKOUT, Paths
from background_training.records import ledger_lines
from background_training.storage import atomic_files
from tests.commands import run_tool

pytest.importorskip("gymnasium", reason="the games extra is not installed")

from background_training.runs import run_state
from background_training.runs.gymnasium_game import GameResult
from background_training.runs.run_log import GameLog, RunLog
from background_training.runs.run_state import PlayedNumbers, RunSpec, RunState, RunStateFile

pytestmark = pytest.mark.slow  # real processes

COMMAND = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--quiet", "--root"]
CARTPOLE = ("--game", "CartPole-v1")


def _run(root: Path, *arguments: str, exit_code: int = 0) -> str:
    done = subprocess.run(
        [*COMMAND, str(root), *arguments], capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE_SECONDS
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _killed(root: Path, *arguments: str, after_games: int) -> int:
    """Kill a run outright after so many games; the games that are in its log."""
    log, all_games = Paths(root).games_log, int(arguments[arguments.index("--games") + 1])
    while True:
        with subprocess.Popen([*COMMAND, str(root), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") > after_games)
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        wait_until(lambda family=family: not any(_is_alive(child) for child in family))  # type: ignore[misc]
        if len(_games(root)) < all_games:
            return len(_games(root))
        shutil.rmtree(root)  # it ended before it was killed, and there is nothing to resume
        root.mkdir()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _games(root: Path) -> list[dict[str, str]]:
    with open(Paths(root).games_log, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _trained_ids(root: Path) -> Counter[str]:
    return Counter(line["episode_id"] for line in ledger_lines.read_lines(Paths(root).ledger) if line["fate"] == "trained")


@pytest.mark.leaves_partials  # of the episode that was being written; the next learner sweeps it
@pytest.mark.parametrize("instances", ["1", "3"])
def test_killed_run_is_resumed_and_plays_each_game_once(root: Path, instances: str) -> None:
    """The flags are remembered; in the end every number is there once, with its seed, and was trained on once."""
    before = _killed(root, *CARTPOLE, "--games", "30", "--seed", "3", "--instances", instances, after_games=8)
    printed = _run(root, "--resume")

    games = _games(root)
    spec = RunSpec("CartPole-v1", 3, 30, 1, True)
    assert f"Continuing after {before} of 30 games" in printed
    assert sorted(int(game["number"]) for game in games) == list(range(1, 31))
    assert all(int(game["seed"]) == spec.game_seed(int(game["number"])) for game in games)
    run_tool("background_parallel_learner.py", root, "--drain")  # on a slow machine the run does not wait for all
    trained = _trained_ids(root)
    assert len(trained) == 30 and set(trained.values()) == {1}
    # Killed between an episode's file and its line, a game is played again, and its second episode is recognised.
    again = [line for line in ledger_lines.read_lines(Paths(root).ledger) if line["fate"] == "duplicate"]
    assert len(again) <= int(instances)
    assert not Paths(root).run_state.exists()


@pytest.mark.leaves_partials
def test_resumed_games_are_those_of_an_undisturbed_run(root: Path, tmp_path: Path) -> None:
    """Where no model changes meanwhile, a killed run of two instances, resumed with one, logs the same games as a run of one."""
    game = ("--game", "Acrobot-v1", "--games", "8", "--no-training", "--seed", "5")
    _run(tmp_path / "undisturbed", *game)
    _killed(root, *game, "--instances", "2", after_games=2)
    _run(root, "--resume", "--instances", "1")

    def by_number(folder: Path) -> list[dict[str, str]]:
        return sorted(_games(folder), key=lambda game: int(game["number"]))

    assert by_number(root) == by_number(tmp_path / "undisturbed")


@pytest.mark.leaves_partials
def test_without_resume_an_interrupted_run_is_named_and_left(root: Path) -> None:
    """The line says how much was played and how to resume; flags that would make another run of it are refused."""
    before = _killed(root, *CARTPOLE, "--games", "500", "--no-training", after_games=2)

    refused = _run(root, "--resume", "--seed", "9", exit_code=2)
    unknown = _run(root, "--game", "NoSuchGame-v0", "--no-training", exit_code=2)
    fresh = _run(root, *CARTPOLE, "--games", "2", "--no-training")

    assert "seed is 9; the interrupted run was started with 0" in refused
    assert "NoSuchGame-v0" in unknown
    assert f"[INFO] A run was interrupted here after {before} of 500 games; --resume would have continued it" in fresh
    assert len(_games(root)) == before + 2


def test_resume_starts_a_run_where_none_was_interrupted(paths: Paths) -> None:
    """So one command line does for a service that is started again and again; but not beside a run at work."""
    spec = RunSpec("CartPole-v1", 0, 100, 1, True)
    with RunStateFile(paths) as state_file, RunStateFile(paths) as second:
        log = GameLog(paths, is_mine=True)
        state, sentence = run_state.choose(state_file, log.earlier_numbers, spec, {}, resume=True)

        assert state.spec is spec and "No run was interrupted in this root: a new one starts" in sentence
        assert run_state.choose(state_file, log.earlier_numbers, spec, {}, resume=False)[1] == ""
        with pytest.raises(SettingsError, match="a run that is not at work is needed"):
            run_state.choose(second, log.earlier_numbers, spec, {}, resume=True)


def _result(number: int) -> GameResult:
    return GameResult(number, number, 1.0, 10, True, 0, True)


def _run_log(paths: Paths, state_file: RunStateFile, state: RunState, save_freq: int) -> RunLog:
    log = RunLog(state_file, GameLog(paths, is_mine=state_file.is_mine), state, save_freq)
    next(log.numbers(), None)
    return log


def test_state_is_saved_every_few_games_and_at_a_loss_of_one(paths: Paths) -> None:
    """`training.save_freq` bounds what a power cut may take; the log has every game at once all the same."""
    state = RunState.new(RunSpec("g", 1, 100, 2, True, first_number=5))
    with RunStateFile(paths) as state_file:
        log = _run_log(paths, state_file, state, save_freq=3)
        saved = []
        for number in (6, 5, 7, 9):
            log.add(_result(number))
            found = state_file.interrupted()
            assert found is not None
            saved.append(len(found.played))

    assert saved == [0, 0, 3, 3]
    assert [row[0] for row in GameLog(paths, is_mine=True).earlier_rows] == [6, 5, 7, 9]


def test_line_torn_by_a_power_cut_is_cut_off(paths: Paths) -> None:
    """Its game counts as not played, and the next line stands on a line of its own."""
    log = GameLog(paths, is_mine=True)
    for number in (1, 2):
        log.add(_result(number))
    whole = paths.games_log.read_bytes()
    paths.games_log.write_bytes(whole + b"3,3,1.0,10,True,1")

    log = GameLog(paths, is_mine=True)
    assert [row[0] for row in log.earlier_rows] == [1, 2]
    log.add(_result(3))
    assert paths.games_log.read_bytes().startswith(whole)
    assert [row[0] for row in GameLog(paths, is_mine=True).earlier_rows] == [1, 2, 3]


def test_only_one_run_of_a_root_is_kept(paths: Paths) -> None:
    """A second one at the same time neither takes its state for an interrupted one nor writes over it."""
    with RunStateFile(paths) as first, RunStateFile(paths) as second:
        first.save(RunState.new(RunSpec("first", 0, 10, 1, True)))
        second.save(RunState.new(RunSpec("second", 0, 10, 1, True)))
        second.delete()

        kept = first.interrupted()
        assert kept is not None and kept.spec.game == "first"
        assert second.interrupted() is None and not second.is_mine


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff\xfe", b'{"format": 2}', b"[" * 100_000])
def test_strange_state_is_named(paths: Paths, content: bytes) -> None:
    """One error with the file's name, whatever lies there."""
    atomic_files.write_atomically(paths.run_state, content, durable=False)
    with RunStateFile(paths) as state_file, pytest.raises(RunStateError, match=r"run\.json"):
        state_file.interrupted()


def test_played_numbers_stay_small_and_know_what_remains() -> None:
    """However they come, they are one bound and the few beyond it; what is left is in order and without a gap."""
    played = PlayedNumbers(10)
    for number in (11, 10, 14, 12, 14):
        played.add(number)

    assert json.loads(json.dumps(played.as_json())) == {"below": 13, "beyond": [14]}
    assert len(played) == 4
    assert list(played.remaining(8)) == [13, 15, 16, 17]


def test_a_run_is_resumed_with_more_games_but_not_with_another_seed() -> None:
    """What changes no game may change."""
    spec = RunSpec("CartPole-v1", 3, 100, 2, True)
    more = spec.resumed({"games": 200, "instances": 4, "seed": 3, "game": None})

    assert (more.games, more.instances, more.run_id) == (200, 4, spec.run_id)
    with pytest.raises(SettingsError, match="started with True"):
        spec.resumed({"training": False})
