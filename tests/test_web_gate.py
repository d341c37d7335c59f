"""Nobody but a browser of this machine that was pointed at the page itself gets an answer from it."""

from __future__ import annotations

import base64
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import web_pages
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS

from background_training.monitor.web.listener import RequestFilter

pytestmark = pytest.mark.slow  # real processes

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket&implicit_handshake=false"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[web_pages.Server]:
    with web_pages.server(tmp_path_factory.mktemp("a root")) as running:
        yield running


def _asked(server: web_pages.Server, *lines: str, method: str = "GET", path: str = "/") -> tuple[int, bytes]:
    """Status and body of a request with exactly these header lines; PORT stands for the server's port."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for line in lines:
            name, _, value = line.replace("PORT", str(server.port)).partition(": ")
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _upgrade(*lines: str) -> list[str]:
    key = base64.b64encode(os.urandom(16)).decode()
    return [*lines, "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: 127.0.0.1:PORT"],
        ["Host: localhost:PORT"],
        ["Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT", "Sec-Fetch-Site: same-origin"],
        ["Host: LocalHost:PORT", "Sec-Fetch-Site: none"],
    ],
)
def test_the_page_is_served_to_who_asks_for_it(server: web_pages.Server, lines: list[str]) -> None:
    """Under both names of this machine; and browsers are told what the page may load, and that none may frame it."""
    status, body = _asked(server, *lines)
    assert status == 200 and b"Background Training" in body


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["Host: evil.example"], "the Host header"),
        (["Host: evil.example:PORT"], "the Host header"),
        (["Host: 127.0.0.1"], "the Host header"),
        (["Host: 127.0.0.1:1"], "the Host header"),
        (["Host: 127.0.0.1.evil.example:PORT"], "the Host header"),
        (["Host: user@127.0.0.1:PORT"], "the Host header"),
        (["Host: 127.0.0.1:PORT", "Origin: http://evil.example"], "another site"),
        (["Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:1"], "another site"),
        (["Host: 127.0.0.1:PORT", "Origin: http://localhost:PORT"], "another site"),
        (["Host: 127.0.0.1:PORT", "Origin: https://127.0.0.1:PORT"], "another site"),
        (["Host: 127.0.0.1:PORT", "Origin: null"], "another site"),
        (["Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT", "Origin: http://evil.example"], "another site"),
        (["Host: 127.0.0.1:PORT", "Sec-Fetch-Site: cross-site"], "another site"),
        (["Host: 127.0.0.1:PORT", "Sec-Fetch-Site: same-site"], "another site"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"])
def test_others_are_refused(server: web_pages.Server, lines: list[str], why: str, path: str) -> None:
    """A name that was made to lead here, and a page of another site, get nothing of what the monitor knows."""
    status, body = _asked(server, *lines, path=path)
    assert status == 403
    assert body.startswith(b"Refused: ") and why.encode() in body and len(body) < 200


@pytest.mark.parametrize("path", ["/nothing", "/index.html", "//", "/a/../b", "/.env"])
def test_an_unknown_path_costs_no_page(server: web_pages.Server, path: str) -> None:
    """404 in one line of text, not a whole page."""
    status, body = _asked(server, "Host: 127.0.0.1:PORT", path=path)
    assert status == 404 and len(body) < 100


@pytest.mark.parametrize("lines", [[], ["Host: 127.0.0.1:PORT", "Host: evil.example"]])
def test_a_request_needs_one_host(server: web_pages.Server, lines: list[str]) -> None:
    """Without a Host, or with two, nobody can tell what was meant."""
    assert _asked(server, *lines)[0] in (400, 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"])
def test_there_is_nothing_to_post_to(server: web_pages.Server, method: str, path: str) -> None:
    """The page is read; what changes anything comes through its websocket."""
    assert _asked(server, "Host: 127.0.0.1:PORT", "Content-Length: 0", method=method, path=path)[0] == 403


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT"], 101),
        (["Host: 127.0.0.1:PORT"], 403),
        (["Host: 127.0.0.1:PORT", "Origin: http://evil.example"], 403),
        (["Host: 127.0.0.1:PORT", "Origin: null"], 403),
        (["Host: evil.example:PORT", "Origin: http://evil.example:PORT"], 403),
        (["Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT", "Sec-Fetch-Site: cross-site"], 403),
    ],
)
def test_websockets_are_for_the_page_only(server: web_pages.Server, lines: list[str], status: int) -> None:
    """Browsers let any page open a websocket to anywhere; only the Origin tells which page it was."""
    assert _asked_for_socket(server, _upgrade(*lines)) == status


def _asked_for_socket(server: web_pages.Server, lines: list[str]) -> int:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(_request(server, lines))
        return int(connection.recv(1000).split()[1])


def _request(server: web_pages.Server, lines: list[str]) -> bytes:
    text = "".join(f"{line}\r\n" for line in [f"GET {SOCKET} HTTP/1.1", *lines, ""])
    return text.replace("PORT", str(server.port)).encode()


def test_browsers_are_told_what_they_may_do(server: web_pages.Server) -> None:
    """Even if a hostile text became part of the page, it could load nothing and send nothing elsewhere."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/")
    heads = connection.getresponse().headers
    connection.close()
    policy = dict(rule.strip().split(" ", 1) for rule in heads["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["object-src"] == "'none'"
    assert "http" not in heads["content-security-policy"]
    assert (heads["x-frame-options"], heads["x-content-type-options"]) == ("DENY", "nosniff")


def test_it_listens_on_this_machine_only(server: web_pages.Server) -> None:
    """No other address of this machine leads to it, whatever its networks are."""
    other = "127.0.0.2" if sys.platform == "linux" else socket.gethostbyname(socket.gethostname())
    if other == "127.0.0.1":
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((other, server.port), timeout=2).close()


def test_a_port_in_use_is_told_in_one_line(server: web_pages.Server, root: Path) -> None:
    """Exit code 5, and what to do."""
    command = [sys.executable, str(web_pages.SCRIPT), "--web", "--port", str(server.port), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 5
    assert done.stderr.startswith(f"[ERROR] opening port {server.port}: ") and "--port names another one" in done.stderr
    assert done.stderr.count("\n") == 1


def test_port_80_needs_no_number() -> None:
    """Browsers leave the usual port out of Host and Origin."""

    async def nothing(*_: object) -> None:
        raise AssertionError("not to be called")

    gate = RequestFilter(nothing, 80)
    scope = {"type": "http", "method": "GET", "headers": [(b"Host", b"localhost"), (b"Origin", b"http://localhost")]}
    assert gate.refusal_of(scope) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_with_a_page_open_and_leaves_nothing(root: Path, number: int) -> None:
    """Within seconds, in good order and without a complaint; and the root is as it was."""
    with web_pages.server(root, ends_by=number) as running:
        connection = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_SECONDS)
        lines = _upgrade("Host: 127.0.0.1:PORT", "Origin: http://127.0.0.1:PORT")
        connection.sendall(_request(running, lines))
        assert b" 101 " in connection.recv(1000)
        ended = time.monotonic()
    assert time.monotonic() - ended < PROMPT_SECONDS
    connection.close()
    assert list(root.iterdir()) == []
