"""Serves the page on this machine only, and reads what it shows while a page is open."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from background_training.monitor.web import charts, episode_search, listener, view
from background_training.monitor.web.facts import PageFacts, Watcher
from background_training.monitor.web.listener import RequestFilter
from background_training.monitor.web.page import Page, application
from background_training.monitor.web.view import Chart, View
from background_training.paths import Paths
from background_training.records import pause_file

LOOK_SECONDS = 0.75
REST_FACTOR = 20.0
"""A slow look is followed by a rest of this many times its length: 5 % of a core at most."""
_FRESH_SECONDS = 2 * LOOK_SECONDS
_FIRST_SECONDS = 1.0
"""The first response waits this long for the very first look; later ones hold the figures of the last look at once."""
_TOKEN_BYTES = 12
_WRONG_TOKEN_SECONDS = 1.0

logger = logging.getLogger(__name__)


def serve(paths: Paths, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl+C.

    Args:
        port: 0 for any that is free.

    Raises:
        MachineError: the port can't be had.
        KeyboardInterrupt: when it was ended by Ctrl+C.
    """
    with listener.bound(port) as listening:
        port = listening.getsockname()[1]
        site = Site(paths)
        gate = RequestFilter(application(site.page, site.begin), port)
        lines = [f"[OK] The monitor is at http://{listener.ADDRESS}:{port}/ (on this machine only)"]
        lines += [f"[INFO] To pause the learner from the page, or to resume it, it asks for this token: {site.token}"]
        lines += ["[INFO] Ctrl+C ends the monitor; the learner continues."]
        listener.Server(gate, lambda: say("\n".join(lines))).run(sockets=[listening])


class Site:
    """All open pages: one thread reads, every page shows the result."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._watcher = Watcher(paths)
        self._pages: set[Page] = set()
        self._page_is_open = asyncio.Event()
        self._newest: View | None = None
        self._facts: PageFacts | None = None
        self._looked_at = float("-inf")
        self._look_seconds = 0.0
        self._charts: dict[str, Chart] = {}
        self._mark: tuple[Any, ...] = ()
        self._charts_due = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._asked: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._wrong_token = asyncio.Lock()

    async def begin(self) -> None:
        """Start looking, in the server's loop; a first time at once, so that the first response need not wait for it."""
        self._looking = asyncio.create_task(self._look_repeatedly())
        self._asked = asyncio.create_task(self._look())

    async def page(self) -> None:
        """Build a page that holds the present figures already in its first response; its charts come over the websocket."""
        present = await self._present()
        page = Page(self._answer, self._pause_or_resume)
        if present is not None:
            page.show_first(present)

        def opened() -> None:
            if self._newest is not None:
                page.show(self._newest)
            self._pages.add(page)
            self._page_is_open.set()

        page.client.on_connect(opened)
        page.client.on_disconnect(lambda: self._pages.discard(page))
        page.client.on_delete(lambda: self._pages.discard(page))

    async def _look_repeatedly(self) -> None:
        while True:
            if not self._pages:
                self._page_is_open.clear()
                await self._page_is_open.wait()
            await self._look()
            await self._draw()
            if self._newest is not None:
                for page in list(self._pages):
                    page.show(self._newest)
            await asyncio.sleep(max(LOOK_SECONDS, REST_FACTOR * self._look_seconds))

    async def _present(self) -> View | None:
        """The newest view, which may be old if no page was open; the first one is waited for, None if it takes too long."""
        if time.monotonic() - self._looked_at > max(_FRESH_SECONDS, 3 * self._look_seconds):
            if self._asked is None or self._asked.done():
                self._asked = asyncio.create_task(self._look())
            if self._newest is None:
                await asyncio.wait({self._asked}, timeout=_FIRST_SECONDS)
        return self._newest

    async def _look(self) -> None:
        async with self._reading:
            begun = time.monotonic()
            # In a thread: otherwise a drive that does not respond would block the server's loop.
            self._facts = await asyncio.to_thread(self._watcher.look)
            self._newest = view.view(self._facts, self._charts)
            self._looked_at = time.monotonic()
            self._look_seconds = self._looked_at - begun

    async def _draw(self) -> None:
        """Redraw the charts. For a long history this takes a while, so it does not delay the other figures."""
        async with self._reading:
            begun, facts = time.monotonic(), self._facts
            if facts is None or self._newest is None or facts.mark == self._mark or begun < self._charts_due:
                return
            self._charts, self._mark = await asyncio.to_thread(charts.charts, facts.batches, facts.games), facts.mark
            self._newest = dataclasses.replace(self._newest, charts=self._charts)
            self._charts_due = time.monotonic() + REST_FACTOR * (time.monotonic() - begun)

    async def _pause_or_resume(self, token: str, pause: bool) -> tuple[bool, str]:
        """Pause or resume the learner, given the token; returns whether the token is right, and a sentence."""
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
            async with self._wrong_token:  # one wrong guess at a time, over all pages
                await asyncio.sleep(_WRONG_TOKEN_SECONDS)
            return False, "Wrong token. It changes each time the monitor is started."
        change = pause_file.pause if pause else pause_file.resume
        try:
            await asyncio.to_thread(change, self._paths)
        except OSError as error:
            return True, f"Not done: {error.strerror or error}"
        return True, "Paused: episodes wait." if pause else "Resumed."

    async def _answer(self, query: str) -> tuple[list[str], str]:
        found = await asyncio.to_thread(episode_search.search, self._paths, query)
        if not query.strip():
            return [], ""
        note = "" if found.complete else f"The newest {len(found.sentences)}; there are more, so ask for more of the name."
        if not found.sentences:
            note = (
                "No such file in the ledger (older entries may have been compacted)." if found.complete else "Not found in 3 s."
            )
        return list(found.sentences), f"{note} {found.trouble}".strip()
