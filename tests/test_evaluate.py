"""tools/evaluate.py: the same games for every model, and an interval that says how much to believe."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from local_training.paths import Paths
from local_training.rl_agent import RLAgent
from tests.commands import run_tool
from tools import evaluate

pytest.importorskip("gymnasium", reason="the games extra is not installed")


def test_equal_seeds_give_equal_games(root: Path) -> None:
    """Two evaluations of one model agree to the last game; nothing is recorded."""
    agent = RLAgent(root=root, action_names=["left", "right"], state_width=4, seed=1)
    assert agent.save_model()

    first, second = (json.loads(run_tool("evaluate.py", root, "--episodes", "5", "--json")) for _ in range(2))

    assert first == second and len(first["returns"]) == 5
    assert not list(Paths(root).data.glob("buffer/*"))


def test_interval_is_that_of_the_mean() -> None:
    """Half the width of the 95 % interval, against the textbook's formula; one game has none."""
    returns = [10.0, 20.0, 30.0, 40.0]

    mean, half_width = evaluate.confidence(returns)

    assert mean == 25.0
    assert half_width == pytest.approx(1.96 * statistics.stdev(returns) / math.sqrt(4))
    assert evaluate.confidence([7.0]) == (7.0, None)


def test_missing_model_is_named(root: Path) -> None:
    """Without a model there is nothing to evaluate, and the message says where it was looked for."""
    printed = run_tool("evaluate.py", root, exit_code=1)

    assert "rl_agent_model.npz" in printed and "Traceback" not in printed


def test_model_of_another_game_is_refused(root: Path) -> None:
    """An evaluation that played with an untrained policy instead would lie."""
    agent = RLAgent(root=root, action_names=["left", "right"], state_width=4, seed=1)
    assert agent.save_model()

    printed = run_tool("evaluate.py", root, "--game", "Acrobot-v1", exit_code=1)

    assert "this game" in printed
