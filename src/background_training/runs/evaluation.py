"""Evaluates a model: games with given seeds, all played by the same version and not recorded."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from background_training.algo import intervals, policy
from background_training.errors import GameRaisedError, ModelError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GAME_ERRORS, GameFault, GymnasiumGame
from background_training.storage import atomic_files
from background_training.storage.model_store import POLICY_KEYS, Model

logger = logging.getLogger(__name__)

SCHEMA = 1
FIRST_SEED = 2**31
"""Seeds from here on are never trained on: those of RunSpec.game_seed are below."""


def check_fits(model: Model, file: str, game: GymnasiumGame, name: str) -> None:
    """Refuse a model that was trained for another game.

    Raises:
        ModelError: its state width or its actions are not the game's.
    """
    if (model.state_width, model.actions) != (game.state_width, game.actions):
        found = f"it takes states of {model.state_width} numbers and chooses {model.actions.words}"
        needed = f"{name} has states of {game.state_width} and {game.actions.words}"
        raise ModelError(file, found, f"{needed}. Nothing was played; name the game it was trained for with --game")


def returns_of(game: GymnasiumGame, model: Model, seeds: Iterable[int], *, greedy: bool) -> list[float]:
    """Play a game for each seed; their returns.

    Args:
        greedy: take the likeliest action; otherwise sample actions as a bot does while it learns, from a generator with the
            game's seed. So two models that are compared draw the same random numbers for as long as they play alike.

    Raises:
        GameRaisedError: the game raised.
    """
    network = policy.Network(*(model.arrays[key] for key in POLICY_KEYS))
    returns = []
    for seed in seeds:
        try:
            returns.append(_play(game, network, model, seed, greedy))
        except GAME_ERRORS as error:
            fault = GameFault.of(error)
            raise GameRaisedError(game.facts.id, seed, fault.reason, fault.place) from error
    return returns


def _play(game: GymnasiumGame, network: policy.Network, model: Model, seed: int, greedy: bool) -> float:
    rng = np.random.default_rng([seed, 1])
    state, total, over = game.reset(seed), 0.0, False
    while not over:
        choice = policy.choose(network, state, None, rng, greedy, model.actions)
        state, reward, terminated, truncated = game.step(choice.action)
        total += reward
        over = terminated or truncated
    return total


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, half the width of its 95 % interval (null for a single game), and extremes."""
    mean = intervals.mean_of(np.asarray(returns, np.float64))
    half_width = (mean.high - mean.low) / 2 if mean.games > 1 else None
    return {"mean_return": mean.value, "half_width_95": half_width, "lowest": min(returns), "highest": max(returns)}


def record(paths: Paths, facts: Mapping[str, Any]) -> None:
    """Append a line to logs/evaluations.jsonl; a failure to write it is logged, since the result is still printed."""
    line = json.dumps({"schema": SCHEMA, "at": round(time.time(), 3), **facts}) + "\n"
    try:
        paths.logs.mkdir(parents=True, exist_ok=True)
        atomic_files.append_whole(paths.evaluations_log, line.encode(), durable=False)
    except OSError as error:
        logger.warning("%s not written: %s", paths.evaluations_log, error)
