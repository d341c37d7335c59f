"""What a person sees in a real browser: it comes by itself, stays quiet, and runs nothing that a file says."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import learner_runs
import numpy as np
import pytest
import web_pages
from conftest import PATIENCE_SECONDS

from background_training.paths import Paths
from background_training.records import ledger_lines, pause_file

pytestmark = pytest.mark.slow  # real processes

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{7*7}}"
SECONDS = 2.0
"""Within so many seconds a batch has to be on the page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with web_pages.chromium() as running:
        yield running


@contextlib.contextmanager
def _page(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own, on which nothing was complained of, and that asked this machine only."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_SECONDS)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else complaints.append(asked.url))
    page.on("requestfailed", lambda asked: complaints.append(f"failed: {asked.url}"))
    try:
        page.goto(address)
        page.wait_for_selector(".bt-tile", timeout=1000 * PATIENCE_SECONDS)
        yield page
        assert complaints == []
    finally:
        context.close()


def _play(paths: Paths, count: int, **meta: Any) -> None:
    for _ in range(count):
        episode = {"states": [[0.0, 1.0]] * 5, "actions": [0, 1, 0, 1, 0], "rewards": [1.0] * 5}
        name = f"game_{time.time_ns()}.npz"
        np.savez(paths.buffer / name, **episode, meta=np.array(json.dumps(meta)), episode_id=np.array(name))


def _tile(label: str) -> str:
    return f'.bt-tile:has(.label:text-is("{label}")) .value'


def test_a_new_batch_appears_by_itself(browser: Any, paths: Paths) -> None:
    """Trained by a real learner, it is on the open page within two seconds of that learner's end, without a reload."""
    with web_pages.server(paths.root) as server, _page(browser, server.address) as page:
        assert page.inner_text(_tile("Games trained")) == "-"
        took = []
        # A machine that is busy with other tests may be late now and then, but not each time.
        while not took or (took[-1] > SECONDS and len(took) < 10):
            _play(paths, 2)
            assert learner_runs.command(paths.root, "--drain", "--quiet").returncode == 0
            ended, games = time.monotonic(), f"{2 * len(took) + 2}"
            page.wait_for_selector(f'{_tile("Games trained")}:text-is("{games}")', timeout=1000 * PATIENCE_SECONDS)
            took.append(time.monotonic() - ended)
        assert min(took) <= SECONDS
        assert page.inner_text(_tile("Version")) == f"{len(took)}"
        curve = page.locator("#curve svg path").count()
        page.click('#curve button:has-text("200")')
        page.wait_for_selector('#curve svg text:text-is("mean of the last 200 games")')
        assert curve > 0 and page.locator("#curve svg path").count() > 0
        assert "Batch Training Complete" in page.inner_text("#log")


def test_hostile_texts_are_shown_and_never_run(browser: Any, paths: Paths) -> None:
    """Names, reasons, log lines and errors come from files that anybody may have written."""
    line = {"seq": 1, "sha256": "0" * 64, "name": f"{HOSTILE}.npz", "fate": "rejected", "reason": f"has {HOSTILE} [odd]"}
    paths.ledger.write_bytes(ledger_lines.encode([line]))
    paths.training_log.write_text(f"{HOSTILE}\n", encoding="utf-8")
    stats = {"last_error": HOSTILE, "governor": HOSTILE, "model_version": HOSTILE, "errors": HOSTILE}
    paths.status.write_text(json.dumps({"schema": 1, "state": HOSTILE, "updated_at": time.time(), "stats": stats}))
    paths.build_orders.write_text(json.dumps({"summary": HOSTILE}))
    _play(paths, 1, opponent="<img src=x onerror=a()>", map="<b>map", result="win")
    learner_runs.drain(paths.root)
    paths.status.write_text(json.dumps({"schema": 1, "state": HOSTILE, "updated_at": time.time(), "stats": stats}))
    paths.training_log.write_text(f"{HOSTILE}\n", encoding="utf-8")

    with web_pages.server(paths.root) as server, _page(browser, server.address) as page:
        page.fill("#search input", "npz")
        page.keyboard.press("Enter")
        page.wait_for_selector('#search .bt-found:has-text("rejected")')
        page.wait_for_function("text => document.querySelector('main').innerText.split(text).length > 7", arg=HOSTILE)
        page.wait_for_selector("#opponents svg text")
        page.wait_for_selector("#maps svg text")
        shown = page.locator("#opponents svg text, #maps svg text").all_text_contents()
        assert {"<img src=x onerror=a()>", "<b>map"} <= set(shown)
        assert page.title() == "Background Training"
        assert page.locator("main img, main script").count() == 0


def test_the_learner_is_paused_and_resumed_by_who_knows_the_token(browser: Any, paths: Paths) -> None:
    """A wrong token does nothing and says so; the right one is asked for once; the page shows a pause whoever made it."""
    pressed = ".bt-head .bt-pause"
    with web_pages.server(paths.root) as server, _page(browser, server.address) as page:
        page.click(f'{pressed}:has-text("Pause")')
        page.fill(".bt-token input", "guessed")
        page.keyboard.press("Enter")
        page.wait_for_selector('.bt-token:has-text("Wrong token")')
        assert not paths.paused.exists()
        page.fill(".bt-token input", server.token)
        page.keyboard.press("Enter")
        page.wait_for_selector(f'{pressed}:has-text("Resume")')
        page.wait_for_selector('.bt-advice:has-text("Training is paused")')
        assert pause_file.read(paths) is not None
        page.wait_for_selector(".bt-token", state="hidden")
        page.click(pressed)
        page.wait_for_selector(f'{pressed}:has-text("Pause")')
        assert pause_file.read(paths) is None
        assert server.token not in page.content()
        pause_file.pause(paths)
        page.wait_for_selector(f'{pressed}:has-text("Resume")')


def test_it_can_be_read_on_a_phone(browser: Any, paths: Paths) -> None:
    """Nothing is wider than the screen, and dark is dark."""
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    with web_pages.server(paths.root) as server, _page(browser, server.address, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in ground[4:-1].split(",")) < 60


def test_a_page_of_another_site_gets_nothing(browser: Any, paths: Paths, tmp_path: Path) -> None:
    """It can neither frame the monitor, nor fetch from it, nor open its websocket, though it knows the address."""
    with web_pages.server(paths.root) as server, _other_site(server.port) as address:
        page = browser.new_page()
        try:
            page.goto(address)
            page.wait_for_function("window.said && window.said.length == 3")
            assert sorted(page.evaluate("window.said")) == ["fetch failed", "frame loaded", "socket closed"]
            assert all("Background Training" not in frame.content() for frame in page.frames[1:])
        finally:
            page.close()


@contextlib.contextmanager
def _other_site(port: int) -> Iterator[str]:
    """A page under another origin that tries what it can."""
    target = f"127.0.0.1:{port}"
    script = f"""
      window.said = [];
      fetch("http://{target}/").then(() => said.push("fetch succeeded"), () => said.push("fetch failed"));
      const socket = new WebSocket("ws://{target}/_nicegui_ws/socket.io/?EIO=4&transport=websocket");
      socket.onopen = () => said.push("socket opened");
      socket.onclose = () => said.push("socket closed");
    """
    body = f'<!doctype html><script>{script}</script><iframe src="http://{target}/" onload="said.push(`frame loaded`)"></iframe>'

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{site.server_address[1]}/"
        finally:
            site.shutdown()
            thread.join()
