"""Listens on this machine for the page: uvicorn, with limits on how long a connection may take and how many there may be.

All that talk to the page have one address, 127.0.0.1, so that a bound per address would be a bound on everybody together. What
tells one client from another is the connection. So each connection has a time limit for each thing it has to do, and when there
are too many, the one that has kept the page waiting for longest is closed: a client that sends its request at once is never it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto import events

from background_training.errors import MachineError
from background_training.monitor.web.gate import Application

ADDRESS = "127.0.0.1"
MOST_CONNECTIONS, MOST_WEBSOCKETS = 100, 40
"""An open page holds one websocket, and some HTTP connections while it loads. Both together are fewer than the 256 files that
macOS lets a process open."""
REQUEST_SECONDS = 10.0
"""For a whole request, headers and body, from the connection's beginning or from the answer before on."""
ANSWER_SECONDS = 60.0
"""For taking a whole answer. A browser on a machine that is busy may be slow; whoever reads nothing at all is not."""
GREETING_SECONDS = 10.0
"""For the first message on a websocket, which the page's script sends as soon as it is open."""
_CLOSING_SECONDS = 1


class Server(uvicorn.Server):
    """Serves an application; says that it has started once it has, and ends in good order also by a Ctrl+C before that."""

    def __init__(self, application: Application, has_started: Callable[[], None]) -> None:
        # No log of requests: what is wrong is shown on the page, or ends the command. No limit_concurrency either: it counts
        # connections that have sent nothing, and answers everybody else with 503 because of them.
        config = uvicorn.Config(
            application,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            loop="asyncio",
            http=BoundedHttp,
            ws=BoundedWebsocket,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        super().__init__(config)
        self._has_started = has_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.should_exit:
            await self.shutdown(sockets=sockets)
        else:
            self._has_started()


def bound(port: int) -> socket.socket:
    """A socket that listens on a port of this machine only; 0 for any port that is free.

    Raises:
        MachineError: the port can't be had.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        cause = f"{error}; is another monitor at work there? --port names another one (0: any that is free)"
        raise MachineError(f"opening port {port}", cause) from error
    return listening


class BoundedHttp(H11Protocol):
    """An HTTP connection with a time limit for each request and each answer, whatever it sends meanwhile."""

    since = 0.0
    """When the present wait began, by the loop's clock."""
    answered: RequestResponseCycle | None = None
    """What is being answered; None while (the rest of) a request is waited for."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        others = _open(self.connections, BoundedHttp)
        super().connection_made(transport)
        self._wait(REQUEST_SECONDS)
        if len(others) >= MOST_CONNECTIONS:
            # Those that have sent no whole request go before those that are being answered.
            min(others, key=lambda other: (other.answered is not None, other.since)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_phase()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def _note_phase(self) -> None:
        """Restart the time limit when a whole request has come, or its answer is complete; never for a piece of either."""
        cycle: RequestResponseCycle | None = self.cycle
        in_progress = cycle is not None and not cycle.response_complete and not cycle.more_body
        answered = cycle if in_progress else None
        if answered is not self.answered:
            self.answered = answered
            self._wait(REQUEST_SECONDS if answered is None else ANSWER_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self.since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedWebsocket(WSProtocol):
    """A websocket that has to say something soon. Of too many, a silent one is closed, or else the new one is."""

    since = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing has come on it yet."""
        return self._timer is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        others = _open(self.connections, BoundedWebsocket)
        super().connection_made(transport)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(GREETING_SECONDS, transport.abort)
        if len(others) >= MOST_WEBSOCKETS:
            silent = [other for other in others if other.silent]
            min(silent or [self], key=lambda other: other.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        super().connection_lost(exc)

    def handle_message(self, event: events.TextMessage | events.BytesMessage) -> None:
        self._heard()
        super().handle_message(event)

    def _heard(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_Protocol = TypeVar("_Protocol", BoundedHttp, BoundedWebsocket)


def _open(connections: Iterable[Any], kind: type[_Protocol]) -> list[_Protocol]:
    """Connections of a kind that are not being closed already."""
    return [one for one in connections if isinstance(one, kind) and not one.transport.is_closing()]
