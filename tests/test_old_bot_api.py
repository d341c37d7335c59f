"""Bot code written against the guides runs unchanged: their calls, their names, their return values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS

from background_training.episodes import episode_file
from background_training.paths import CHECKOUT, Paths
from background_training.spaces import Discrete

OLD_BOT = """
import json
import os
import sys
import time

import numpy as np

with open(os.environ["EXECUTIONS"], "a") as file:
    file.write(__name__ + "\\n")

from local_training.rl_agent import RLAgent
from tools.background_parallel_learner import BackgroundParallelLearner

base = os.environ["LOCAL_TRAINING_ROOT"]
model_path = os.path.join(base, "models", "rl_agent_model.npz")
said = {}

learner = BackgroundParallelLearner(
    max_workers=1, enable_replay_analysis=False, enable_model_training=True, verbose=True, max_file_age=7200
)
said["started"] = learner.start()
said["running"] = learner.running

agent = RLAgent(learning_rate=0.001, gamma=0.99, model_path=model_path)
actions, ended = [], []
for game in range(5):
    for step in range(20):
        state = [50 + step, 0, 12, 3, 1, 0, 0.5, 4, 2, 1, 0, 0, game, step / 20, 1.0]
        action = agent.get_action(state)
        actions.append([type(action[0]).__name__, action[1], type(action[2]).__name__])
        agent.update_reward(0.1)
        agent.update_reward(-0.05)
    if game == 0:
        said["saved_experience"] = agent.save_experience_data(os.path.join(base, "a game.npz"))
    ended.append(agent.end_episode(final_reward=1.0 if game % 2 else -1.0))

deadline = time.time() + 280
while learner.get_stats()["files_processed"] < 5 and time.time() < deadline:
    time.sleep(0.02)
said["stats"] = learner.get_stats()
said["dirs"] = [str(learner.data_dir), str(learner.archive_dir), str(learner.model_path), str(learner.log_dir)]
learner.stop()
said["running_after_stop"] = learner.running

experiences = [
    {
        "states": np.random.rand(30, 15).astype(np.float32),
        "actions": np.random.randint(0, 5, 30),
        "rewards": np.random.rand(30).astype(np.float32),
    }
    for _ in range(3)
]
said["trained"] = agent.train_from_batch(experiences)
said["saved_model"] = agent.save_model()
said["actions"], said["ended"] = actions, ended
print("SAID " + json.dumps(said))
"""


def _play(root: Path, folder: Path) -> tuple[dict, list[str], str]:
    """Run the bot; what it said, how often its main module was executed, and its console."""
    folder.mkdir()
    bot, executions = folder / "my old bot.py", folder / "executions.txt"
    bot.write_text(OLD_BOT, "utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONIOENCODING": "utf-8",
        "LOCAL_TRAINING_ROOT": str(root),
        "EXECUTIONS": str(executions),
    }
    done = subprocess.run(
        [sys.executable, str(bot)], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("SAID "))
    return json.loads(said[5:]), executions.read_text().split(), done.stdout


@pytest.mark.slow
def test_old_bot_runs_unchanged(root: Path, tmp_path: Path) -> None:
    """Every call of the guides answers as they say, in a script without a guard, which is executed exactly once."""
    said, executions, _ = _play(root, tmp_path / "bot")
    paths = Paths(root)

    assert executions == ["__main__"]
    assert said["started"] is True and said["running"] is True and said["running_after_stop"] is False
    labels = {"ECONOMY", "AGGRESSIVE", "DEFENSIVE", "TECH", "ALL_IN"}
    assert len(said["actions"]) == 100
    assert all(kinds[0] == "int" and kinds[1] in labels and kinds[2] == "float" for kinds in said["actions"])
    assert len({kinds[1] for kinds in said["actions"]}) > 1
    for number, stats in enumerate(said["ended"]):
        assert {"loss", "avg_reward", "epsilon", "steps"} <= set(stats)
        assert stats["steps"] == 20
        assert np.isclose(stats["avg_reward"], (20 * 0.05 + (1.0 if number % 2 else -1.0)) / 20)
    assert said["saved_experience"] is True
    assert said["trained"]["games"] == 3 and said["trained"]["steps"] == 90
    assert np.isfinite(said["trained"]["loss"]) and said["trained"]["adjusted_lr"] == 0.001
    assert said["saved_model"] is True
    assert said["stats"]["files_processed"] == 5 and said["stats"]["max_workers"] == 1
    assert said["dirs"] == [str(paths.buffer), str(paths.archive), str(paths.model), str(paths.logs)]
    assert len(list(paths.archive.glob("*.npz"))) == 5


@pytest.mark.slow
def test_old_bots_saved_experience_is_an_episode(root: Path, tmp_path: Path) -> None:
    """What save_experience_data wrote in the bot's process is read back here with the rewards where they belong."""
    _play(root, tmp_path / "bot")

    episode = episode_file.read((root / "a game.npz").read_bytes())

    assert episode.states.shape == (20, 15)
    assert episode.steps == 20 and episode.action_space == Discrete(5)
    np.testing.assert_allclose(episode.rewards, 0.05, rtol=1e-5)
