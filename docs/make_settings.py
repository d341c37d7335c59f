"""Write docs/reference/settings.md and config/default.yaml from the settings: `python docs/make_settings.py`."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
if str(CHECKOUT / "src") not in sys.path:
    sys.path.insert(0, str(CHECKOUT / "src"))

from background_training import settings  # noqa: E402

PAGE = CHECKOUT / "docs" / "reference" / "settings.md"
DEFAULTS = CHECKOUT / "config" / "default.yaml"

_INTRODUCTION = """# Settings

Made from `src/background_training/settings.py` by `python docs/make_settings.py`; a test checks that it is up to date.

Settings come from four places; later ones win:

1. the defaults (in a checkout: `config/default.yaml`, which lists them all),
2. the file that `--config FILE` names; it needs to hold only what differs,
3. the environment: `LOCAL_TRAINING_<SECTION>_<KEY>`, for example `LOCAL_TRAINING_LEARNER_BATCH_SIZE=5`; a few settings have a
   variable of their own as well, given below. Empty variables count as not set. Names that begin with `LOCAL_TRAINING_X_` are
   reserved for your own scripts,
4. command-line options.

An unknown key or variable, a value of the wrong type, or one out of its range is an error (exit code 2). The message names the
key, the value, what is allowed or the nearest known name, and where it was found; in a bot, `RLAgent` and the learner raise it.
Integers are accepted where floats are expected.

The root, the folder that holds `data/`, `models/` and `logs/`, belongs to no section: `root: DIR` at the top of a file, the
variable `LOCAL_TRAINING_ROOT`, or `--root DIR`. The default is `local_training/` of a checkout, else `local_training/` in the
current folder.

```yaml
# mine.yaml, used by: python run_with_training.py --config mine.yaml
root: ~/my_bot
learner:
  max_file_age: 0
learning:
  gamma: 0.995
```

When to change which: [choose settings](../how-to/choose-settings.md). How they enter the update:
[learning](../explanation/learning.md).
"""

_FORMER_NAMES = """
## Former names

A former name is an error that says the present one. Model files and ledgers that hold former names are read.

| was | is |
|---|---|
"""


def page() -> str:
    """The text of docs/reference/settings.md."""
    parts = [_INTRODUCTION]
    for name, section in _sections():
        rows = ["| key | default | allowed | what it is |", "|---|---|---|---|"]
        for field in dataclasses.fields(section):
            allowed = settings.needed(field).removesuffix(" is needed").replace("|", "\\|")
            variable = field.metadata["environment"]
            also = f" Also `{variable}`." if variable else ""
            rows.append(f"| `{field.name}` | `{_yaml(field.default)}` | {allowed} | {field.metadata['sentence']}{also} |")
        parts.append(f"\n## {name}\n\n{section.__doc__}\n\n" + "\n".join(rows) + "\n")
    rows = (f"| `{key}` | `{key.partition('.')[0]}.{name}` |\n" for key, name in settings.RENAMED.items())
    return "".join([*parts, _FORMER_NAMES, *rows])


def defaults() -> str:
    """The text of config/default.yaml."""
    lines = ["# Every setting with its default. Made by docs/make_settings.py; change your own file instead (--config FILE).", ""]
    lines += ["# The folder that holds data/, models/ and logs/; empty: local_training/ of the checkout.", "root:"]
    for name, section in _sections():
        lines += ["", f"# {section.__doc__}", f"{name}:"]
        for field in dataclasses.fields(section):
            comment = f"{field.metadata['sentence']} ({settings.needed(field).removesuffix(' is needed')})"
            lines += [f"  # {line}" for line in textwrap.wrap(comment, 116)]
            lines += [f"  {field.name}: {_yaml(field.default)}"]
    return "\n".join(lines) + "\n"


def _sections() -> list[tuple[str, Any]]:
    whole = settings.Settings()
    return [(field.name, getattr(whole, field.name)) for field in dataclasses.fields(whole) if field.name != "root"]


def _yaml(value: object) -> str:
    """A value as YAML writes it; JSON's way of a float like 1e6 would be a text there."""
    return json.dumps(value)


if __name__ == "__main__":
    DEFAULTS.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    DEFAULTS.write_text(defaults(), encoding="utf-8", newline="\n")
