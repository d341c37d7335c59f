"""Where systems differ: shared memory, the link to a worker, a worker's death with its parent.

POSIX: memory is a file without a name, the link a socket pair, both inherited by number. On Linux the kernel itself
kills a worker, and what it has started, when the last writer of its lifeline is gone: that reaches stopped
processes and games that never let go of the interpreter. Elsewhere a thread waits for the same event.

Windows: memory is a mapping that dies with its last handle, the link a named pipe, and the thread waits for the
parent's process handle; a game that holds the interpreter for ever outlives its parent there.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

_CHUNK = 1 << 16
_RING_CHUNK = 4096  # a larger buffer would be mapped and unmapped by malloc for every one-byte ring
_F_SETSIG = 10  # Linux; Python's fcntl has no name for it
_SEND_PATIENCE_SECONDS = 5
_MOST_SKIPPED = 8192


class SharedMemory(Protocol):
    """Memory that a vector env and its workers see."""

    def resize(self, byte_count: int) -> None: ...

    def map(self, byte_count: int) -> mmap.mmap: ...

    def close(self) -> None: ...


class NamelessFile:
    """Memory as a file without a name: nothing is left of it, however its processes end."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _make_nameless_file() if descriptor is None else descriptor

    def resize(self, byte_count: int) -> None:
        os.ftruncate(self.descriptor, byte_count)

    def map(self, byte_count: int) -> mmap.mmap:
        return mmap.mmap(self.descriptor, byte_count)

    def close(self) -> None:
        os.close(self.descriptor)


def _make_nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vector-env")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class NamedMapping:
    """Memory as a named mapping of Windows; it dies with its last handle."""

    def __init__(self, name: str, open_mapping: Callable[..., mmap.mmap] = mmap.mmap) -> None:
        self.name = name
        self._open = open_mapping
        self._memory: mmap.mmap | None = None

    def resize(self, byte_count: int) -> None:
        self._memory = self.map(byte_count)

    def map(self, byte_count: int) -> mmap.mmap:
        return self._open(-1, byte_count, tagname=self.name)

    def close(self) -> None:
        # Views into it may still be alive; the handle goes with the last of them.
        self._memory = None


def make_shared_memory() -> SharedMemory:
    """Memory for a new vector env; its size is set later."""
    if sys.platform == "win32":
        return NamedMapping(f"vector-env-{os.getpid()}-{os.urandom(8).hex()}")
    return NamelessFile()


class WorkerLink(Protocol):
    """One end of the link between a vector env and a worker."""

    def fileno(self) -> int: ...

    def send(self, data: bytes) -> None: ...

    def receive_now(self) -> bytes | None:
        """What has arrived: None if nothing has, empty if the other end is closed."""

    def receiver(self, spin_seconds: float = 0.0) -> Callable[[], bytes]:
        """A function that waits for bytes. The parent's end waits no longer than its patience; then it is a BlockingIOError.

        Args:
            spin_seconds: how long it polls before it sleeps, where the system allows it.
        """

    def close(self) -> None: ...


class SocketLink:
    """One end of a socket pair; the parent's end has a patience."""

    def __init__(self, end: socket.socket, patience_seconds: float | None = None) -> None:
        self._end = end
        self.send = end.sendall
        if patience_seconds is not None:
            _parents_ends.add(self)
            whole, part = divmod(patience_seconds, 1)
            # The kernel's own time limits cost nothing, where Python's would ask poll() before every read.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), int(part * 1e6)))
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_PATIENCE_SECONDS, 0))

    def fileno(self) -> int:
        return self._end.fileno()

    def receive_now(self) -> bytes | None:
        try:
            return self._end.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    def receiver(self, spin_seconds: float = 0.0) -> Callable[[], bytes]:
        receive = partial(self._end.recv, _RING_CHUNK)
        if not spin_seconds:
            return receive
        return _spin_first(receive, partial(self._end.recv, _RING_CHUNK, socket.MSG_DONTWAIT), spin_seconds)

    def close(self) -> None:
        self._end.close()


def _spin_first(receive: Callable[[], bytes], receive_now: Callable[[], bytes], seconds: float) -> Callable[[], bytes]:
    """Poll for some time before sleeping: to be woken by the kernel costs 10 to 20 us and leaves cold caches.

    After a vain or interrupted spin the next 16 calls sleep at once, after each further one twice as many; otherwise slow envs
    and busy neighbours would pay for it.
    """
    skip, length, clock = 0, 8, time.perf_counter

    def receive_after_spin() -> bytes:
        nonlocal skip, length
        if skip:
            skip -= 1
            return receive()
        end = clock() + seconds
        data = None
        while data is None and clock() < end:
            try:
                data = receive_now()
            except BlockingIOError:
                os.sched_yield()  # the other side may have been woken on our core
        if data is not None and clock() < end:
            length = max(8, length // 2)
            return data
        skip = length = min(2 * length, _MOST_SKIPPED)
        return receive() if data is None else data

    return receive_after_spin


class PipeLink:
    """One end of a named pipe of Windows, as multiprocessing makes them; it keeps messages whole."""

    def __init__(self, connection: Any, patience_seconds: float | None = None) -> None:
        self._connection = connection
        self._patience_seconds = patience_seconds
        self.send = connection.send_bytes

    def fileno(self) -> int:
        return int(self._connection.fileno())

    def receive_now(self) -> bytes | None:
        try:
            return self._connection.recv_bytes() if self._connection.poll(0) else None
        except (EOFError, OSError):
            return b""

    def receiver(self, spin_seconds: float = 0.0) -> Callable[[], bytes]:
        def receive() -> bytes:
            try:
                if not self._connection.poll(self._patience_seconds):
                    raise BlockingIOError
                return bytes(self._connection.recv_bytes())
            except EOFError:
                return b""

        return receive

    def close(self) -> None:
        self._connection.close()


def wait_readable(links: Iterable[WorkerLink], timeout_seconds: float) -> bool:
    """Whether one of the links has something to read, or is closed, now or within the time."""
    if sys.platform == "win32":
        return bool(importlib.import_module("multiprocessing.connection").wait(list(links), timeout_seconds))
    poller = select.poll()
    for link in links:
        poller.register(link.fileno(), select.POLLIN)
    return bool(poller.poll(max(0, int(timeout_seconds * 1000))))


_parents_ends: weakref.WeakSet[SocketLink | socket.socket] = weakref.WeakSet()
_lifelines: set[int] = set()


def _forget_in_child() -> None:
    """In a forked child, close what only the parent may hold; otherwise its death would go unnoticed."""
    for link in list(_parents_ends):
        link.close()
    for descriptor in list(_lifelines):
        close_lifeline(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def open_lifeline(parents_socket: socket.socket | None = None) -> tuple[int, int]:
    """A pipe nobody writes to: (the worker's end, the parent's end). The worker dies when the parent's end closes.

    Args:
        parents_socket: closed as well in a fork of this process.
    """
    if parents_socket is not None:
        _parents_ends.add(parents_socket)
    worker_end, parent_end = os.pipe()
    _lifelines.add(parent_end)
    return worker_end, parent_end


def close_lifeline(descriptor: int) -> None:
    """Let go of the worker; what is left of it and its process group is killed."""
    if descriptor in _lifelines:
        _lifelines.discard(descriptor)
        os.close(descriptor)


def die_with_lifeline(descriptor: int) -> None:
    """In a worker that leads its own process group: bind the group's life to the lifeline."""

    def die() -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if sys.platform == "linux":
        control = importlib.import_module("fcntl")
        control.fcntl(descriptor, control.F_SETOWN, -os.getpgrp())
        control.fcntl(descriptor, _F_SETSIG, signal.SIGKILL)
        control.fcntl(descriptor, control.F_SETFL, control.fcntl(descriptor, control.F_GETFL) | os.O_ASYNC)
        if select.select([descriptor], [], [], 0)[0]:
            die()  # the parent went before the signal was asked for, so that none will come
    else:
        start_watcher(lambda: os.read(descriptor, 1), die)


def die_with_process(parent_id: int, api: Any = None) -> None:
    """Windows: end this process when the parent has ended. `api` is the module _winapi."""
    api = api or importlib.import_module("_winapi")
    synchronize = 0x00100000
    handle = api.OpenProcess(synchronize, False, parent_id)
    start_watcher(lambda: api.WaitForSingleObject(handle, api.INFINITE), lambda: leave(1))


def start_watcher(wait: Callable[[], object], die: Callable[[], None]) -> threading.Thread:
    """Start a thread that waits, for the parent's end, and then ends this process."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            wait()
        die()

    thread = threading.Thread(target=watch, name="parent-watcher", daemon=True)
    thread.start()
    return thread


def wake_on_time() -> None:
    """Let this process sleep no longer than it asks for, where Linux adds 50 us; its children inherit that."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/timerslack_ns", "w", encoding="ascii") as file:
            file.write("1")


def leave(status: int) -> None:
    """End this process without running exit handlers that a fork may have inherited."""
    os._exit(status)
