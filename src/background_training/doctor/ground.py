"""Whether there is ground to stand on: the Python, and the packages without which nothing of ours can be loaded.

Kept within the standard library and within what old Pythons can read, so that it can still say what is missing.
"""

from __future__ import annotations

import sys
from importlib import util
from typing import Tuple  # noqa: UP035  # said as old Pythons know it

from background_training.doctor.finding import Finding

OLDEST_PYTHON = (3, 10)
CORE_PACKAGES = {
    "numpy": ("numpy", (1, 24)),
    "watchdog": ("watchdog", (4, 0)),
    "filelock": ("filelock", (4, 0)),
    "psutil": ("psutil", (5, 9)),
    "PyYAML": ("yaml", (6, 0)),
}
"""What pip calls each, as pyproject.toml has it, and what it is imported as; and the oldest version that will do."""

CHECKS = ("old-python", "missing-package", "old-package")


def findings() -> list[Finding]:
    """What forbids to go on; nothing on sound ground."""
    running = sys.version_info[:3]
    if running < OLDEST_PYTHON:
        cause = f"this is Python {_dotted(running)} ({sys.executable}); {_dotted(OLDEST_PYTHON)} or newer is needed."
        cure = "Install a newer Python, make a virtual environment with it, and run everything from there."
        return [Finding("old-python", cause, cure)]
    from background_training import command_lines  # only now: old Pythons can't read what it imports

    found = []
    for package, (module, oldest) in CORE_PACKAGES.items():
        if util.find_spec(module) is None:
            cause = f"the package {package} is not installed for {sys.executable}."
            cure = f"Run: {command_lines.install()} with the Python that runs the bot."
            found.append(Finding("missing-package", cause, cure))
            continue
        version = installed_version(package)
        if version is not None and version < oldest:
            cause = f"{package} is of version {_dotted(version)}; {_dotted(oldest)} or newer is needed."
            found.append(Finding("old-package", cause, f'Run: python -m pip install --upgrade "{package}>={_dotted(oldest)}"'))
    return found


def installed_version(package: str) -> Tuple[int, ...] | None:  # noqa: UP006  # as above
    """The first two numbers of a package's version; None if nobody says."""
    from importlib import metadata  # not in Python 3.7, which has been told to leave by now

    try:
        parts = metadata.version(package).split(".")[:2]
        return tuple(int(part) for part in parts)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _dotted(version: Tuple[int, ...]) -> str:  # noqa: UP006  # as above
    return ".".join(str(number) for number in version)
