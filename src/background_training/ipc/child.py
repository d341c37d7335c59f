"""The one way to start a child process: a module of ours, JSON lines, a watchdog, and an end with all its descendants."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO, Any, BinaryIO, Protocol, cast

from background_training.ipc import process_group
from background_training.ipc.json_lines import Channel, Message
from background_training.ipc.process_group import ProcessGroup
from background_training.ipc.process_limits import limit_blas_threads
from background_training.ipc.supervision import ALIVE, LOOKS, Watchdog
from background_training.paths import CHILD_FOLDER, PACKAGE_PARENT

EXIT_SECONDS = 5.0
"""How long a child may take to exit after it has closed its output."""
_READER_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 0.02

_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _drop_pipes() -> None:
    """In a fork of this process, let go of all pipes; otherwise the children would not notice that this process has ended."""
    null = os.open(os.devnull, os.O_RDWR)
    for child in list(_children):
        child.drop_pipes(null)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_pipes)

Inbox = queue.SimpleQueue[tuple["Child", Message | None]]
"""Messages of one or several children; None: the child's output has ended."""


class PipedProcess(Protocol):
    """What is needed of subprocess.Popen with pipes at stdin and stdout."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


def start(
    module: str, arguments: Sequence[str] = (), *, stderr: IO[bytes] | int = subprocess.DEVNULL, own_group: bool = True
) -> subprocess.Popen[bytes]:
    """Start `python -m module` in an interpreter of its own, which loads nothing of the caller's main module.

    Args:
        own_group: see process_group.start_options.

    Raises:
        OSError: the machine can't start another process.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=CHILD_FOLDER,  # where "-m" looks first; the caller's folder may hold modules of the same names
        env=environment(),
        **process_group.start_options(own_group=own_group),
    )


def environment() -> dict[str, str]:
    """The environment of a child: our packages are found, as are the caller's; one BLAS thread; texts are UTF-8."""
    inherited = dict(os.environ)
    limit_blas_threads(inherited)
    # In the caller's order, so that a module of Python's own is never looked for in site-packages.
    paths = [*filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep)), *(entry or os.getcwd() for entry in sys.path)]
    paths.append(str(PACKAGE_PARENT))
    return {**inherited, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONIOENCODING": "utf-8"}


class Child:
    """A started child and the messages from it, which a thread reads.

    It promises: after `close` neither the child nor a process of its group is left; `receive` returns although a descendant
    keeps the child's output open; a child that is silent for too long is killed while somebody waits in `receive`.
    It does not promise to end a descendant that has left the child's group (POSIX), nor that a message sent was handled.

    Attributes:
        pid: of the child.
        hung: whether it was killed because it was silent.
        watchdog: fed by its messages and by `send`; `receive` looks at it, or the owner of a shared inbox.
    """

    def __init__(self, process: PipedProcess, *, own_group: bool = True, inbox: Inbox | None = None) -> None:
        """Take charge of a process.

        Args:
            process: with pipes at stdin and stdout.
            own_group: as it was started.
            inbox: where its messages are put, for an owner of several children; by default one of its own for `receive`.
        """
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self.hung = False
        self.watchdog = Watchdog()
        self._process = process
        self._group = ProcessGroup(process, own_group=own_group)
        self._channel = Channel(cast(BinaryIO, process.stdout), cast(BinaryIO, process.stdin))
        self._inbox: Inbox = queue.SimpleQueue() if inbox is None else inbox
        self._code: int | None = None
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="child-messages", daemon=True)
        self._reader.start()
        _children.add(self)

    def drop_pipes(self, null: int) -> None:
        """Put the null device in the place of the pipes. (Closing them could write what is buffered for a second time.)"""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):  # closed already
                os.dup2(null, stream.fileno())  # type: ignore[union-attr]

    def send(self, event: str, **facts: Any) -> None:
        """Send a message; one to a dead child is lost, and its end is noticed by `receive`."""
        self.watchdog.feed()
        self._channel.send(event, **facts)

    def receive(self, silence_seconds: float) -> Message | None:
        """Wait for the next message but heartbeats; None when the child has ended or closed its output.

        Args:
            silence_seconds: a child that is silent for longer is killed, and is `hung` from then on.
        """
        while True:
            try:
                return self._inbox.get(timeout=silence_seconds / LOOKS)[1]
            except queue.Empty:
                if self.exit_code is not None:
                    return None  # and a descendant keeps its output open
                if self.watchdog.has_expired(silence_seconds):
                    self.hung = True
                    self.kill()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal that killed it. When it has ended, its descendants are killed as well."""
        with self._lock:
            if self._code is None and process_group.has_exited(self._process):
                self._group.kill()
                self._code = self._process.wait()
            return self._code

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit code, or None if it still runs after that time."""
        end = time.monotonic() + timeout_seconds
        pause = 0.001
        while (code := self.exit_code) is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return code

    def kill(self) -> None:
        """Kill it and its descendants, and end a `receive`; from any thread."""
        with self._lock:
            if self._code is None:
                self._group.kill()
        self._inbox.put((self, None))  # a descendant that escapes may keep the output open

    def close(self, *, exit_seconds: float = 0.0) -> int:
        """End it, by force unless it exits by itself in time, and let go of its pipes; its exit code."""
        code = self.wait(exit_seconds)
        while code is None:
            self.kill()
            code = self.wait(EXIT_SECONDS)
        self._reader.join(_READER_SECONDS)
        if not self._reader.is_alive():  # otherwise a descendant keeps the pipe open, and closing would wait for it
            self._channel.close()
        self._group.close()
        return code

    def _read(self) -> None:
        while (message := self._channel.receive()) is not None:
            self.watchdog.feed()
            if message["event"] != ALIVE:
                self._inbox.put((self, message))
        self._inbox.put((self, None))
