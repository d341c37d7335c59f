"""Clients that send half of what they should, or nothing, keep nobody else from the page, and do not stay."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import web_pages
from conftest import PATIENCE_SECONDS, wait_until

pytest.importorskip("uvicorn", reason="uvicorn (extra web) is not installed")

from background_training.monitor.web import listener
from background_training.monitor.web.listener import Server

pytestmark = pytest.mark.slow  # real processes

ANSWERED_WITHIN_SECONDS = 1.0
MANY = 80
LIMIT_SECONDS = 0.3

HEADS = "Host: 127.0.0.1:PORT\r\nOrigin: http://127.0.0.1:PORT\r\n"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CHANNEL = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket&implicit_handshake=false"
HALF = {
    "nothing": "",
    "half a line": "GET / HT",
    "half the headers": f"GET / HTTP/1.1\r\n{HEADS}",
    "half the body": f"GET / HTTP/1.1\r\n{HEADS}Content-Length: 1000\r\n\r\nx",
    "half the body of a POST": f"POST / HTTP/1.1\r\n{HEADS}Content-Length: 1000\r\n\r\nx",
    "half a chunk": f"GET / HTTP/1.1\r\n{HEADS}Transfer-Encoding: chunked\r\n\r\n3e8\r\nx",
    "half a websocket handshake": f"GET {CHANNEL} HTTP/1.1\r\n{HEADS}{UPGRADE}",
    "a websocket that says nothing": f"GET {CHANNEL} HTTP/1.1\r\n{HEADS}{UPGRADE}\r\n",
    "a request, and then nothing": f"GET /favicon.ico HTTP/1.1\r\n{HEADS}\r\n",
}
WEBSOCKET = "a websocket that says nothing"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real page's server."""
    with web_pages.server(tmp_path_factory.mktemp("a root")) as running:
        yield running.port


@contextlib.contextmanager
def _clients(port: int, text: str, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS))
            client.sendall(text.replace("PORT", str(port)).encode())
            opened.append(client)
        yield opened


def _ask(port: int) -> tuple[int, float]:
    """Status of the page, and how long it took."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.monotonic() - begun
    finally:
        connection.close()


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("count", [MANY, 3 * MANY])
def test_others_are_answered_at_once(page: int, kind: str, count: int) -> None:
    """Whoever sends a whole request gets the page within a second, beside 80 that do not, and beside more than are kept."""
    with _clients(page, HALF[kind], count):
        asked = [_ask(page) for _ in range(3)]
    assert [status for status, _ in asked] == [200, 200, 200]
    # A machine that is busy with other tests may be late once, but not each time.
    assert min(seconds for _, seconds in asked) < ANSWERED_WITHIN_SECONDS


def test_a_new_websocket_is_opened_beside_many_silent_ones(page: int) -> None:
    """A page that is opened now takes the place of a websocket on which nothing was ever said."""
    with _clients(page, HALF[WEBSOCKET], 3 * listener.MOST_WEBSOCKETS), _clients(page, HALF[WEBSOCKET], 1) as (newest,):
        assert b" 101 " in newest.recv(1000)


# The time limits, on a small application


@contextlib.contextmanager
def _serving(application: Any) -> Iterator[int]:
    started = threading.Event()
    with listener.bound(0) as listening:
        server = Server(application, started.set)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        try:
            assert started.wait(PATIENCE_SECONDS)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)


async def _greeting(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers everything, and a websocket with what it says."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"hi"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _endless(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """An answer that is longer than any buffer; to a client that is gone nothing more is sent."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": number < 999})


def _is_closed(client: socket.socket) -> bool:
    """Whether the server has closed it; reads what it has sent."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUEST_SECONDS", "ANSWER_SECONDS", "GREETING_SECONDS"):
        monkeypatch.setattr(listener, name, LIMIT_SECONDS)


@pytest.mark.parametrize("kind", HALF)
def test_who_does_not_go_on_is_closed(short_limits: None, kind: str) -> None:
    """Each kind of half-sent request has a time limit, after which its connection is gone."""
    with _serving(_greeting) as port, _clients(port, HALF[kind], 3) as clients:
        for client in clients:
            wait_until(lambda client=client: _is_closed(client))


@pytest.mark.parametrize("kind", ["half the headers", "half the body", "half a websocket handshake"])
def test_a_byte_now_and_then_does_not_help(short_limits: None, kind: str) -> None:
    """The limit is for the whole request: who sends it byte by byte is closed all the same."""
    with _serving(_greeting) as port, _clients(port, HALF[kind], 1) as (client,):
        begun = time.monotonic()

        def closed() -> bool:
            with contextlib.suppress(OSError):
                client.send(b"x")
            return _is_closed(client)

        wait_until(closed)
        assert time.monotonic() - begun >= LIMIT_SECONDS / 2


def test_who_does_not_read_is_closed(short_limits: None) -> None:
    """An answer that nobody takes is given up, so that it holds neither the connection nor what was to be sent."""
    with _serving(_endless) as port, _clients(port, HALF["a request, and then nothing"], 1) as (client,):
        rest_until = time.monotonic() + 3 * LIMIT_SECONDS
        wait_until(lambda: time.monotonic() > rest_until)
        wait_until(lambda: _is_closed(client))


def test_requests_one_after_the_other_have_a_limit_each(short_limits: None) -> None:
    """A connection on which requests keep coming lives longer than any of its limits."""
    with _serving(_greeting) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        connection.connect()
        own = connection.sock
        begun = time.monotonic()
        while time.monotonic() - begun < 3 * LIMIT_SECONDS:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hi" and connection.sock is own
        connection.close()


def test_the_oldest_half_sent_request_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many, the one that has waited longest is closed; those after it, and one that is being answered, stay."""
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 3)
    with _serving(_endless) as port, _clients(port, HALF["a request, and then nothing"], 1) as (reading,):
        assert reading.recv(10)
        with _clients(port, HALF["half the headers"], 3) as (oldest, second, third):
            wait_until(lambda: _is_closed(oldest))
            assert not _is_closed(second) and not _is_closed(third)
        assert reading.recv(10)


def test_a_websocket_that_spoke_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that are open have spoken, a further one is refused; a page that somebody looks at is not thrown out."""
    monkeypatch.setattr(listener, "MOST_WEBSOCKETS", 2)
    frame = b"\x82\x81\x00\x00\x00\x00A"  # a masked binary message of one letter
    with _serving(_greeting) as port, _clients(port, HALF[WEBSOCKET], 2) as spoken:
        for client in spoken:
            assert b" 101 " in client.recv(1000)
            client.sendall(frame)
            assert client.recv(100) == b"\x82\x01A"
        with _clients(port, HALF[WEBSOCKET], 1) as (further,):
            wait_until(lambda: _is_closed(further))
        for client in spoken:
            client.setblocking(True)
            client.sendall(frame)
            assert client.recv(100) == b"\x82\x01A"


def test_polling_is_refused(page: int) -> None:
    """The websocket's other way, long polls, would hold a connection for half a minute each; the page never uses it."""
    connection = http.client.HTTPConnection("127.0.0.1", page, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/_nicegui_ws/socket.io/?EIO=4&transport=polling")
    answer = connection.getresponse()
    assert answer.status == 403 and b"over a websocket only" in answer.read()
    connection.close()
