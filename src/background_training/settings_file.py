"""Where settings come from: config/default.yaml, then a file, then the environment, then flags; later wins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from background_training.errors import SettingsError
from background_training.paths import CHECKOUT
from background_training.settings import RENAMED, RETIRED, Settings, nearest

DEFAULT_FILE = None if CHECKOUT is None else CHECKOUT / "config" / "default.yaml"
"""Lists every setting with its default. A wheel does not contain it: settings.py holds the same defaults."""
ROOT_VARIABLE = "LOCAL_TRAINING_ROOT"
_PREFIX = "LOCAL_TRAINING_"
_STRANGERS_PREFIX = f"{_PREFIX}X_"
_SECTIONS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "root")


def load(
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    root: Path | None = None,
) -> Settings:
    """Read and check all settings.

    Args:
        config: the user's own file, or None.
        environment: variables; `LOCAL_TRAINING_<SECTION>_<KEY>` sets any key; some keys have a second name.
        flags: values by section and key from the command line; None counts as not given.
        root: the root from the command line.

    Raises:
        SettingsError: with the key, the value, the allowed range, and the source.
    """
    _check_known(environment or {})
    settings = Settings()
    for path in (DEFAULT_FILE, config):
        if path is not None and (path != DEFAULT_FILE or path.exists()):
            settings = _with_sections(settings, _read(path), str(path))
    settings = _with_environment(settings, environment or {})
    for section, values in (flags or {}).items():
        given = {key: value for key, value in values.items() if value is not None}
        settings = settings.with_values("command line", **{section: given})
    return settings if root is None else dataclasses.replace(settings, root=root.absolute())


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with the prefix of our settings that set nothing: misspelt names.

    Empty variables count as not set; names that begin with LOCAL_TRAINING_X_ are left to other programs.
    """
    known = _known_variables()
    ours = [name for name in environment if name.upper().startswith(_PREFIX) and not name.upper().startswith(_STRANGERS_PREFIX)]
    return sorted(name for name in ours if name not in known and environment[name])


def as_sections(settings: Settings) -> dict[str, dict[str, Any]]:
    """All values by section and key, ready for JSON or YAML."""
    return {section: dataclasses.asdict(getattr(settings, section)) for section in _SECTIONS}


def from_sections(root: Path, sections: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The inverse of `as_sections`."""
    values = {section: dict(keys) for section, keys in sections.items()}
    return dataclasses.replace(Settings().with_values("settings", **values), root=root)


def _read(path: Path) -> dict[str, Any]:
    import yaml  # only here, as a bot plays without it where there is no file to read

    try:
        with open(path, encoding="utf-8") as file:
            # libyaml's loader where available: ten times as fast.
            content = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise SettingsError("config", str(path), f"a file that can be read is needed ({error.strerror})", str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:  # of numbers and dates, too
        sentence = " ".join(str(error).split())
        raise SettingsError("config", str(path), f"YAML is needed ({sentence})", str(path)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError("config", type(content).__name__, "sections with keys are needed", str(path))
    return content


def _with_sections(settings: Settings, content: Mapping[str, Any], source: str) -> Settings:
    for section, values in content.items():
        if section == "root":
            settings = dataclasses.replace(settings, root=_root(values, source)) if values else settings
        elif section not in _SECTIONS:
            near = nearest(str(section), ("root", *_SECTIONS))
            raise SettingsError(str(section), values, f"known sections are root, {', '.join(_SECTIONS)}{near}", source)
        elif not isinstance(values, dict):
            raise SettingsError(section, values, "keys with values are needed", source)
        else:
            settings = settings.with_values(source, **{section: _with_numbers(settings, section, values)})
    return settings


def _with_numbers(settings: Settings, section: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    """Read texts as numbers where a number is needed: YAML reads 1e-3 as a text and 1.0e-3 as a number."""
    floats = {field.name for field in dataclasses.fields(getattr(settings, section)) if field.type == "float"}
    return {str(key): _number(value) if key in floats else value for key, value in values.items()}


def _number(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _root(value: object, source: str) -> Path:
    if not isinstance(value, str):
        raise SettingsError("root", value, "a path is needed", source)
    return Path(value).expanduser().absolute()


def _variables(section: str, field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The variables that set a key: the regular one, and the one of the guides where there is one."""
    also = field.metadata["environment"]
    return (_variable(section, field.name), *([also] if also else []))


def _variable(section: str, key: str) -> str:
    return f"{_PREFIX}{section}_{key}".upper()


def _known_variables() -> list[str]:
    fields = [(section, field) for section in _SECTIONS for field in dataclasses.fields(getattr(Settings(), section))]
    return [ROOT_VARIABLE, *(variable for section, field in fields for variable in _variables(section, field))]


def _check_known(environment: Mapping[str, str]) -> None:
    """Refuse misspelt variables, which would otherwise be ignored silently."""
    retired = {_variable(*key.split(".")): sentence for key, sentence in RETIRED.items()}
    for section, old, new in ((*key.split("."), name) for key, name in RENAMED.items()):
        retired[_variable(section, old)] = f"this variable is now called {_variable(section, new)}: rename it"
    for name in unknown_variables(environment):
        near = nearest(name.upper(), _known_variables())
        sentence = retired.get(name.upper(), f"no setting has this name{near}")
        raise SettingsError(name, environment[name], sentence, "environment variable")


def _with_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    if environment.get(ROOT_VARIABLE):
        settings = dataclasses.replace(settings, root=_root(environment[ROOT_VARIABLE], ROOT_VARIABLE))
    for section in _SECTIONS:
        for field in dataclasses.fields(getattr(settings, section)):
            for variable in _variables(section, field):
                text = environment.get(variable, "")
                if text:
                    value = text if field.type == "str" else _parsed(text)
                    values = _with_numbers(settings, section, {field.name: value})
                    settings = settings.with_values(f"environment variable {variable}", **{section: values})
    return settings


def _parsed(text: str) -> object:
    """A number or true/false where the text is one; otherwise the text, which the check then refuses."""
    try:
        import yaml
    except ImportError:
        return _parsed_json(text)
    try:
        return yaml.load(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return text


def _parsed_json(text: str) -> object:
    try:
        return json.loads(text.lower())
    except ValueError:
        return text
