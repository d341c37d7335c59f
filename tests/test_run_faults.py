"""A game that raises costs its own episode, in this process as in one of several; one that keeps raising ends its run."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from background_training.commands import run
from background_training.paths import Paths

pytest.importorskip("gymnasium", reason="the games extra is not installed")

import failing_games  # noqa: F401  # registers the games

from background_training.episodes import episode_file
from background_training.runs import learning_curve, parallel_runner

pytestmark = pytest.mark.slow  # real processes

GAME = "failing_games:Fails-v0"


class _Runs:
    """Runs in this process, of a game that fails as asked; without a learner, which has no part in this."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths = Paths(root / "r")
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._count = root / "count"
        monkeypatch.setenv("FAILS_COUNT", str(self._count))
        monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
        monkeypatch.setattr(run, "_started_learner", lambda *_: None)
        monkeypatch.setattr(learning_curve, "draw", lambda *_: None)

    def fails(self, kind: str, where: str = "step", at: str = "1") -> None:
        """From now on; games are counted from 1 again."""
        self._count.unlink(missing_ok=True)
        for key, value in (("FAILS", kind), ("FAILS_IN", where), ("FAILS_AT", at)):
            self._monkeypatch.setenv(key, value)

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        code = run.main(["--root", str(self.paths.root), "--game", GAME, "--quiet", *arguments])
        captured = self._capsys.readouterr()
        assert code == exit_code, captured
        assert "Traceback (most" not in captured.err
        return captured.out + captured.err

    def played(self) -> list[int]:
        with open(self.paths.games_log, newline="", encoding="utf-8") as file:
            return sorted(int(row["number"]) for row in csv.DictReader(file))

    def episodes(self) -> list[episode_file.Episode]:
        return [episode_file.read(path.read_bytes()) for path in self.paths.buffer.glob("*.npz")]

    def log(self) -> str:
        return self.paths.lost_games_log.read_text("utf-8")


@pytest.fixture
def runs(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[_Runs]:
    before = signal.getsignal(signal.SIGTERM)
    yield _Runs(root, monkeypatch, capsys)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("kind", "where", "instances", "words"),
    [
        ("runtime", "step", "1", "RuntimeError: server closed the connection"),
        ("runtime", "reset", "1", "RuntimeError: server closed the connection"),
        ("runtime", "step", "2", "RuntimeError: server closed the connection"),
        ("runtime", "reset", "2", "RuntimeError: server closed the connection"),
        ("chained", "step", "1", "ConnectionError: no answer in two lines"),
        ("exit", "step", "1", "SystemExit: 3"),
        ("exit", "reset", "2", "SystemExit: 3"),
        ("memory", "reset", "1", "MemoryError"),
        ("wordless", "step", "1", "_WordlessError: <exception str() failed>"),
        ("wordless", "step", "2", "_WordlessError: <exception str() failed>"),
    ],
)
def test_one_exception_costs_one_game(runs: _Runs, kind: str, where: str, instances: str, words: str) -> None:
    """Whatever it is and wherever it comes from: the game is named, its traceback is in the log, all others are played."""
    runs.fails(kind, where, at="3")

    printed = runs.run("--games", "6", "--instances", instances)

    lost = set(range(1, 7)) - set(runs.played())
    assert len(lost) == 1 and len(runs.played()) == len(runs.episodes()) == 5
    steps = 2 if where == "step" else 0
    assert f"[WARNING] Game {lost.pop()} was lost after {steps} steps: " in printed
    assert words in printed and "failing_games.py:" in printed and "The game is made again" in printed
    assert "Games lost:                1; the last one, game" in printed and str(runs.paths.lost_games_log) in printed
    assert "Traceback (most recent call last)" in runs.log() and f"in {where}\n" in runs.log()
    assert all(episode.steps == 8 for episode in runs.episodes())  # none of the lost game's steps is in the next one


@pytest.mark.parametrize(("kind", "instances"), [("two rewards", "1"), ("two rewards", "2"), ("no number", "1")])
def test_a_reward_that_is_no_number_costs_the_game(runs: _Runs, kind: str, instances: str) -> None:
    """As any other error of the game does."""
    runs.fails(kind, at="2")

    printed = runs.run("--games", "4", "--instances", instances)

    assert "EpisodeError: the reward " in printed and len(runs.played()) == 3


@pytest.mark.parametrize("instances", ["1", "2"])
def test_a_reward_in_an_array_is_a_number(runs: _Runs, instances: str) -> None:
    """Of shape (1,), as many games hand it out."""
    runs.fails("array reward", at="1-99")

    runs.run("--games", "3", "--instances", instances)

    assert len(runs.played()) == 3 and all(2.5 in episode.rewards for episode in runs.episodes())


@pytest.mark.parametrize(("where", "instances"), [("step", "1"), ("reset", "1"), ("step", "2")])
def test_the_same_exception_five_games_in_a_row_ends_the_run(runs: _Runs, where: str, instances: str) -> None:
    """With exit code 1, behind a summary; once it is mended, --resume plays those five and the rest."""
    runs.fails("runtime", where, at="4-999")

    printed = runs.run("--games", "20", "--instances", instances, exit_code=1)

    lost = printed.count("was lost after")
    assert lost in (5, 6)  # of two games at a time, the first failing one may be over before the other, which breaks the row
    assert len(runs.played()) == 3 and runs.log().count("Traceback (most") == lost
    assert f"Not played yet:            {20 - 3 - (lost - 5)} games" in printed
    assert "[ERROR] 5 games in a row were lost, so the run has ended. The last one: RuntimeError: server closed" in printed
    assert f'continue with: python run_with_training.py --root "{runs.paths.root}" --resume' in printed
    runs.fails("")
    assert "SUMMARY" in runs.run("--resume")
    assert len(set(runs.played())) == len(runs.played()) == 20 - (lost - 5)


@pytest.mark.parametrize(("kind", "reason"), [("hang", "hung: it was silent for 1 s"), ("die", "died: exit code 7")])
def test_a_process_that_hangs_or_dies_costs_one_game(
    runs: _Runs, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    """It is replaced, and all other games are played."""
    monkeypatch.setattr(parallel_runner, "HANG_SECONDS", 1.0)
    runs.fails(kind, at="3")

    printed = runs.run("--games", "6", "--instances", "2")

    assert printed.count("was lost after") == 1 and f"{reason}. Its process is replaced" in printed
    assert len(runs.played()) == len(runs.episodes()) == 5


def test_processes_that_keep_dying_end_the_run(runs: _Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instance is given up when its restarts are spent; the last one ends the run behind its summary."""
    monkeypatch.setattr(parallel_runner, "RESTARTS", 0)
    runs.fails("die", at="1-99")

    printed = runs.run("--games", "20", "--instances", "2", exit_code=1)

    assert "SUMMARY" in printed and printed.count("died: exit code 7. Its process is replaced") == 2
    assert "[ERROR] the processes of all instances of failing_games:Fails-v0 failed more than 0 times" in printed


def test_a_game_played_in_between_breaks_the_row(runs: _Runs) -> None:
    """Four and four are not five; nor are five for two different reasons."""
    runs.fails("runtime", at="1-4")
    runs.run("--games", "6")
    runs.run("--games", "5")
    runs.fails("runtime", at="1-4")
    runs.run("--games", "5")
    runs.fails("two places", at="1-9")
    runs.run("--games", "11")

    assert len(runs.played()) == 2 + 5 + 1 + 2


def test_no_game_but_lost_ones_is_no_success(runs: _Runs) -> None:
    """Too few for a row, or for reasons that change: there was nothing to learn from, and the exit code says so."""
    runs.fails("runtime", at="1-99")
    assert "[ERROR] the only game was lost" in runs.run("--games", "1", exit_code=1)
    assert "[ERROR] 3 games in a row" in runs.run("--games", "3", exit_code=1)
    runs.fails("two places", at="1-99")
    assert "[ERROR] 25 games in a row" in runs.run("--games", "90", exit_code=1)
    assert json.loads(runs.paths.run_state.read_bytes())["lost"] == 0


@pytest.mark.parametrize("kind", ["interrupt", "hidden interrupt"])
def test_ctrl_c_in_a_game_ends_the_run_with_its_summary(runs: _Runs, kind: str) -> None:
    """Also where a library turns it into another error."""
    runs.fails(kind, at="3")

    printed = runs.run("--games", "9")

    assert "Not played yet:            7 games" in printed and "was lost" not in printed


def test_a_window_that_is_closed_ends_the_run(runs: _Runs) -> None:
    """Games call sys.exit() then; who has closed it wants no other one."""
    runs.fails("exit", at="3")

    assert "Not played yet:            7 games" in runs.run("--games", "9", "--watch")


@pytest.mark.parametrize(
    ("game", "instances", "words"),
    [
        ("NoSuchGame-v0", "1", "NoSuchGame"),
        ("no_such_module:Game-v0", "1", "no_such_module"),
        ("no_such_module:Game-v0", "2", "no_such_module"),
        (":Game-v0", "1", "Empty module name"),
        ("Fails-v9", "1", "Fails-v9"),
        (GAME, "1", "RuntimeError: server closed the connection, raised in"),
        (GAME, "2", "RuntimeError: server closed the connection, raised in"),
    ],
)
def test_a_game_that_can_not_be_made_leaves_nothing_behind(runs: _Runs, game: str, instances: str, words: str) -> None:
    """No folder, no learner; one line with what is wrong."""
    runs.fails("runtime", "constructor")

    printed = runs.run("--game", game, "--instances", instances, exit_code=2)

    assert words in printed and printed.count("\n") == 1
    assert not runs.paths.root.exists()


@pytest.mark.parametrize("kind", ["exit", "memory", "wordless", "chained"])
def test_whatever_a_constructor_raises_is_named(runs: _Runs, kind: str) -> None:
    """A game that calls sys.exit() while it is made, too."""
    runs.fails(kind, "constructor")

    assert "a game that can be made is needed (" in runs.run("--games", "2", exit_code=2)
    assert not runs.paths.root.exists()
