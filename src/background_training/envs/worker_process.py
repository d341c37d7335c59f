"""A worker process: started by one of three methods, watched and killed, with everything that it has started."""

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
from typing import Any

from background_training.envs import env_worker, worker_link
from background_training.ipc import process_group
from background_training.ipc.process_group import ProcessGroup
from background_training.ipc.process_limits import BLAS_THREAD_VARIABLES
from background_training.paths import PACKAGE_PARENT

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.05
"""How long the parent waits for one worker before it looks at the others."""

_FORK_SECONDS = 20.0
"""Time the fork server may take to answer; the first answer includes its own start."""

_EXIT_SECONDS = 5.0
_MPI_PREFIXES = ("OMPI_", "PMI_")

Numbers = tuple[int, int, int]
"""Descriptors of the worker's end of the link, of the shared memory and of the worker's end of the lifeline."""


class WorkerProcess:
    """A started worker, which leads a process group (on Windows: is in a job object) with the games that it starts."""

    def __init__(self, process: Any) -> None:
        """`process`: a subprocess.Popen, or what behaves like one."""
        self.pid: int = process.pid
        self._process = process
        self._group = ProcessGroup(process, own_group=True)
        self._status: int | None = None

    def exit_status(self) -> int | None:
        """None while it runs; its exit code, or minus the signal that killed it."""
        if self._status is None and process_group.has_exited(self._process):
            # While the dead leader is not collected, no other group can have its number.
            self._group.kill()
            self._status = int(self._process.wait())
            self._group.close()
        return self._status

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit status, or None if it still runs after that time (a system call that can't be interrupted)."""
        end, pause = time.monotonic() + timeout_seconds, 0.0005
        while (status := self.exit_status()) is None and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return status

    def kill(self) -> None:
        """Kill it and what it has started; returns when it is gone, or after 5 s."""
        if self._status is None:
            self._group.kill()
            self.wait(_EXIT_SECONDS)


Launched = tuple[WorkerProcess, worker_link.WorkerLink, Callable[[], None]]
"""The process, the parent's end of the link, and a function that closes the lifeline: what is left of the worker is killed."""


def launch(start_method: str, memory: Any, stderr: Any, fork_server: ForkServer | None = None) -> Launched:
    """Start a worker process.

    Args:
        start_method: "fork" for a fork of this process; otherwise a new interpreter, unless there is a fork server.
        memory: the vector env's shared memory.
        stderr: a file for the worker's stderr, or None to share ours.
        fork_server: forks the worker, if it is up.

    Raises:
        OSError: the machine can't start another process.
    """
    if sys.platform == "win32":
        return _launch_on_windows(memory, stderr)
    parent_socket, worker_socket = socket.socketpair()
    worker_lifeline, lifeline = worker_link.open_lifeline()
    numbers = (worker_socket.fileno(), memory.descriptor, worker_lifeline)
    try:
        if fork_server is not None and fork_server.is_up:
            process = fork_server.fork(numbers, stderr)
        else:
            process = WorkerProcess((_fork if start_method == "fork" else _spawn)(numbers, stderr))
    except BaseException:
        parent_socket.close()
        worker_link.close_lifeline(lifeline)
        raise
    finally:
        worker_socket.close()
        os.close(worker_lifeline)
    return process, worker_link.SocketLink(parent_socket, PATIENCE_SECONDS), lambda: worker_link.close_lifeline(lifeline)


def _boot_command(kind: str, *details: object) -> list[str]:
    """The command line that becomes a worker without loading the caller's main module."""
    executable = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
    search_path = json.dumps([*(entry or str(Path.cwd()) for entry in sys.path), str(PACKAGE_PARENT)])
    return [executable, "-c", env_worker.BOOT_CODE, search_path, kind, *map(str, details)]


def _environment() -> dict[str, str]:
    """Our environment, without what would make a worker part of an MPI job; one BLAS thread unless the caller has chosen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_MPI_PREFIXES)}
    return {**dict.fromkeys(BLAS_THREAD_VARIABLES, "1"), **kept}


def _spawn(numbers: tuple[int, ...], stderr: Any, kind: str = "posix") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _boot_command(kind, *numbers),
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env=_environment(),
        **process_group.start_options(own_group=True),
    )


def _launch_on_windows(memory: Any, stderr: Any) -> Launched:
    parent_end, worker_end = multiprocessing.Pipe()
    handle = worker_end.fileno()
    os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined]
    startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})  # type: ignore[attr-defined]
    popen = subprocess.Popen(
        _boot_command("windows", handle, memory.name, os.getpid()),
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env=_environment(),
        startupinfo=startup,
        **process_group.start_options(own_group=True),
    )
    worker_end.close()
    return WorkerProcess(popen), worker_link.PipeLink(parent_end, PATIENCE_SECONDS), lambda: None


class _ForkedChild:
    """A fork of this process, with the methods of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Called when it is not our child any more: something else in this program has collected it, and its status."""
        return 0

    def wait(self) -> int:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _fork(numbers: Numbers, stderr: Any) -> _ForkedChild:
    sys.stdout.flush()
    sys.stderr.flush()  # otherwise the child would print once more what we have not printed yet
    pid = os.fork()
    if pid == 0:
        env_worker.run_forked(*numbers, None if stderr is None else stderr.fileno())
    return _ForkedChild(pid)


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
        server_lifeline, self._lifeline = worker_link.open_lifeline(self._control)
        try:
            self._process = WorkerProcess(_spawn((theirs.fileno(), server_lifeline), None, "forkserver"))
        except BaseException:
            self._control.close()
            worker_link.close_lifeline(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(server_lifeline)
        self._control.settimeout(_FORK_SECONDS)
        self.is_up = True

    def fork(self, numbers: Numbers, stderr: Any) -> WorkerProcess:
        """Start a worker; arguments as of a new interpreter.

        Raises:
            OSError: the server is gone. A worker that it may have forked ends with its lifeline.
        """
        try:
            descriptors = [*numbers] if stderr is None else [*numbers, stderr.fileno()]
            return WorkerProcess(_ForkServersChild(self._ask(b"fork", descriptors), self))
        except OSError:
            log.warning("the fork server of a vector env is gone; its next workers are new interpreters")
            raise

    def collect(self, pid: int) -> int:
        """The exit status of a worker that has ended; 0 if the server has gone, and with it the status."""
        if self.is_up:
            with contextlib.suppress(OSError):
                return self._ask(b"%d" % pid, [])
        return 0

    def _ask(self, request: bytes, descriptors: list[int]) -> int:
        try:
            socket.send_fds(self._control, [request], descriptors)
            answer = self._control.recv(32)
            if not answer:
                raise ConnectionResetError("the fork server has closed its link")
            return int(answer)
        except BaseException:  # Ctrl+C too: otherwise a late answer would be taken for that to the next request
            self.close()
            raise

    def close(self) -> None:
        """End it, but not its workers."""
        self.is_up = False
        self._process.kill()
        self._control.close()
        worker_link.close_lifeline(self._lifeline)


def start_fork_server(start_method: str) -> ForkServer | None:
    """A fork server, if it is the start method and the system has what it takes."""
    if start_method == "forkserver" and sys.platform == "linux" and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return ForkServer()
    return None


class _ForkServersChild(_ForkedChild):
    """A worker that is a child of the fork server, which collects it only when it is asked to."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        super().__init__(pid)
        self._server = server
        self._descriptor = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def poll(self) -> int | None:
        """Something but None once it has ended; it is not collected by this."""
        return 0 if self._poll.poll(0) else None

    def wait(self) -> int:
        os.close(self._descriptor)
        return self._server.collect(self.pid)
