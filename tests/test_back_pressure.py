"""A fast game waits for its learner: between games, within a bound, and never for one that is not there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_SECONDS

from background_training import BackgroundParallelLearner, RLAgent
from background_training.learner import background_learner
from background_training.paths import CHECKOUT, Paths
from background_training.records import pause_file, status
from background_training.records.back_pressure import BackPressure, most_waiting, waiting_episodes
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings
from tests import learner_runs

STATS = {**EMPTY_STATS, "governor": "free"}


class _Time:
    """A clock that only its own sleep moves on; `then` runs at each sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


@pytest.fixture
def time_of_game() -> _Time:
    return _Time()


@pytest.fixture
def pressure(paths: Paths, time_of_game: _Time) -> BackPressure:
    for folder in paths.folders:
        folder.mkdir(parents=True, exist_ok=True)
    return BackPressure(paths, most_waiting(1), time_of_game, time_of_game.sleep)


def _deposit(paths: Paths, count: int) -> None:
    for number in range(count):
        (paths.buffer / f"{number}.npz").write_bytes(b"")


def _wait(pressure: BackPressure, longest_seconds: float = 5.0) -> tuple[str, int]:
    """The reason that it names, and how often it announced that it waits."""
    announced: list[int] = []
    return pressure.wait(longest_seconds, lambda: announced.append(1)), len(announced)


def test_games_wait_until_the_learner_has_caught_up(paths: Paths, pressure: BackPressure, time_of_game: _Time) -> None:
    """One waiting episode delays nothing; two do, until one is taken away."""
    status.write(paths, "training", STATS)
    _deposit(paths, 1)
    assert _wait(pressure) == ("", 0) and time_of_game.now == 100.0
    _deposit(paths, 2)
    time_of_game.then = lambda: (paths.buffer / "1.npz").unlink() if time_of_game.now > 101.5 else None
    assert _wait(pressure) == ("", 1)
    assert 101.5 < time_of_game.now < 101.6


def test_a_game_waits_no_longer_than_allowed(paths: Paths, pressure: BackPressure, time_of_game: _Time) -> None:
    """Then it goes on, and the reason is named; 0 switches it off."""
    status.write(paths, "training", {**STATS, "governor": "giving way: other programs use 97 % of the processor"})
    _deposit(paths, 6)
    reason, announced = _wait(pressure)
    assert time_of_game.now == pytest.approx(105.0) and announced == 1
    assert reason == "6 episodes wait: training gives way, as other programs use 97 % of the processor"
    assert _wait(pressure, 0.0) == ("", 0) and time_of_game.now == pytest.approx(105.0)
    status.write(paths, "training", STATS)
    assert _wait(pressure)[0] == "6 episodes wait: the game is faster than the learner"


@pytest.mark.parametrize(
    ("state", "more", "reason"),
    [
        ("", {}, ""),
        ("stopped", {}, ""),
        ("failed", {"last_error": "the disk is gone"}, "4 episodes wait: the learner has stopped (the disk is gone)"),
        ("training", {"settings": {"learner": {"enable_model_training": False}}}, ""),
    ],
)
def test_nothing_is_waited_for_without_a_learner(
    paths: Paths, pressure: BackPressure, time_of_game: _Time, state: str, more: dict[str, Any], reason: str
) -> None:
    """There is none, it has been stopped, it has failed, or it does not train: only the failure is worth a word."""
    if state:
        settings = {"settings": more.pop("settings")} if "settings" in more else {}
        status.write(paths, state, {**STATS, **more}, **settings)
    _deposit(paths, 4)
    assert _wait(pressure) == (reason, 0) and time_of_game.now == 100.0


def test_a_killed_learner_is_not_waited_for(paths: Paths, pressure: BackPressure, time_of_game: _Time) -> None:
    """Its last status claims that it trains, but its process is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    status.write(paths, "training", STATS, writer_pid=gone.pid)
    _deposit(paths, 2)
    assert _wait(pressure) == ("2 episodes wait: the learner has stopped", 0) and time_of_game.now == 100.0


def test_a_pause_is_for_the_learner_and_not_for_the_games(paths: Paths, pressure: BackPressure, time_of_game: _Time) -> None:
    """They play on, and the reason why nothing is learnt is named."""
    status.write(paths, "paused", STATS)
    pause_file.pause(paths)
    _deposit(paths, 3)
    reason, announced = _wait(pressure)
    assert reason.startswith("3 episodes wait: training is paused, as the user has asked for it") and not announced
    assert time_of_game.now == 100.0


def test_only_episodes_count(paths: Paths, pressure: BackPressure) -> None:
    """Neither what is being written nor foreign files; a look stops at the number that is enough."""
    for name in (".half.npz", "notes.txt", "a.npz.bak"):
        (paths.buffer / name).write_bytes(b"")
    assert waiting_episodes(paths) == 0
    _deposit(paths, 5)
    assert waiting_episodes(paths) == 5 and waiting_episodes(paths, 3) == 3
    assert not BackPressure(paths, most_waiting(0)).is_needed() and most_waiting(3, 4) == 12


def test_a_learner_that_starts_is_waited_for(paths: Paths, pressure: BackPressure, time_of_game: _Time) -> None:
    """It has been stopped before, and its process is not ready: the games send a free hint and wait, and the reason is named."""
    status.write(paths, "starting", STATS)
    _deposit(paths, 2)
    hints: list[int] = []
    reason = pressure.wait(5.0, lambda: None, lambda: hints.append(1))
    assert reason == "2 episodes wait: the learner's process has not started yet"
    assert time_of_game.now == pytest.approx(105.0) and hints


def _game(agent: RLAgent, number: int) -> None:
    for step in range(3):
        agent.get_action([float(number), float(step)])
        agent.update_reward(1.0)
    agent.end_episode()


def test_the_agent_names_a_learner_that_does_not_keep_up_once_a_minute(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """One line that announces the waiting, one with the reason, and no more for the games of that minute."""
    for folder in paths.folders:
        folder.mkdir(parents=True, exist_ok=True)
    status.write(paths, "training", {**STATS, "governor": "paused: the battery is at 9 %"})
    agent = RLAgent(root=paths.root, action_names=["a", "b"], max_wait_seconds=0.05)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            _game(agent, number)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert lines[0].startswith("the game is faster than the learner, so end_episode waits for it, for up to 0.05 s a game")
    assert lines[1] == "2 episodes wait: training is paused, as the battery is at 9 %"


@pytest.mark.parametrize(
    ("given", "warned"), [({}, []), ({"gamma": 0.9}, ["gamma"]), ({"learning_rate": 0.3, "gamma": 0.995}, ["learning_rate"])]
)
def test_settings_that_do_nothing_for_the_learner_are_named(
    paths: Paths, caplog: pytest.LogCaptureFixture, given: dict[str, float], warned: list[str]
) -> None:
    """RLAgent's own step size and discount; equal ones are no reason for a line."""
    RLAgent(root=paths.root, action_names=["a", "b"], **given)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition("=")[0] for line in lines] == [f"RLAgent({name}" for name in warned]
    assert all("LOCAL_TRAINING_LEARNING_" in line and "the background learner uses" in line for line in lines)


def test_the_running_learners_settings_count(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """It may have been started with a file of its own: equal values are no reason for a line, others are."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    status.write(paths, "idle", STATS, settings={"learning": {"learning_rate": 0.3, "gamma": 0.5}})
    RLAgent(root=paths.root, action_names=["a", "b"], learning_rate=0.3)
    assert not caplog.records
    RLAgent(root=paths.root, action_names=["a", "b"], gamma=0.995)
    assert "the background learner uses 0.5" in caplog.text


SLOW_START = """
import runpy, time
time.sleep(3)
runpy.run_module("background_training.learner.worker", run_name="__main__")
"""


@pytest.fixture
def _slow_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's worker needs three seconds until it can take the first episode."""
    real = subprocess.Popen

    def slow(command: list[str], *rest: Any, **options: Any) -> Any:
        if command[1:3] == ["-m", "background_training.learner.worker"]:
            command = [command[0], "-c", SLOW_START]
        return real(command, *rest, **options)

    monkeypatch.setattr(subprocess, "Popen", slow)


@pytest.mark.slow
@pytest.mark.usefixtures("_slow_worker")
def test_a_short_run_learns_although_its_worker_starts_slowly(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """200 games of a millisecond each, and a worker that needs three seconds until it can take the first episode."""
    base = learner_runs.settings(paths.root, batch_size=16)
    versions = []
    with BackgroundParallelLearner(settings=base):
        agent = RLAgent(root=paths.root, action_names=["a", "b"])
        for number in range(200):
            _game(agent, number)
            versions.append(agent.model_version)
    assert "Waiting for the learner's process to start" in capsys.readouterr().out
    assert versions[9] >= 1 and versions[-1] > 20, "it learns from the first games on"
    assert waiting_episodes(paths) == 0, "the block trains on the last games before it ends"


@pytest.mark.slow
@pytest.mark.usefixtures("_slow_worker")
def test_games_wait_for_a_worker_that_was_not_ready_in_time(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`start` gives up, where an earlier learner left the status "stopped": the games wait instead, and still learn."""
    monkeypatch.setattr(background_learner, "START_SECONDS", 0.2)
    status.write(paths, "stopped", STATS)
    with BackgroundParallelLearner(settings=learner_runs.settings(paths.root)):
        agent = RLAgent(root=paths.root, action_names=["a", "b"], max_wait_seconds=60)
        for number in range(6):
            _game(agent, number)
        assert agent.refresh() or agent.model_version >= 1
    assert "end_episode waits for it" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["_wait_for_worker", "drain"])
def test_ctrl_c_while_it_starts_or_ends_leaves_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The learner is stopped all the same, and its root is free for the next one."""

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    learner = BackgroundParallelLearner(settings=learner_runs.settings(paths.root))
    with monkeypatch.context() as patched:
        patched.setattr(learner, moment, interrupted)
        with pytest.raises(KeyboardInterrupt), learner:
            pass
    assert not learner.running
    assert learner.start() is True
    learner.stop()


@pytest.mark.slow
def test_a_plain_stop_names_what_is_left(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that trains on it; after an exception a with block does the same instead of training on."""
    base: Settings = learner_runs.settings(paths.root, verbose=True).with_values("test", games={"max_episodes_ahead": 0})
    agent = RLAgent(root=paths.root, action_names=["a", "b"], max_wait_seconds=0)
    pause_file.pause(paths)
    with pytest.raises(ZeroDivisionError), BackgroundParallelLearner(settings=base):
        for number in range(4):
            _game(agent, number)
        raise ZeroDivisionError
    assert "[INFO] Episodes still waiting: 4; to train on them: " in capsys.readouterr().out
    learner = BackgroundParallelLearner(settings=base)
    learner.start()
    learner.stop(drain=True)
    assert "[INFO] Episodes still waiting: 4" in capsys.readouterr().out, "a paused learner is not waited for"
    pause_file.resume(paths)
    learner.start()
    learner.stop(drain=True)
    assert "still waiting" not in capsys.readouterr().out and waiting_episodes(paths) == 0


WITHOUT = """
import sys
from importlib.machinery import PathFinder
find, blocked = PathFinder.find_spec, ("yaml", "filelock", "psutil", "watchdog")
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in blocked else find(name, path, target)
)
from background_training import RLAgent
agent = RLAgent(root="root", action_names=["a", "b"])
for step in range(3):
    agent.get_action([0.5, 1.0])
    agent.update_reward(1.0)
agent.frame(0.01)
assert agent.end_episode()["saved"], "the episode is in the buffer"
assert agent.save_model("model.npz"), "a file of its own needs no lock"
agent.train_from_batch([{"states": [[0.5, 1.0]], "actions": [0], "rewards": [1.0]}])
assert not agent.save_model(), "the root's model needs the lock, and so filelock: an error is logged, and the bot plays on"
assert not set(blocked) & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_an_agent_plays_with_numpy_alone(tmp_path: Path) -> None:
    """A ladder machine has no PyYAML, filelock, psutil or watchdog: it plays, records and saves all the same."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCAL_TRAINING")}
    environment["PYTHONPATH"] = str(CHECKOUT / "src")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "root" / "data" / "buffer").glob("*.npz"))) == 1
