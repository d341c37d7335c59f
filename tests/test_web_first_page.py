"""The first response already holds the figures: as text, for a browser whose script or websocket comes late or never."""

from __future__ import annotations

import html
import http.client
import json
import re
import time

import episodes
import learner_runs
import pytest
import web_pages
from conftest import PATIENCE_SECONDS

from background_training.paths import Paths

pytestmark = pytest.mark.slow  # real processes

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>1</script>{{7*7}}</section>"


def _first(paths: Paths, ask_again_for: str = "") -> str:
    """The part of the first response that needs no script."""
    with web_pages.server(paths.root) as server:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
            connection.request("GET", "/")
            answer = connection.getresponse()
            text = answer.read().decode("utf-8")
            connection.close()
            assert answer.status == 200
            found = re.search("<section class=bt-first>(.*?)</section>", text)
            # Where a look takes longer than a second, as it may on a busy machine, the very first response has no figures.
            if found is not None and ask_again_for in found[1]:
                return found[1]
            assert time.monotonic() < deadline


def _tile(first: str, label: str) -> str:
    found = re.search(f"<dd>([^<]*)</dd><dt>{re.escape(label)}</dt>", first)
    assert found is not None
    return html.unescape(found[1])


def test_the_figures_of_a_training_are_in_the_first_response(paths: Paths) -> None:
    """State, version, counts and mean return, and what became of the episodes, by one GET without any script."""
    for version in range(2):
        episodes.write(paths.buffer, f"game {version}.npz", seed=version)
        learner_runs.drain(paths.root)
    (paths.buffer / "broken.npz").write_bytes(b"x")
    learner_runs.drain(paths.root)
    episodes.write(paths.buffer, "waits.npz", seed=5)
    first = _first(paths)
    assert _tile(first, "Version") == "2" and _tile(first, "Games trained") == "2" and _tile(first, "Waiting") == "1"
    assert re.fullmatch(r"-?\d+(\.\d+)?", _tile(first, "Mean return, last batch"))
    assert "stopped " in first and "<td>rejected</td><td>1</td>" in first


def test_a_root_in_which_nothing_has_run_says_so(paths: Paths) -> None:
    """Without a status, a model and a ledger there are still words, and what to do."""
    first = _first(paths)
    assert "no learner has run here yet" in first and _tile(first, "Version") == "-" and "Start one with a game" in first


def test_a_broken_model_is_named_in_the_first_response(paths: Paths) -> None:
    """What is wrong comes with the figures, and not after them."""
    paths.model.write_bytes(b"broken")
    first = _first(paths)
    assert "can&#x27;t be used: " in first and _tile(first, "Version") == "-"


def test_texts_from_files_are_escaped(paths: Paths) -> None:
    """Names, states and errors come from files that anybody may have written."""
    stats = {"files_processed": HOSTILE, "errors": 1, "last_error": HOSTILE, "governor": HOSTILE}
    content = {"schema": 1, "state": HOSTILE, "updated_at": time.time(), "stats": stats, "governor": {"state": HOSTILE}}
    paths.status.write_text(json.dumps(content), "utf-8")
    first = _first(paths, "last update")
    assert "<img" not in first and "<script" not in first and html.escape(HOSTILE[:30]) in first


def test_a_browser_without_scripts_shows_the_figures(paths: Paths) -> None:
    """In a real browser too, with the page's style, and nothing below them but themselves; it comes up to date every 5 s."""
    episodes.write(paths.buffer, "game.npz")
    learner_runs.drain(paths.root)
    with web_pages.chromium() as browser, web_pages.server(paths.root) as server:
        context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.goto(server.address)
        page.wait_for_selector('.bt-first dl > div:has(dt:text-is("Version")) dd:text-is("1")')
        assert page.locator(".bt-first").evaluate("element => getComputedStyle(element).maxWidth") == "1500px"
        assert page.locator("#esm-fallback").is_hidden()
        assert page.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count() == 1
        context.close()


@pytest.mark.parametrize("websocket", [True, False])
def test_the_script_draws_them_without_a_websocket_too(paths: Paths, websocket: bool) -> None:
    """The elements hold the figures from the start, and take the place of the plain ones."""
    episodes.write(paths.buffer, "game.npz")
    learner_runs.drain(paths.root)
    with web_pages.chromium() as browser, web_pages.server(paths.root) as server:
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        if not websocket:
            page.add_init_script("window.WebSocket = class extends EventTarget { close() {} send() {} };")
        page.goto(server.address)
        page.wait_for_selector('.bt-tile:has(.label:text-is("Version")) .value:text-is("1")')
        assert page.locator(".bt-first").is_hidden()
        page.close()
