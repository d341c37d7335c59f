"""A process that has loaded what workers need and forks them: a worker is up in milliseconds.

Unlike multiprocessing's, it never loads the caller's main module.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol

import psutil

from background_training.envs import worker_platform, worker_service
from background_training.ipc import process_names

_ANSWER_SECONDS = 30.0


def become_worker(numbers: tuple[int, int, int], stderr: int | None) -> NoReturn:
    """In a freshly forked child: be a worker, and never return to what the parent was doing."""
    try:
        os.setsid()
        process_names.call_this_process(process_names.GAME_WORKER)
        reseed()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        if stderr is not None:
            os.dup2(stderr, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # pytest and notebooks put their own there
        worker_service.serve_posix(*numbers)
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(1)


def reseed() -> None:
    """In a forked child: NumPy's global generator would draw what it draws in the other children. Python sees to its own."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def serve(link: socket.socket) -> None:
    """Be the server: fork on request, report every child's end, until the other side is gone."""
    from background_training.envs import env_worker  # noqa: F401  # loaded once here, so that no child has to

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
    while True:
        sources: list[Any] = [link, wake_read]
        ready = select.select(sources, [], [])[0]
        if wake_read in ready:
            os.read(wake_read, 4096)
            for pid, status in _ended(children):
                _tell(link, exited=pid, status=status)
        if link in ready:
            data, descriptors, _, _ = socket.recv_fds(link, 65536, 4)
            if not data:
                return
            for line in data.splitlines():
                _obey(link, json.loads(line), descriptors, children, (wake_read, wake_write))


def _obey(
    link: socket.socket, request: dict[str, Any], descriptors: list[int], children: set[int], ours: tuple[int, int]
) -> None:
    if "kill" in request:
        if request["kill"] in children:
            _kill_group(request["kill"])
        return
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        link.close()
        for descriptor in ours:
            os.close(descriptor)
        if "run" in request:
            forked_command = importlib.import_module("background_training.envs.forked_command")  # it needs this module's server
            forked_command.become(request["run"], descriptors)
        worker, memory, lifeline, *stderr = descriptors
        become_worker((worker, memory, lifeline), stderr[0] if stderr else None)
    children.add(pid)
    for descriptor in descriptors:
        os.close(descriptor)
    _tell(link, forked=pid)


def _ended(children: set[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(children):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            _kill_group(pid)  # its games, while the number is still its own
            ended.append((pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            children.discard(pid)
    return ended


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _tell(link: socket.socket, **message: int) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


class ServerProcess(Protocol):
    """The process of a server, as subprocess.Popen shows it."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class ForkServer:
    """Our side of a server process. Safe for several threads."""

    def __init__(self, start: Callable[[socket.socket, int, socket.socket], ServerProcess]) -> None:
        """Start it.

        Args:
            start: is given the server's end of the link and of the lifeline, which it must hand on, and our end of the link.

        Raises:
            OSError: the machine can't start another process.
        """
        ours, theirs = socket.socketpair()
        worker_lifeline, self._lifeline = worker_platform.open_lifeline()
        try:
            self._process = start(theirs, worker_lifeline, ours)
        finally:
            theirs.close()
            os.close(worker_lifeline)
        self._link = ours
        self._lock = threading.RLock()
        self.owner = os.getpid()
        self._bytes = b""
        self._forked: list[int] = []
        self.statuses: dict[int, int] = {}

    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def fork(self, numbers: tuple[int, int, int], stderr: Any) -> ServedProcess:
        """Have a worker forked.

        Raises:
            OSError: the server is gone, or does not answer.
        """
        return self._ask({"fork": 1}, [*numbers] if stderr is None else [*numbers, stderr.fileno()])

    def run(self, command: dict[str, Any], streams: tuple[int, int, int]) -> ServedProcess:
        """Have a command run in a fork; see forked_command.py.

        Raises:
            OSError: the server is gone, or does not answer.
        """
        return self._ask({"run": command}, [*streams])

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> ServedProcess:
        with self._lock:
            socket.send_fds(self._link, [json.dumps(request).encode() + b"\n"], descriptors)
            end = time.monotonic() + _ANSWER_SECONDS
            while not self._forked:
                if not self.alive() or time.monotonic() > end:
                    raise ChildProcessError("the fork server does not answer")
                select.select([self._link], [], [], 0.1)
                self.read()
            return ServedProcess(self._forked.pop(), self)

    def read(self) -> None:
        """Take in what the server has told."""
        with self._lock:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                self._bytes += self._link.recv(65536, socket.MSG_DONTWAIT)
            *lines, self._bytes = self._bytes.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "forked" in message:
                    self._forked.append(message["forked"])
                else:
                    self.statuses[message["exited"]] = message["status"]

    def kill(self, pid: int) -> None:
        """Have a child killed; the server knows whether the number is still that child's."""
        with contextlib.suppress(OSError):
            self._link.sendall(json.dumps({"kill": pid}).encode() + b"\n")

    def close(self) -> None:
        """End the server."""
        self._link.close()
        worker_platform.close_lifeline(self._lifeline)
        if self.owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


class ServedProcess:
    """A worker that is a child of the server; it may outlive that."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        self.pid = pid
        self._server = server
        self._status: int | None = None
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):  # it has ended already
            self._process = psutil.Process(pid)

    def exit_status(self) -> int | None:
        if self._status is None:
            self._server.read()
            self._status = self._server.statuses.pop(self.pid, None)
            if self._status is None and not self._server.alive() and not self._lives():
                self._status = -signal.SIGKILL  # nobody is left who could tell
        return self._status

    def kill(self) -> None:
        end = time.monotonic() + 5.0
        while self.exit_status() is None and time.monotonic() < end:
            if self._server.alive():
                self._server.kill(self.pid)
            elif self._lives():
                _kill_group(self.pid)
            select.select([self._server._link], [], [], 0.05)

    def _lives(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return self._process is not None and self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        return False


_server: ForkServer | None = None
_users = 0


def the_server(command: Callable[..., list[str]], environment: dict[str, str]) -> ForkServer:
    """The one server of this process; it is started when first needed, and again when it has died."""
    global _server
    if _server is None or not _server.alive():
        if _server is not None:
            _server.close()
        _server = ForkServer(partial(_started, command, environment))
    return _server


def _started(
    command: Callable[..., list[str]], environment: dict[str, str], link: socket.socket, lifeline: int, _: socket.socket
) -> ServerProcess:
    numbers = (link.fileno(), lifeline)
    return subprocess.Popen(
        command(*numbers), pass_fds=numbers, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def adopt(server: ForkServer) -> None:
    """Let a server that was started elsewhere be the one of this process; `release` ends it, as far as nobody else uses it."""
    global _server
    if _server is not None:
        _server.close()
    _server = server
    hold()


def hold() -> None:
    """Note a vector env that uses the server."""
    global _users
    _users += 1


def release() -> None:
    """Note that it is closed; the server ends with its last user."""
    global _users, _server
    _users -= 1
    if _users <= 0 and _server is not None:
        _server.close()
        _server = None
