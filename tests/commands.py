"""Run the project's commands as a user does: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from background_training.paths import CHECKOUT


def run_tool(script: str, root: Path, *arguments: str, exit_code: int = 0, timeout_seconds: float = 300.0) -> str:
    """Run tools/<script> on a root, check its exit code, and return what it printed, errors included."""
    command = [sys.executable, str(CHECKOUT / "tools" / script), *arguments, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout_seconds, env=os.environ)
    printed = done.stdout + done.stderr
    assert done.returncode == exit_code, f"{script} ended with {done.returncode}, not {exit_code}:\n{printed}"
    return printed
