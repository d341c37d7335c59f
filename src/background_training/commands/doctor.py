"""Name what is set up wrongly, with its cause and its cure: python tools/doctor.py --help

It takes no lock, moves no file, and reads what a learner may be writing. This module keeps to the standard library and to the
syntax of old Pythons until it has checked the Python version and the packages: otherwise it could not report what is missing.
"""

from __future__ import annotations

import sys
from importlib import util
from typing import TYPE_CHECKING, Tuple  # noqa: UP035  # spelled as old Pythons need it

from background_training.doctor import finding
from background_training.doctor.finding import Finding

if TYPE_CHECKING:
    import argparse

    from background_training.doctor.facts import DoctorFacts

OLDEST_PYTHON = (3, 10)
CORE_PACKAGES = {
    "numpy": ("numpy", (1, 24)),
    "watchdog": ("watchdog", (4, 0)),
    "filelock": ("filelock", (4, 0)),
    "psutil": ("psutil", (5, 9)),
    "PyYAML": ("yaml", (6, 0)),
}
"""By the name that pip uses, as in pyproject.toml: the name to import, and the oldest version that works."""

EARLY_CHECKS = ("old-python", "missing-package", "old-package")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 for a healthy root, 1 if something was found."""
    findings = early_findings()
    if findings:
        given = sys.argv[1:] if arguments is None else arguments
        report = finding.as_json if "--json" in given else finding.as_text
        print(report([], findings, len(EARLY_CHECKS)))
        return 1
    # Only now: it needs the packages that have just been checked.
    from background_training.commands import common

    return common.run(parser(), _run, arguments)


def parser() -> argparse.ArgumentParser:
    import argparse

    from background_training import command_lines
    from background_training.commands import common

    made = argparse.ArgumentParser(
        prog=command_lines.usage_name("doctor"),
        description="Look for what is set up wrongly in a root and on this machine, and name cause and cure.",
        epilog="Exit codes: 0 nothing wrong was found, 1 something was, 2 bad usage, 5 the machine failed the doctor itself.",
    )
    common.add_common(made)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--before-start", action="store_true", help="also report a running learner as a problem")
    return made


def _run(options: argparse.Namespace) -> int:
    from background_training.commands import common
    from background_training.doctor import examination

    facts = look(options)
    findings = examination.examine(facts)
    report = finding.as_json if options.json else finding.as_text
    common.answer(report(examination.notes(facts), findings, len(examination.CHECKS)))
    return 1 if findings else 0


def look(options: argparse.Namespace) -> DoctorFacts:
    """All facts of one moment."""
    from background_training.commands import common
    from background_training.doctor import examination

    settings, trouble = examination.load_settings(options.config, options.root)
    common.check_root(settings.root)
    return examination.gather(settings, trouble, before_start=options.before_start)


def early_findings() -> list[Finding]:
    """Reasons why nothing of ours can be imported; empty if everything can."""
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
    """The first two numbers of a package's version; None if it is not known."""
    from importlib import metadata  # not in Python 3.7, which has been refused by now

    try:
        parts = metadata.version(package).split(".")[:2]
        return tuple(int(part) for part in parts)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _dotted(version: Tuple[int, ...]) -> str:  # noqa: UP006  # as above
    return ".".join(str(number) for number in version)
