"""A fork server that is a fork of this very process: what is loaded here needs not be loaded once more for any worker."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator

from background_training.envs import fork_server, worker_platform
from background_training.envs.fork_server import ForkServer, ServerProcess
from background_training.ipc import process_names


def is_safe() -> bool:
    """Whether this process may be forked and go on as another one.

    On Linux alone: macOS' own libraries do not bear it, and Windows knows nothing of the kind. And only while there is one
    thread: in the fork, the locks that others hold would never be released. A BLAS that was asked for one thread has none.
    """
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False  # a place where the kernel shows nothing of its processes


@contextlib.contextmanager
def serving() -> Iterator[ForkServer | None]:
    """Such a server, also for vector envs with the start method "forkserver"; None where it would not be safe.

    To be made before anything is opened or locked that must not live longer than this process does: the server and all
    that it forks have it open too.
    """
    server = None
    if is_safe():
        with contextlib.suppress(OSError):
            server = ForkServer(_fork)
    if server is None:
        yield None
        return
    fork_server.adopt(server)
    try:
        yield server
    finally:
        fork_server.release()


def _fork(link: socket.socket, lifeline: int, parents_end: socket.socket) -> ServerProcess:
    sys.stdout.flush()
    sys.stderr.flush()  # otherwise the fork would print once more what we have not printed yet
    pid = os.fork()
    if pid == 0:
        _become_server(link, lifeline, parents_end)
    return _Child(pid)


def _become_server(link: socket.socket, lifeline: int, parents_end: socket.socket) -> None:
    try:
        os.setsid()
        process_names.call_this_process(process_names.FORK_SERVER)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        parents_end.close()
        while os.open(os.devnull, os.O_RDWR) <= 2:  # a descriptor that is handed to us must never be one of the streams
            pass
        gc.freeze()  # a collection would write to all objects, and so make each fork a copy of its own of them
        worker_platform.die_with_lifeline(lifeline)
        fork_server.serve(link)
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(0)


class _Child:
    """A child of ours, as subprocess.Popen shows it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        status = self._waited(0)
        assert status is not None
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)

    def _waited(self, flags: int) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self._pid, flags)
            except ChildProcessError:
                pid, status = self._pid, 0  # somebody else has reaped it
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status
