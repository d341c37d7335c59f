"""Who may talk to the page: browsers that were pointed at it themselves. Everybody else is refused before anything is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_NAMES = ("127.0.0.1", "localhost")
_METHODS = ("GET", "HEAD")
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


class Gate:
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
        if not refusal:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            heads = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
            await send({"type": "http.response.start", "status": 403, "headers": heads})
            await send({"type": "http.response.body", "body": f"Refused: {refusal}\n".encode()})

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
    """Add what browsers have to heed to each answer."""
    ours = {name for name, _ in _HEADERS}

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
            message = {**message, "headers": [*theirs, *_HEADERS]}
        await send(message)

    return sending
