"""Start a worker process, watch it and kill it, with everything it has started."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing.spawn
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil

from background_training.envs import worker_boot, worker_platform

log = logging.getLogger(__name__)

_FORK_SECONDS = 20.0
"""Time the fork server may take to answer; its own start is in the first answer."""

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


def launch(start_method: str, memory: Any, stderr: Any, fork_server: ForkServer | None = None) -> Launched:
    """Start a worker process.

    Args:
        start_method: "fork", or else a new interpreter unless there is a fork server.
        memory: the vector env's shared memory.
        stderr: a file for the worker's stderr, or None to share ours.
        fork_server: forks the worker, if it can.

    Raises:
        OSError: the machine can't start another process.
    """
    if sys.platform == "win32":
        return _launch_on_windows(memory, stderr)
    parent_socket, worker_socket = socket.socketpair()
    worker_lifeline, lifeline = worker_platform.open_lifeline()
    numbers = (worker_socket.fileno(), memory.descriptor, worker_lifeline)
    start = fork_server.fork if fork_server is not None and fork_server.is_up else _fork if start_method == "fork" else _spawn
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


def _spawn(numbers: tuple[int, ...], stderr: Any, kind: str = "posix") -> ChildProcess:
    popen = subprocess.Popen(
        boot_command(kind, *numbers),
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
        worker_boot.run_forked(*numbers, None if stderr is None else stderr.fileno())
    return ChildProcess(pid)


class ForkServer:
    """Forks workers from one new interpreter that has imported what each of them needs; Linux only.

    Sixteen interpreters that import NumPy and Gymnasium one by one take 2.4 s of processor time, the forks of one 0.5 s. It has
    loaded nothing of the caller's main module and runs no threads, which the caller's process may. Its environment and module
    path are those of its start.

    Attributes:
        is_up: whether it can fork; after its first failure the next workers are new interpreters.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: the machine can't start another process, or has no descriptors of processes (before Linux 5.3).
        """
        os.close(os.pidfd_open(os.getpid()))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server_lifeline, self._lifeline = worker_platform.open_lifeline(self._control)
        try:
            self._process = _spawn((theirs.fileno(), server_lifeline), None, "forkserver")
        except BaseException:
            self._control.close()
            worker_platform.close_lifeline(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(server_lifeline)
        self._control.settimeout(_FORK_SECONDS)
        self.is_up = True

    def fork(self, numbers: tuple[int, int, int], stderr: Any) -> WorkerProcess:
        """Start a worker; arguments as of a new interpreter.

        Raises:
            OSError: the server is gone. A worker that it may have forked ends with its lifeline.
        """
        try:
            descriptors = [*numbers] if stderr is None else [*numbers, stderr.fileno()]
            socket.send_fds(self._control, [b"fork"], descriptors)
            pid = self._answer()
            return ForkedProcess(pid, self)
        except OSError:
            log.warning("the fork server of a vector env is gone; its next workers are new interpreters")
            self.close()
            raise

    def collect(self, pid: int) -> int:
        """The exit status of a worker that has ended; 0 if the server has gone, and with it the status."""
        if self.is_up:
            with contextlib.suppress(OSError):
                self._control.send(b"%d" % pid)
                return self._answer()
        return 0

    def _answer(self) -> int:
        answer = self._control.recv(32)
        if not answer:
            raise ConnectionResetError("the fork server has closed its link")
        return int(answer)

    def close(self) -> None:
        """End it, but not its workers."""
        self.is_up = False
        self._process.kill()
        self._control.close()
        worker_platform.close_lifeline(self._lifeline)


def start_fork_server(start_method: str) -> ForkServer | None:
    """A fork server, if it is the start method and the system has what it takes."""
    if start_method == "forkserver" and sys.platform == "linux" and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return ForkServer()
    return None


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


class ForkedProcess(ChildProcess):
    """A worker that is a child of the fork server, which collects it only when it is asked to."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        super().__init__(pid)
        self._server = server
        self._descriptor = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def _has_ended(self) -> bool:
        return bool(self._poll.poll(0))

    def _reap(self) -> int:
        os.close(self._descriptor)
        return self._server.collect(self.pid)


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
