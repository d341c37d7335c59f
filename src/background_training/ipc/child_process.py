"""How a worker process is started: apart from the terminal, and with our packages in reach. Imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from background_training.ipc.process_limits import limit_blas_threads


def worker_environment() -> dict[str, str]:
    """The environment of a worker: a child's, with one BLAS thread."""
    environment = child_environment(dict(os.environ))
    limit_blas_threads(environment)
    return environment


def apart_from_terminal(platform: str = sys.platform) -> dict[str, Any]:
    """Arguments of subprocess.Popen that keep the terminal's Ctrl+C, and a console window, away from the child."""
    if platform == "win32":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)
        return {"creationflags": group | getattr(subprocess, "CREATE_NO_WINDOW", 0x8000000)}
    return {"start_new_session": True}


def child_environment(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a worker: our packages are found, as are the game's, and texts are UTF-8."""
    paths = [entry if entry else os.getcwd() for entry in sys.path]
    return {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONIOENCODING": "utf-8"}
