"""Start a worker process, watch it and kill it, with everything it has started."""

from __future__ import annotations

import contextlib
import json
import multiprocessing.spawn
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import psutil

from background_training.envs import worker_boot, worker_platform

PATIENCE_SECONDS = 0.05
"""How long the parent waits for one worker before it looks around."""

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MPI_PREFIXES = ("OMPI_", "PMI_")


class WorkerProcess(Protocol):
    """A started worker."""

    pid: int

    def exit_status(self) -> int | None:
        """None while it lives; its exit code, or minus the signal that killed it."""

    def kill(self) -> None:
        """Kill it and what it has started; returns when it is gone, or after 5 s."""


Launched = tuple[WorkerProcess, worker_platform.WorkerLink, Callable[[], None]]
"""The process, the parent's end of the link, and what lets go of the worker for good."""


def launch(start_method: str, memory: Any, stderr: Any) -> Launched:
    """Start a worker process.

    Args:
        start_method: spawn or fork.
        memory: the vector env's shared memory.
        stderr: a file for the worker's stderr, or None to share ours.

    Raises:
        OSError: the machine can't start another process.
    """
    if sys.platform == "win32":
        return _launch_on_windows(memory, stderr)
    parent_socket, worker_socket = socket.socketpair()
    worker_lifeline, lifeline = worker_platform.open_lifeline()
    numbers = (worker_socket.fileno(), memory.descriptor, worker_lifeline)
    start = _fork if start_method == "fork" else _spawn
    try:
        process = start(numbers, stderr)
    except BaseException:
        parent_socket.close()
        worker_platform.close_lifeline(lifeline)
        raise
    finally:
        worker_socket.close()
        os.close(worker_lifeline)
    link = worker_platform.SocketLink(parent_socket, PATIENCE_SECONDS)
    return process, link, lambda: worker_platform.close_lifeline(lifeline)


def boot_command(kind: str, *details: object) -> list[str]:
    """The command line that becomes a worker without loading the caller's main module."""
    executable = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
    search_path = json.dumps([*(entry or str(Path.cwd()) for entry in sys.path), _PACKAGE_PARENT])
    return [executable, "-c", worker_boot.BOOT_CODE, search_path, kind, *map(str, details)]


def worker_environment() -> dict[str, str]:
    """Our environment, less what would make a worker part of an MPI job; one BLAS thread unless the caller has chosen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_MPI_PREFIXES)}
    return {**dict.fromkeys(_ONE_THREAD, "1"), **kept}


def _spawn(numbers: tuple[int, int, int], stderr: Any) -> WorkerProcess:
    popen = subprocess.Popen(
        boot_command("posix", *numbers),
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env=worker_environment(),
        start_new_session=True,
    )
    return ChildProcess(popen.pid, popen)


def _fork(numbers: tuple[int, int, int], stderr: Any) -> WorkerProcess:
    sys.stdout.flush()
    sys.stderr.flush()  # otherwise the child would print once more what we have not printed yet
    pid = os.fork()
    if pid == 0:
        _run_forked(numbers, stderr)
    return ChildProcess(pid)


def _run_forked(numbers: tuple[int, int, int], stderr: Any) -> NoReturn:
    """In a freshly forked child: run a worker and never return to the parent's code."""
    try:
        os.setsid()
        if "numpy.random" in sys.modules:  # otherwise NumPy's global generator would draw the same numbers in every child
            sys.modules["numpy.random"].seed()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if stderr is not None:
            os.dup2(stderr.fileno(), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # pytest and notebooks replace sys.stderr
        worker_boot.serve_posix(*numbers)
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(1)


class ChildProcess:
    """A worker that is a direct child of ours."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._popen = popen
        self._status: int | None = None

    def exit_status(self) -> int | None:
        if self._status is None and self._has_ended():
            # While the dead leader is not reaped, its group's number can't be anyone else's.
            kill_group(self.pid)
            self._status = self._reap()
        return self._status

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # somebody else has reaped it

    def _reap(self) -> int:
        if self._popen is not None:
            return self._popen.wait()
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 0

    def kill(self) -> None:
        if self._status is None:
            kill_group(self.pid)
            wait_for_exit(self)


def kill_group(pid: int) -> None:
    """Kill a worker that leads its own process group, and the games it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have come as far as making its group


def wait_for_exit(process: WorkerProcess, timeout_seconds: float = 5.0) -> bool:
    """Wait until the process is gone; False if it is not within the time (a system call that can't be interrupted)."""
    end = time.monotonic() + timeout_seconds
    pause = 0.0005
    while process.exit_status() is None:
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def _launch_on_windows(memory: Any, stderr: Any) -> Launched:
    parent_end, worker_end = multiprocessing.Pipe()
    handle = worker_end.fileno()
    os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined]
    startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})  # type: ignore[attr-defined]
    popen = subprocess.Popen(
        boot_command("windows", handle, memory.name, os.getpid()),
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env=worker_environment(),
        startupinfo=startup,
    )
    worker_end.close()
    return TreeProcess(popen), worker_platform.PipeLink(parent_end, PATIENCE_SECONDS), lambda: None


class TreeProcess:
    """A worker on a system without process groups: what it has started is found by asking the system."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self._popen = popen

    def exit_status(self) -> int | None:
        return self._popen.poll()

    def kill(self) -> None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self._popen.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5.0)
