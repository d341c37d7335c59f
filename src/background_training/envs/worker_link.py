"""The link between a vector env and a worker: how bytes travel, what they mean, and that the worker dies with its parent.

A step whose actions and results all lie in shared memory needs a one-byte ring in each direction. Anything with content is a
frame: mark, length, checksum, pickle. A print or a faulty game that writes into the pipe is detected by mark or checksum.

POSIX: the link is a socket pair, inherited by number. On Linux the kernel itself kills a worker, and what it has started, when
the last writer of its lifeline is gone: that reaches stopped processes and games that never release the interpreter. Elsewhere
a thread waits for the same event.

Windows: the link is a named pipe. The worker's job object ends with the parent's last handle; a thread that waits for the
parent's process handle does the same where there is no job object.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import cloudpickle

from background_training.errors import GarbledMessageError

RING = b"\x81"
"""Read the shared memory. It may come late or twice, and means nothing by itself."""

_MARK = 0xF5
_HEADER = struct.Struct(">BII")
_LONGEST = 1 << 30


def pack(message: object) -> bytes:
    """Make a frame. What pickle can't take (lambdas, classes of a script) goes by value."""
    try:
        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):
        payload = cloudpickle.dumps(message)
    return _HEADER.pack(_MARK, len(payload), zlib.crc32(payload)) + payload


class FrameReader:
    """Cuts a stream of bytes into messages, and drops the rings between them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Take what arrived and return what is complete.

        Raises:
            GarbledMessageError: the bytes are neither ring nor frame, or a frame's checksum is wrong.
        """
        self._bytes += data
        items: list[Any] = []
        while self._bytes:
            first = self._bytes[0]
            if first == RING[0]:
                del self._bytes[:1]
                continue
            if first != _MARK:
                raise GarbledMessageError(f"a frame begins with {bytes(self._bytes[:16])!r}")
            payload = self._whole_payload()
            if payload is None:
                break
            items.append(_unpack(payload))
        return items

    def _whole_payload(self) -> bytes | None:
        if len(self._bytes) < _HEADER.size:
            return None
        _, length, checksum = _HEADER.unpack_from(self._bytes)
        if length > _LONGEST:
            raise GarbledMessageError(f"a frame claims {length} bytes")
        end = _HEADER.size + length
        if len(self._bytes) < end:
            return None
        payload = bytes(self._bytes[_HEADER.size : end])
        del self._bytes[:end]
        if zlib.crc32(payload) != checksum:
            raise GarbledMessageError(f"the checksum of a frame of {length} bytes is wrong")
        return payload


def _unpack(payload: bytes) -> Any:
    # The checksum was right, so this is what the worker sent; but its classes may not exist here.
    try:
        return pickle.loads(payload)
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError, TypeError) as error:
        raise GarbledMessageError(f"a message can't be unpickled ({type(error).__name__}: {error})") from error


_CHUNK = 1 << 16
_RING_CHUNK = 4096  # a larger buffer would be mapped and unmapped by malloc for every one-byte ring
_F_SETSIG = 10  # Linux; Python's fcntl has no name for it
_SEND_PATIENCE_SECONDS = 5
_MOST_SKIPPED = 8192


class WorkerLink(Protocol):
    """One end of the link between a vector env and a worker."""

    def fileno(self) -> int: ...

    def send(self, data: bytes) -> None: ...

    def receive_now(self) -> bytes | None:
        """What has arrived; None if nothing has; empty if the other end is closed."""

    def receiver(self, spin_seconds: float = 0.0) -> Callable[[], bytes]:
        """A function that waits for bytes. The parent's end waits for its patience at most, then raises BlockingIOError.

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
    """In a forked child, close what only the parent may hold; otherwise the parent's death would go unnoticed."""
    for link in list(_parents_ends):
        link.close()
    for descriptor in list(_lifelines):
        close_lifeline(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def open_lifeline(parents_socket: socket.socket | None = None) -> tuple[int, int]:
    """A pipe that is never written to: (the worker's end, the parent's end). The worker dies when the parent's end closes.

    Args:
        parents_socket: closed as well in a fork of this process.
    """
    if parents_socket is not None:
        _parents_ends.add(parents_socket)
    worker_end, parent_end = os.pipe()
    _lifelines.add(parent_end)
    return worker_end, parent_end


def close_lifeline(descriptor: int) -> None:
    """Close the parent's end; what is left of the worker and its process group is killed."""
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
            die()  # the parent ended before the signal was asked for, so that none will come
    else:
        start_watcher(lambda: os.read(descriptor, 1), die)


def die_with_process(parent_id: int, api: Any = None) -> None:
    """Windows: end this process when the parent has ended. `api` is the module _winapi."""
    api = api or importlib.import_module("_winapi")
    synchronize = 0x00100000
    handle = api.OpenProcess(synchronize, False, parent_id)
    start_watcher(lambda: api.WaitForSingleObject(handle, api.INFINITE), lambda: exit_now(1))


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


def exit_now(status: int) -> None:
    """End this process without running exit handlers that a fork may have inherited."""
    os._exit(status)
