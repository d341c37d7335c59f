"""What a game is made of: its id and the options of the command line, as one text that fits where a bare id does.

`ALE/Breakout-v5 --game-module ale_py --game-args obs_type=ram frameskip=4` is such a text. logs/game.json, logs/run.json, child
processes and messages hold it, so that each of them makes the same game.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from background_training.errors import SettingsError

OPPONENTS = ("random", "self")
_FLAGS = {"--game-module": "module", "--game-opponent": "opponent", "--max-steps": "max_steps", "--game-args": "arguments"}


@dataclass(frozen=True)
class GameSpec:
    """A game.

    id: for gymnasium.make, or `module:factory`.
    module: imported first, so that it registers the game; after a colon, a function to call.
    arguments: `key=value` texts for gymnasium.make or the factory.
    opponent: "random" or "self", for games of several players; "" means random.
    max_steps: a game is cut after this many steps; 0: never.
    """

    id: str
    module: str = ""
    arguments: tuple[str, ...] = ()
    opponent: str = ""
    max_steps: int = 0

    def __post_init__(self) -> None:
        if self.opponent and self.opponent not in OPPONENTS:
            raise SettingsError("--game-opponent", self.opponent, "random or self is needed", "game")
        if self.max_steps < 0:
            raise SettingsError("--max-steps", self.max_steps, "a whole number, at least 0, is needed", "game")
        for text in self.arguments:
            if not text.partition("=")[1] or not text.partition("=")[0].isidentifier():
                raise SettingsError("--game-args", text, "key=value is needed, as in frameskip=4", "game")

    @classmethod
    def parse(cls, text: str) -> GameSpec:
        """The game of a text; one without options is an id as it stands.

        Raises:
            SettingsError: an option is unknown or its value is not allowed.
        """
        name, _, options = text.partition(" --")
        if not options:
            return cls(text)
        try:
            words = shlex.split(f"--{options}")
        except ValueError as error:
            raise SettingsError("games.game", text, f"a closing quote is needed ({error})", "game") from error
        return cls(name.strip()).with_options(words)

    def with_options(self, words: Sequence[str]) -> GameSpec:
        """This game with the options of a command line.

        Raises:
            SettingsError: an option is unknown or its value is not allowed.
        """
        values: dict[str, list[str]] = {}
        flag = ""
        for word in words:
            if word.startswith("--"):
                flag = word
                values[flag] = []
            elif flag:
                values[flag].append(word)
        changes: dict[str, Any] = {}
        for flag, given in values.items():
            if flag not in _FLAGS or not given or (flag != "--game-args" and len(given) > 1):
                needed = f"options of a game are {', '.join(_FLAGS)}, each with a value"
                raise SettingsError("games.game", " ".join([flag, *given]), needed, "game")
            changes[_FLAGS[flag]] = tuple(given) if flag == "--game-args" else given[0]
        if "max_steps" in changes:
            if not changes["max_steps"].isdecimal():
                raise SettingsError("--max-steps", changes["max_steps"], "a whole number, at least 0, is needed", "game")
            changes["max_steps"] = int(changes["max_steps"])
        return dataclasses.replace(self, **changes)

    @property
    def options(self) -> list[str]:
        """The options as words of a command line."""
        words = []
        for flag, field in _FLAGS.items():
            if value := getattr(self, field):
                words += [flag, *(value if field == "arguments" else [str(value)])]
        return words

    @property
    def text(self) -> str:
        """The inverse of `parse`."""
        return f"{self.id} {shlex.join(self.options)}" if self.options else self.id

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments of gymnasium.make: JSON or Python literals (4, true, [1, 2], None), otherwise texts."""
        pairs = (text.partition("=") for text in self.arguments)
        return {key: _value(value) for key, _, value in pairs}


def _value(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    return text
