"""What a setting is: a field of a frozen dataclass that knows its sentence and its range, and is checked when made."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from background_training.errors import SettingsError


def setting(
    default: Any,
    sentence: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    environment: str = "",
) -> Any:
    """A dataclass field that knows its sentence, its range and the variable that may set it."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={"sentence": sentence, "environment": environment, **bounds})


def needed(setting_field: dataclasses.Field[Any]) -> str:
    """The range of a setting in words."""
    data = setting_field.metadata
    if data["choices"]:
        return "one of " + ", ".join(data["choices"]) + " is needed"
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    text = words[type_name(setting_field)]
    for word, bound in (("at least", data["at_least"]), ("above", data["above"]), ("at most", data["at_most"])):
        if bound is not None:
            text += f", {word} {bound}"
    return text + " is needed"


def type_name(setting_field: dataclasses.Field[Any]) -> str:
    return str(setting_field.type)


def check(section: Any, source: str = "settings") -> None:
    """Refuse a section in which a value is of the wrong type or out of its range.

    Raises:
        SettingsError: names the key, the value, the range and the source.
    """
    for setting_field in dataclasses.fields(section):
        if not setting_field.metadata:
            continue
        value = getattr(section, setting_field.name)
        if not _allowed(value, setting_field):
            raise SettingsError(setting_field.name, value, needed(setting_field), source)


def _allowed(value: object, setting_field: dataclasses.Field[Any]) -> bool:
    data = setting_field.metadata
    wanted = type_name(setting_field)
    if wanted == "bool":
        return isinstance(value, bool)
    if wanted == "str":
        return isinstance(value, str) and (not data["choices"] or value in data["choices"])
    if isinstance(value, bool) or not isinstance(value, int if wanted == "int" else (int, float)):
        return False
    assert isinstance(value, (int, float))
    return (
        value == value  # not NaN
        and (data["at_least"] is None or value >= data["at_least"])
        and (data["above"] is None or value > data["above"])
        and (data["at_most"] is None or value <= data["at_most"])
    )


@dataclass(frozen=True)
class Section:
    """A group of settings; whoever makes one with a value out of its range is refused."""

    def __post_init__(self) -> None:
        check(self, type(self).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, if one is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest is {found[0]}" if found else ""
