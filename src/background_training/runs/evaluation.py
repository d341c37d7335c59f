"""How good a model is: games with given seeds, always played by the same version, and nothing recorded of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from background_training.algo import intervals, policy
from background_training.errors import ModelError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GymnasiumGame
from background_training.storage import atomic_files
from background_training.storage.model_store import POLICY_KEYS, Model

logger = logging.getLogger(__name__)

SCHEMA = 1
FIRST_SEED = 2**31
"""Seeds from here on are never trained on: those that PlayOrder gives to games lie below."""


def check_fits(model: Model, file: str, game: GymnasiumGame, name: str) -> None:
    """Refuse a model that was trained for another game.

    Raises:
        ModelError: it takes states of another width, or chooses among other actions.
    """
    if (model.state_width, model.actions) != (game.state_width, game.actions):
        found = f"it takes states of {model.state_width} numbers and chooses {model.actions.words}"
        needed = f"{name} has states of {game.state_width} and {game.actions.words}"
        raise ModelError(file, found, f"{needed}. Nothing was played; name the game it was trained for with --game")


def returns_of(game: GymnasiumGame, model: Model, seeds: Iterable[int], *, greedy: bool) -> list[float]:
    """Play a game for each seed, and give their returns.

    Greedy takes the likeliest action. Sampled draws them as a bot does while it learns, from a generator that the
    game's seed starts: so two models that are compared meet the same luck for as long as they play alike.
    """
    network = policy.Network(*(model.arrays[key] for key in POLICY_KEYS))
    returns = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        state, total, over = game.reset(seed), 0.0, False
        while not over:
            choice = policy.choose(network, state, None, rng, greedy, model.actions)
            state, reward, terminated, truncated = game.step(choice.action)
            total += reward
            over = terminated or truncated
        returns.append(total)
    return returns


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, half the width of its 95 % interval (null for a single game), and extremes."""
    mean = intervals.mean_of(np.asarray(returns, np.float64))
    half_width = (mean.high - mean.low) / 2 if mean.games > 1 else None
    return {"mean_return": mean.value, "half_width_95": half_width, "lowest": min(returns), "highest": max(returns)}


def remember(paths: Paths, facts: Mapping[str, Any]) -> None:
    """Append a line to logs/evaluations.jsonl. A record that can't be written is a pity, but no reason to fail."""
    line = json.dumps({"schema": SCHEMA, "at": round(time.time(), 3), **facts}) + "\n"
    try:
        paths.logs.mkdir(parents=True, exist_ok=True)
        atomic_files.append_whole(paths.evaluations_log, line.encode(), durable=False)
    except OSError as error:
        logger.warning("%s not written: %s", paths.evaluations_log, error)
