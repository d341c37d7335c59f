"""Functions that tests have called in a task process, as the learner has its replays analysed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def note_waiting(notes: str, buffer: str) -> dict[str, int]:
    """Add a line: how many files wait while this is called."""
    with Path(notes).open("a", encoding="utf-8") as file:
        file.write(f"{len(os.listdir(buffer))}\n")
    return {"read": 1, "left": 1}


def process_id() -> int:
    return os.getpid()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os._exit(3)


def grow(size: int) -> int:
    """Keep so many bytes for good."""
    globals()["_kept"] = b"x" * size
    return os.getpid()


def of_settings(root: str, settings: dict[str, Any]) -> dict[str, int]:
    """In the place of the analysis of replays; the folder of the replays is where the notes lie."""
    return note_waiting(str(Path(settings["folder"]) / "notes.txt"), str(Path(root) / "data" / "buffer"))


def start_descendant(escapes: bool = False) -> int:
    """Start a process that outlives this one unless its group is killed; its id."""
    code = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=escapes).pid


def fail() -> float:
    return 1 / 0
