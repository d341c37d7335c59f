"""Evaluates a model: games with given seeds, all played by the same version and not recorded."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from background_training.algo import intervals, policy
from background_training.errors import GameRaisedError, ModelError, SettingsError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GAME_ERRORS, GameFault, GymnasiumGame
from background_training.storage import atomic_files, model_store
from background_training.storage.model_store import POLICY_KEYS, Model

logger = logging.getLogger(__name__)

SCHEMA = 1
FIRST_SEED = 2**31
"""Seeds from here on are never trained on: those of RunSpec.game_seed are below."""


class Contender(NamedTuple):
    """A model to play with, and the file or version that names it."""

    model: Model
    source: str


def contender(paths: Paths, text: str) -> Contender:
    """The model of a file, or a version of the root's model: from the history, or trained again from the archive.

    Raises:
        ModelError, ModelMissingError: there is no usable model file.
        LedgerError: the version never existed, or its episodes are gone.
    """
    from background_training.learner import publish  # which loads the learner; a file needs none of it

    if not text.isdecimal():
        path = Path(text).absolute()
        return Contender(model_store.read(path, POLICY_KEYS), str(path))
    source = f"version {int(text)} of {paths.model}"
    return Contender(model_store.unpack(publish.version_of(paths, int(text)).data, source, POLICY_KEYS), source)


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
    return [play(game, model, seed, greedy=greedy) for seed in seeds]


def play(
    game: GymnasiumGame, model: Model, seed: int, *, greedy: bool, on_step: Callable[[int, float], None] | None = None
) -> float:
    """Play one game; its return. Nothing is recorded.

    Args:
        on_step: called after the reset and after each step with the number of steps and the return so far.

    Raises:
        GameRaisedError: the game raised.
    """
    network = policy.Network(*(model.arrays[key] for key in POLICY_KEYS))
    rng = np.random.default_rng([seed, 1])
    try:
        state, steps, total, over = game.reset(seed), 0, 0.0, False
        if on_step is not None:
            on_step(steps, total)
        while not over:
            choice = policy.choose(network, state, game.mask, rng, greedy, model.actions)
            state, reward, terminated, truncated = game.step(choice.action)
            steps, total, over = steps + 1, total + reward, terminated or truncated
            if on_step is not None:
                on_step(steps, total)
    except SettingsError:
        raise  # the game can't be shown
    except GAME_ERRORS as error:
        fault = GameFault.of(error)
        raise GameRaisedError(game.facts.id, seed, fault.reason, fault.place) from error
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
