"""A child process together with everything that it has started, ended by one call; what differs by platform.

POSIX: the child leads a session, and so a process group, of its own. A descendant that starts a session itself escapes.
Windows: a job object, which closes with its last handle; so the processes in it end with this process too, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any, Protocol


class StartedProcess(Protocol):
    """What is needed of subprocess.Popen."""

    pid: int

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


def start_options(*, own_group: bool, platform: str = sys.platform) -> dict[str, Any]:
    """Options of subprocess.Popen that keep the terminal's Ctrl+C, and a console window, away from the child.

    Without a group of its own a child stays in that of its parent: one kill of the parent's group then reaches both.
    """
    if platform == "win32":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200) if own_group else 0
        return {"creationflags": group | getattr(subprocess, "CREATE_NO_WINDOW", 0x8000000)}
    return {"start_new_session": own_group}


class ProcessGroup:
    """Kills a child that was started with `start_options`, and its descendants."""

    def __init__(self, process: StartedProcess, *, own_group: bool) -> None:
        self._process = process
        self._own_group = own_group
        self._job = _job_with(process)

    def kill(self) -> None:
        """Kill all of them at once. To be called before the child is collected: until then its group's number is its own."""
        if self._job is not None:
            self._job.terminate()
        elif self._own_group and sys.platform != "win32":
            # PermissionError: macOS, where only a zombie is left of the group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Let go of what the system keeps for the group."""
        if self._job is not None:
            self._job.close()


def has_exited(process: StartedProcess) -> bool:
    """Whether it has ended, without collecting it where the system can tell that, so that its group can still be killed."""
    if sys.platform != "win32" and hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):  # collected already, or not a direct child
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def _job_with(process: Any) -> Any:
    """A job object with the process in it; None where there are none, or the system allows none."""
    if sys.platform != "win32":
        return None
    from background_training.ipc import windows_job

    try:
        return windows_job.Job(int(process._handle))
    except OSError:
        return None
