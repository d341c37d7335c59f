"""Listens on this machine for the page: uvicorn, with a filter for requests, time limits and a bound on connections."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto import events

from background_training.errors import MachineError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_NAMES = ("127.0.0.1", "localhost")
_METHODS = ("GET", "HEAD")
_PAGES = ("/", "/favicon.ico")
_LIBRARY = "/_nicegui"
"""Prefix of the scripts, styles and the websocket of NiceGUI."""
_OWN_SITE = ("same-origin", "none")
_CHANNEL = "/_nicegui_ws/"
"""Where the page's websocket is. Over plain HTTP it would hold a connection for half a minute at each poll."""

# The library compiles its templates in the browser, hence "unsafe-eval". Nothing may be loaded from, or sent to, anywhere else.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class RequestFilter:
    """An ASGI application around another one.

    It promises that no page of another site, no name that was made to lead here (DNS rebinding) and no frame around
    the page reaches the application. It does not keep out other programs and users of this machine: they can send
    what headers they like. They see what the page shows; to pause the learner they need the token, too.

    Attributes:
        app: the application within.
    """

    def __init__(self, app: Application, port: int) -> None:
        self.app = app
        self._hosts = {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or websocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal_of(scope)
        is_known = scope.get("path") in _PAGES or scope.get("path", "").startswith(_LIBRARY)
        if not refusal and (is_known or scope["type"] == "websocket"):
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            # An unknown path is answered here: the library would build a whole page for it.
            status, text = (403, f"Refused: {refusal}") if refusal else (404, "There is only one page: /")
            heads = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
            await send({"type": "http.response.start", "status": status, "headers": heads})
            await send({"type": "http.response.body", "body": f"{text}\n".encode()})

    def refusal_of(self, scope: Mapping[str, Any]) -> str:
        """Why a request is refused; "" for one that may pass.

        Browsers say in Host which name they were given, in Origin and Sec-Fetch-Site which site asks. A page elsewhere
        can forge none of them.
        """
        given: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value.decode("latin-1"))
        hosts, origins = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return "the Host header names another machine than this page is for"
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return "another site asks"
        if any(site not in _OWN_SITE for site in given.get(b"sec-fetch-site", [])):
            return "another site asks; type the address into the browser yourself"
        if scope["type"] == "websocket":
            return "" if len(origins) == 1 else "a websocket needs an Origin header"
        # Otherwise a page would be built for each of many requests whose bodies never come.
        if given.get(b"transfer-encoding") or any(length.strip() != "0" for length in given.get(b"content-length", [])):
            return "a request for this page has no body"
        if scope.get("path", "").startswith(_CHANNEL):
            return "the page and its script talk over a websocket only"
        return "" if scope["method"] in _METHODS else f"{scope['method']} is not for this page, which is only read"


def _with_headers(send: Send) -> Send:
    """Add the security headers to each response."""
    ours = {name for name, _ in _HEADERS}

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
            message = {**message, "headers": [*theirs, *_HEADERS]}
        await send(message)

    return sending


ADDRESS = "127.0.0.1"
MOST_CONNECTIONS, MOST_WEBSOCKETS = 100, 40
"""An open page holds one websocket, and some HTTP connections while it loads. Both together are fewer than the 256 files that
macOS lets a process open."""
REQUEST_SECONDS = 10.0
"""For a whole request, headers and body, from the connection's beginning or from the answer before on."""
ANSWER_SECONDS = 60.0
"""For taking a whole answer. A browser on a busy machine may be slow, but reads something."""
GREETING_SECONDS = 10.0
"""For the first message on a websocket, which the page's script sends as soon as it is open."""
_CLOSING_SECONDS = 1


class Server(uvicorn.Server):
    """Serves an application; reports when it has started, and shuts down cleanly also on a Ctrl+C before that."""

    def __init__(self, application: Application, has_started: Callable[[], None]) -> None:
        # No access log: errors are shown on the page or end the command. No limit_concurrency either: it counts
        # idle connections too, and would answer real ones with 503 because of them.
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
    """A websocket with a time limit for its first message. At the limit, a silent one is closed, or else the new one."""

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
        self._stop_timer()
        super().connection_lost(exc)

    def handle_message(self, event: events.TextMessage | events.BytesMessage) -> None:
        self._stop_timer()
        super().handle_message(event)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_Protocol = TypeVar("_Protocol", BoundedHttp, BoundedWebsocket)


def _open(connections: Iterable[Any], kind: type[_Protocol]) -> list[_Protocol]:
    """Connections of a kind that are not being closed already."""
    return [one for one in connections if isinstance(one, kind) and not one.transport.is_closing()]
