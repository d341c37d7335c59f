"""The page in the browser, drawn by NiceGUI: elements that show a view and react to the user's input."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import Client, app, ui

from background_training.monitor.advice import Advice
from background_training.monitor.web.charts import WINDOWS
from background_training.monitor.web.view import CARDS, Card, Chart, PageTable, View, plain_html

Ask = Callable[[str], Awaitable[tuple[list[str], str]]]
Tell = Callable[[str, bool], Awaitable[tuple[bool, str]]]

TITLE = "Background Training"
_FEW_COLUMNS = 3
_REFRESH = '<noscript><meta http-equiv="refresh" content="5"></noscript>'
_STYLE = Path(__file__).with_name("page.css").read_text("utf-8")
_ICON = (
    '<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg"><rect width="32" height="32" rx="7" fill="#2563b8"/>'
    '<path d="M5 24 L12 17 L17 20 L27 8" fill="none" stroke="#fff" stroke-width="3"/></svg>'
)


def application(page: Callable[[], Awaitable[None]], on_startup: Callable[[], Awaitable[None]]) -> FastAPI:
    """An ASGI application of this one page. A client that loses its connection reloads it."""
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.config.socket_io_js_transports = ["websocket"]
    app.on_startup(on_startup)
    ui.run_with(
        outer,
        root=page,
        title=TITLE,
        favicon=_ICON,
        dark=None,
        language="en-US",
        binding_refresh_interval=None,
        message_history_length=20,
        gzip_middleware_factory=None,
        tailwind=False,
        show_welcome_message=False,
    )
    return outer


class Page:
    """The elements of one browser's page."""

    def __init__(self, ask: Ask, tell: Tell) -> None:
        """Build the page, empty.

        Args:
            ask: answers a search with sentences and a note.
            tell: given the token and whether to pause the learner, answers whether the token is right, and what was done.
        """
        self._ask = ask
        self._tell = tell
        self._token = ""
        self._paused = False
        self._charts: dict[str, _ChartCard] = {}
        self._tables: dict[str, _TableCard] = {}
        self._shown: dict[str, Any] = {}
        self._curves: dict[int, Chart] = {}
        self._window = WINDOWS[1]
        self._client = ui.context.client
        # Not by add_css(), which leaves it to a script, and the first response has to look like something without one.
        ui.add_head_html(f"<style>{_STYLE}</style>")
        self._dark = ui.dark_mode(None)
        with ui.element("main").classes("bt-page"):
            self._build_head()
            self._tiles = ui.element("div").classes("bt-tiles")
            self._advice = ui.element("div").style("display: contents")
            with ui.element("div").classes("bt-cards"):
                for card in CARDS:
                    self._build_card(card)
            ui.label("Read from files only; closing this page, or the monitor, makes no difference to the learner.").classes(
                "bt-foot"
            )

    @property
    def client(self) -> Client:
        return self._client

    def show_first(self, view: View) -> None:
        """Put the figures into the first response: as plain HTML, and into the elements that the script draws from it.

        Without the charts, so that the response stays small.
        """
        ui.add_head_html(_REFRESH)
        ui.add_body_html(plain_html(view, TITLE))
        self.show(dataclasses.replace(view, charts={}))

    def show(self, view: View) -> None:
        """Bring the page up to date; unchanged parts are not sent again."""
        if self._changed("head", (view.root, view.state, view.mood)):
            self._root.set_text(view.root)
            self._state.set_text(view.state)
            self._state.classes(remove="good bad quiet", add=view.mood)
        if self._changed("paused", view.paused):
            self._paused = view.paused
            self._pause.set_text("Resume" if view.paused else "Pause")
        if self._changed("tiles", view.tiles):
            self._fill(self._tiles, lambda: _tiles(view.tiles))
        if self._changed("advice", view.advice):
            self._fill(self._advice, lambda: _advice(view.advice))
        if self._changed("newest", view.newest):
            self._fill(self._newest, lambda: _listed(view.newest, "No file was rejected, stale or a duplicate."))
        if self._changed("log", view.log):
            self._log.set_text(view.log)
        if view.charts:
            self._curves = {window: view.charts[f"curve {window}"] for window in WINDOWS}
            self._show_curve()
        for name, card in self._charts.items():
            if name in view.charts and self._changed(f"chart {name}", view.charts[name]):
                card.show(view.charts[name])
        for name, table in view.tables.items():
            if self._changed(f"table {name}", table):
                self._tables[name].show(table)

    def _show_curve(self) -> None:
        if self._curves and self._changed("curve", self._curves[self._window]):
            self._charts["curve"].show(self._curves[self._window])

    def _changed(self, what: str, now: Any) -> bool:
        if what in self._shown and self._shown[what] == now:
            return False
        self._shown[what] = now
        return True

    def _fill(self, holder: ui.element, build: Callable[[], object]) -> None:
        holder.clear()
        with holder:
            build()

    def _build_head(self) -> None:
        with ui.element("header").classes("bt-head"):
            ui.label(TITLE).classes("bt-title")
            self._state = ui.label("looking …").classes("bt-state").mark("state")
            self._root = ui.label("").classes("bt-root")
            self._pause = ui.button("Pause").props("dense no-caps outline").classes("bt-pause").mark("pause")
            self._build_question()
            choice = ui.toggle({"auto": "Auto", "light": "Light", "dark": "Dark"}, value="auto").props("dense no-caps unelevated")
            choice.on_value_change(lambda event: self._dark.set_value({"auto": None, "light": False, "dark": True}[event.value]))

    def _build_question(self) -> None:
        """The dialog that asks for the token before the first pause or resume of this page."""
        with ui.dialog() as dialog, ui.card().classes("bt-token"):
            ui.label("Pausing and resuming need the token that the monitor has printed in its terminal.").classes("bt-note")
            token = ui.input("token").props('dense outlined autofocus autocomplete=off maxlength=100 aria-label="token"')
            answer = ui.label("").classes("bt-note").mark("answer")
            with ui.element("div").classes("bt-top"):
                send = ui.button("OK").props("dense no-caps unelevated")
                ui.button("Cancel", on_click=dialog.close).props("dense no-caps flat")

        async def told(given: str) -> None:
            # The button's present label decides, even if the root has been paused elsewhere meanwhile.
            right, sentence = await self._tell(given.strip(), not self._paused)
            self._token = given if right else ""
            answer.set_text("" if right else sentence)
            if right:
                token.set_value("")
                dialog.close()
                ui.notify(sentence)

        async def pressed() -> None:
            if self._token:
                await told(self._token)
            else:
                answer.set_text("")
                dialog.open()

        async def sent() -> None:
            await told(str(token.value or ""))

        self._pause.on_click(pressed)
        send.on_click(sent)
        token.on("keydown.enter", sent)

    def _build_card(self, card: Card) -> None:
        with ui.element("section").classes("bt-card" + (" wide" if card.wide else "")) as section:
            section.props(f'id="{card.name}"')
            with ui.element("div").classes("bt-top"):
                with ui.element("h2"):
                    ui.label(card.title)
                if card.kind == "curve":
                    self._build_smoothing()
            if card.kind in ("chart", "curve"):
                self._charts[card.name] = _ChartCard(tall=card.wide)
            elif card.kind == "table":
                self._tables[card.name] = _TableCard()
            elif card.kind == "search":
                self._build_search()
            else:
                self._log = ui.label("").classes("bt-log")

    def _build_smoothing(self) -> None:
        def chosen(window: int) -> None:
            self._window = window
            self._show_curve()

        with ui.element("div").classes("bt-top"):
            ui.label("mean of games").classes("bt-note")
            choice = ui.toggle(list(WINDOWS), value=self._window).props("dense no-caps unelevated")
            choice.on_value_change(lambda event: chosen(int(event.value)))

    def _build_search(self) -> None:
        ui.label("Why was this file not trained?").classes("bt-note")
        query = ui.input(placeholder="name, hash, or word of the reason").props(
            'dense outlined clearable maxlength=200 aria-label="search"'
        )
        self._answer = ui.label("").classes("bt-note")
        self._results = ui.element("div").classes("bt-found")
        ui.label("Not trained, newest first").classes("bt-note")
        self._newest = ui.element("div").classes("bt-found")

        async def searched() -> None:
            found, note = await self._ask(str(query.value or ""))
            self._answer.set_text(note)
            self._fill(self._results, lambda: [ui.label(sentence) for sentence in found])

        query.on("keydown.enter", searched)
        query.on_value_change(lambda event: None if event.value else asyncio.create_task(searched()))


class _ChartCard:
    def __init__(self, *, tall: bool) -> None:
        self._tall = tall
        self._holder = ui.element("div")
        self._note = ui.label("").classes("bt-note")
        self._chart: ui.echart | None = None

    def show(self, chart: Chart) -> None:
        self._note.set_text(chart.note)
        self._note.set_visibility(bool(chart.note))
        if chart.options is not None and self._chart is not None:
            self._chart.options.clear()
            self._chart.options.update(chart.options)
            return
        self._holder.clear()
        with self._holder:
            if chart.options is None:
                self._chart = None
                ui.label(chart.empty).classes("bt-empty")
            else:
                self._chart = ui.echart(dict(chart.options), renderer="svg").classes("bt-chart" + (" tall" if self._tall else ""))


class _TableCard:
    def __init__(self) -> None:
        self._holder = ui.element("div").classes("bt-scroll")
        self._note = ui.label("").classes("bt-note")

    def show(self, table: PageTable) -> None:
        self._note.set_text(table.note)
        self._note.set_visibility(bool(table.note))
        self._holder.clear()
        with self._holder:
            if table.rows:
                _rows(table)
            else:
                ui.label(table.empty).classes("bt-empty")


def _rows(table: PageTable) -> None:
    with ui.element("table").classes("bt-table" + (" many" if len(table.heads) > _FEW_COLUMNS else "")):
        for tag, cells in (("th", table.heads), *(("td", row) for row in table.rows)):
            with ui.element("tr"):
                for text in cells:
                    with ui.element(tag):
                        ui.label(text)


def _tiles(tiles: Iterable[tuple[str, str]]) -> None:
    for label, value in tiles:
        with ui.element("div").classes("bt-tile"):
            ui.label(value).classes("value" + (" long" if len(value) > 14 else ""))
            ui.label(label).classes("label")


def _advice(advice: Iterable[Advice]) -> None:
    for item in advice:
        with ui.element("div").classes(f"bt-advice {item.level}"):
            ui.label(item.seen).classes("seen")
            ui.label(item.cure).classes("cure")


def _listed(sentences: tuple[str, ...], empty: str) -> None:
    for sentence in sentences or (empty,):
        ui.label(sentence)
