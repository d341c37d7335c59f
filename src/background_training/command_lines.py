"""The command lines that messages show: how this user starts a command, and what installs a package that is missing."""

from __future__ import annotations

import sys

from background_training.paths import CHECKOUT

SCRIPTS = {
    "run": "run_with_training.py",
    "learn": "tools/background_parallel_learner.py",
    "monitor": "tools/monitor_background_training.py",
    "selfcheck": "tools/test_background_training.py",
    "evaluate": "tools/evaluate.py",
    "explain": "tools/explain_episode.py",
    "rebuild": "tools/rebuild_model.py",
    "rollback": "tools/rollback_model.py",
    "widen": "tools/widen_model.py",
    "report": "tools/report.py",
    "doctor": "tools/doctor.py",
    "tensorboard": "tools/export_tensorboard.py",
    "replays": "tools/analyze_replays.py",
}
"""Verb of the console script -> script of a checkout that does the same. Some verbs have none: they need `pip install`."""

EXTRAS = {
    "numpy": "",
    "yaml": "",
    "filelock": "",
    "psutil": "",
    "watchdog": "",
    "gymnasium": "games",
    "cloudpickle": "games",
    "Box2D": "games",
    "pygame": "games",
    "matplotlib": "games",
    "PIL": "games",
    "rich": "monitor",
    "sc2reader": "replays",
    "nicegui": "web",
    "fastapi": "web",
    "uvicorn": "web",
    "wsproto": "web",
}
"""Each package that we import, by its import name -> the extra of pyproject.toml that brings it; "" for the core's own."""

_program = "background-training" if CHECKOUT is None else ""


def started_as(program: str) -> None:
    """Name commands as verbs of this program from now on; the console script calls it, which exists in a checkout too."""
    global _program
    _program = program


def command(verb: str, root: object = None) -> str:
    """The command line that a message shows, e.g. 'background-training rollback', in a checkout 'python tools/rollback_model.py'.

    Args:
        root: what follows --root, if that is to be shown.
    """
    start = f"python {SCRIPTS[verb]}" if not _program and verb in SCRIPTS else f"{_program or 'background-training'} {verb}"
    return start if root is None else f'{start} --root "{root}"'


def usage_name(verb: str) -> str:
    """A command's name in its usage line: 'background-training rollback', or 'rollback_model.py'."""
    return SCRIPTS[verb].rpartition("/")[2] if not _program and verb in SCRIPTS else f"{_program or 'background-training'} {verb}"


def install(extra: str = "", python: str = "python") -> str:
    """The command that installs this project with an extra; in a checkout it works from any folder.

    Args:
        python: the interpreter to install for.
    """
    suffix = f"[{extra}]" if extra else ""
    quoted = f'"{python}"' if " " in python else python
    target = f'"background-training{suffix}"' if CHECKOUT is None else f'-e "{CHECKOUT}{suffix}"'
    return f"{quoted} -m pip install {target}"


def pip_name(module: str) -> str:
    """The name under which pip knows the package of a module."""
    return {"yaml": "PyYAML", "PIL": "pillow"}.get(module, module)


def missing_package(error: BaseException) -> str:
    """A sentence about the package of ours whose absence raised this error, and its cure; '' for any other error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in EXTRAS:
        return ""
    return f"the package {pip_name(name)} is not installed; run: {install(EXTRAS[name], sys.executable)}"
