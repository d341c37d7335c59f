"""The learner tells of a bot's mistakes while it trains: once, in the log, in the status, and no more once they are mended."""

from __future__ import annotations

import json
from pathlib import Path

import learner_runs
import numpy as np

from background_training.episodes import episode
from background_training.learner.data_warnings import LONGEST_GAME_STEPS, NEWEST_GAMES, DataWarnings
from background_training.paths import Paths


def _games(count: int, *, rewarded: bool, steps: int = 40, first: int = 0) -> list[episode.Episode]:
    games = []
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        states, actions = rng.normal(size=(steps, 2)).astype(np.float32), rng.integers(0, 2, steps)
        rewards = (actions == (states[:, 0] > 0)).astype(np.float32) * rewarded
        games.append(episode.from_arrays({"states": states, "actions": actions, "rewards": rewards, "meta": {"action_count": 2}}))
    return games


def _deposit(root: Path, games: list[episode.Episode]) -> None:
    buffer = Paths(root).buffer
    buffer.mkdir(parents=True, exist_ok=True)
    for number, game in enumerate(games):
        np.savez(buffer / f"game_{number:03d}.npz", states=game.states, actions=game.actions, rewards=game.rewards)


def test_a_bot_without_rewards_is_told(tmp_path: Path):
    """Printed by the command, written into the log once, and in the status."""
    _deposit(tmp_path, _games(12, rewarded=False))

    run = learner_runs.command(tmp_path, "--drain", "--batch-size", "2")

    assert run.returncode == 0, run.stderr
    assert run.stdout.count("[WARNING] Every reward of the last") == 1
    log = Paths(tmp_path).training_log.read_text("utf-8")
    assert log.count("Warning: Every reward of the last") == 1
    assert "update_reward" in json.loads(Paths(tmp_path).status.read_text("utf-8"))["stats"]["traps"]


def test_sound_games_are_not_warned_of(tmp_path: Path):
    """Nothing is printed, nothing is written."""
    _deposit(tmp_path, _games(12, rewarded=True))

    assert learner_runs.drain(tmp_path)["traps"] == ""
    assert "Warning" not in Paths(tmp_path).training_log.read_text("utf-8")


def test_a_mended_bot_is_not_warned_of_any_longer(tmp_path: Path):
    """The text of the status goes once the newest games are sound."""
    watch = DataWarnings(Paths(tmp_path), 1_000_000)
    assert watch.after(_games(NEWEST_GAMES, rewarded=False), 2) and watch.text()

    assert watch.after(_games(NEWEST_GAMES, rewarded=True, first=100), 2) == []
    assert watch.text() == ""


def test_looks_become_seldom_and_long_games_are_not_kept(tmp_path: Path):
    """Some ten looks in a thousand batches; a game of an hour does not stay in memory."""
    watch = DataWarnings(Paths(tmp_path), 1_000_000)
    looks, present = 0, None
    for number in range(1000):
        watch.after(_games(3, rewarded=False, first=3 * number), 2)
        looks, present = looks + (watch._present is not present), watch._present
    assert 8 <= looks <= 14

    long = DataWarnings(Paths(tmp_path), 1_000_000)
    assert long.after(_games(3, rewarded=False, steps=LONGEST_GAME_STEPS + 1), 2) == []
