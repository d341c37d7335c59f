"""The game of a root: one root holds the model, episodes, CSV and curve of one game.

The first run of a root writes the game's id, state width and actions to logs/game.json. Older roots have no such file:
their game is that of the interrupted run or of the newest episode; without either, only the model's sizes are compared.

The name of a game is the text of a GameSpec: it holds the arguments of gymnasium.make, which a root keeps as well. Opponent and
limit of steps may change in a root. Two variants under one name (registered with other keyword arguments or wrappers) are the
same game here as long as states and actions are the same: give a variant an id and a root of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from background_training import settings_file
from background_training.episodes import episode_file
from background_training.errors import BackgroundTrainingError, EpisodeError, ModelError, ModelMissingError, SettingsError
from background_training.paths import Paths
from background_training.runs import run_state
from background_training.runs.game_spec import GameSpec
from background_training.runs.gymnasium_game import GameFacts
from background_training.settings import LimitSettings, Settings
from background_training.storage import atomic_files, model_store

logger = logging.getLogger(__name__)

_FORMAT = 1
_MOST_BYTES = 1_000_000
_EPISODES_LOOKED_AT = 5
_OTHER_ROOT = "One root holds one game: use another --root for this one. Nothing was changed"


def is_same(one: str, other: str) -> bool:
    """Whether two names mean one game: options and the module before a colon are ignored, and one may lack the version."""
    first, second = (GameSpec.parse(name).id.rpartition(":")[2] for name in (one, other))
    plain = [re.sub(r"-v\d+$", "", name) for name in (first, second)]
    return first == second or (plain[0] == plain[1] and (first == plain[0] or second == plain[1]))


def known(paths: Paths) -> str:
    """The name by which the root's game can be made; "" if it is unknown."""
    if (record := _record(paths)) is not None:
        return str(record["game"])
    with contextlib.suppress(BackgroundTrainingError, OSError):
        if (state := run_state.read(paths)) is not None:
            return state.spec.game
    return _of_newest_episode(paths)


def choose(paths: Paths, asked: str | None, default: str) -> str:
    """The game to play in a root: the one asked for, with the root's options where it names none.

    Args:
        asked: the game that the user has named, or None.
        default: the game for a root that has none yet.

    Raises:
        SettingsError: the root holds another game.
    """
    name = known(paths)
    if not asked or not name:
        return asked or name or default
    spec, roots = GameSpec.parse(asked), GameSpec.parse(name)
    if not is_same(asked, name) or (spec.arguments and set(spec.arguments) != set(roots.arguments)):
        raise SettingsError("--game", asked, f"{paths.root} is a root of {name}. {_OTHER_ROOT}", "command line")
    return dataclasses.replace(
        spec,
        module=spec.module or roots.module,
        arguments=roots.arguments,
        opponent=spec.opponent or roots.opponent,
        max_steps=spec.max_steps or roots.max_steps,
    ).text


def of_settings(settings: Settings, flag: str | None, options: Sequence[str] = ()) -> str:
    """The game to play under these settings: the flag's, a file's or the environment's, the root's, or the default.

    Args:
        options: of the command line, as words: --game-args and the like.

    Raises:
        SettingsError: the root holds another game.
    """
    default = settings_file.load().games.game
    named = flag or (settings.games.game if settings.games.game != default else None)
    if options:
        named = GameSpec.parse(named or GameSpec.parse(known(settings.paths) or default).id).with_options(options).text
    return choose(settings.paths, named, default)


def check(paths: Paths, name: str, facts: GameFacts) -> None:
    """Refuse a game whose states or actions are not those of the root.

    Raises:
        SettingsError: it does not match logs/game.json or the model.
    """
    found = _facts_of(paths)
    if found is None:
        return
    source, width, actions = found
    if (width, actions) != (facts.state_width, facts.actions.as_json()):
        theirs = f"it has states of {facts.state_width} numbers and {facts.actions.words}"
        ours = f"by {source}, {paths.root} is a root of a game with states of {width} numbers and actions {json.dumps(actions)}"
        raise SettingsError("games.game", name, f"{theirs}; {ours}. Name that game with --game. {_OTHER_ROOT}", "game")


def check_limits(limits: LimitSettings, name: str, facts: GameFacts) -> None:
    """Refuse a game of which every episode would be rejected.

    Raises:
        SettingsError: its states or actions exceed the limits of an episode.
    """
    most = min(limits.max_state_width, LimitSettings().max_state_width)  # the agent records no wider states
    if facts.state_width > most:
        needed = f"its states have {facts.state_width:,} numbers; at most {most:,} (limits.max_state_width) can be learnt from"
        raise SettingsError("games.game", name, f"{needed}. Take features instead of an image, or a smaller one", "game")
    if facts.actions.outputs > limits.max_actions:
        needed = f"it has {facts.actions.words}; limits.max_actions is {limits.max_actions}: set it to {facts.actions.outputs}"
        raise SettingsError("games.game", name, f"{needed}, or play with --no-training", "game")


def record(paths: Paths, name: str, facts: GameFacts) -> None:
    """Write logs/game.json, unless it exists. A failure is logged and does not end the run."""
    if _record(paths) is not None:
        return
    content = {"format": _FORMAT, "game": name, "id": facts.id, "state_width": facts.state_width}
    content["actions"] = facts.actions.as_json()
    try:
        paths.logs.mkdir(parents=True, exist_ok=True)
        atomic_files.write_atomically(paths.game, (json.dumps(content, indent=1) + "\n").encode(), durable=True)
    except OSError as error:
        logger.warning("%s not written, so a later run will have to be given --game: %s", paths.game, error)


def _record(paths: Paths) -> dict[str, Any] | None:
    """The content of logs/game.json; None if it is missing or malformed."""
    try:
        content = json.loads(atomic_files.read_regular_file(paths.game, _MOST_BYTES))
        if content["format"] != _FORMAT or not (isinstance(content["game"], str) and content["game"]):
            raise ValueError(f"it names no game in format {_FORMAT}")
        if type(content["state_width"]) is not int or not isinstance(content["actions"], (dict, int)):
            raise ValueError("it names no states and actions")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        logger.warning("%s names no game and is replaced (%s: %s)", paths.game, type(error).__name__, error)
        return None
    return dict(content)


def _facts_of(paths: Paths) -> tuple[str, int, Any] | None:
    """The file that describes the root's game, its state width and its actions."""
    if (found := _record(paths)) is not None:
        return str(paths.game), found["state_width"], found["actions"]
    try:
        model = model_store.read(paths.model, model_store.POLICY_KEYS)
    except (ModelMissingError, ModelError, OSError):
        return None  # the learner repairs it from the history or the ledger
    return str(paths.model), model.state_width, model.actions.as_json()


def _of_newest_episode(paths: Paths) -> str:
    """The game in the meta of the newest episodes; trained ones first, since the model was trained on them."""
    for folder in (paths.archive, paths.buffer):
        for path in _newest(folder):
            with contextlib.suppress(EpisodeError, OSError):
                data = atomic_files.read_regular_file(path, 100_000_000)
                game = episode_file.read(data).meta.get("game")
                if isinstance(game, str) and game:
                    return game
    return ""


def _newest(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            times = [(entry.stat().st_mtime, entry.name) for entry in entries if entry.name.endswith(".npz") and entry.is_file()]
    except OSError:
        return []
    return [folder / name for _, name in sorted(times, reverse=True)[:_EPISODES_LOOKED_AT]]
