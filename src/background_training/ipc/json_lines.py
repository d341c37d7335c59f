"""Messages between a process and its child: one JSON object a line, {"event": kind, further facts}."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

Message = dict[str, Any]


class Send(Protocol):
    """How a worker reports: the kind of an event and its facts, which must fit into JSON."""

    def __call__(self, event: str, **facts: Any) -> None: ...


class Channel:
    """Two byte streams as a stream of messages in each direction.

    Any thread may send; one thread receives. A lost peer is no error of the sender's: the receiving side notices it.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()

    def send(self, event: str, **facts: Any) -> None:
        """Send a message; one to a process that is gone is lost."""
        line = json.dumps({"event": event, **facts}, separators=(",", ":")).encode() + b"\n"
        # ValueError: the stream is closed.
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._outgoing.write(line)
            self._outgoing.flush()

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other process has closed its end or is gone.

        A line that is no message is skipped: what a library has printed, or the torn last line of a killed process.
        """
        with contextlib.suppress(OSError, ValueError):
            while line := self._incoming.readline():
                if (message := _parse(line)) is not None:
                    return message
        return None

    def listen(self, handle: Callable[[Message], None], at_end: Callable[[], None]) -> None:
        """Handle each message in a daemon thread of this channel; call `at_end` when there will be no more."""

        def run() -> None:
            while (message := self.receive()) is not None:
                handle(message)
            at_end()

        threading.Thread(target=run, name="parent-channel", daemon=True).start()

    def close(self) -> None:
        """Close both streams; what could not be written has lost its reader."""
        for stream in (self._outgoing, self._incoming):
            with contextlib.suppress(OSError):
                stream.close()


def parent_channel() -> Channel:
    """The child's end of the channel to its parent: this process's stdin and stdout.

    From now on stdout, in Python and below, leads to stderr; otherwise the prints of a library would mix with messages.
    """
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return Channel(sys.stdin.buffer, outgoing)


def exit_at_once() -> None:
    """End this process from any thread, whatever the others are doing: for children whose work may be cut short anywhere."""
    os._exit(0)


def _parse(line: bytes) -> Message | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("event"), str) else None
