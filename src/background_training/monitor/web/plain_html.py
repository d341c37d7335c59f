"""The figures of a view as plain HTML, for the first response: a browser shows them before, or without, script and websocket."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from background_training.monitor.web.content import Table
from background_training.monitor.web.view import View


def figures(view: View, title: str) -> str:
    """One element, of class bt-first, which the page's style hides as soon as the script has drawn the same figures.

    Every text is escaped: some come from files that anybody may have written.
    """
    tiles = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(label)}</dt></div>" for label, value in view.tiles)
    advice = "".join(f"<p class={item.level}><b>{escape(item.seen)}</b><br>{escape(item.cure)}</p>" for item in view.advice)
    return (
        f"<section class=bt-first><h1>{escape(title)}</h1><p><b>{escape(view.state)}</b> {escape(view.root)}</p>"
        f"<dl>{tiles}</dl>{advice}{_table(view.tables['fates'])}"
        f"<p>Figures of {escape(view.moment)}. The charts follow when the page's script has come.</p></section>"
    )


def _table(table: Table) -> str:
    heads = _cells("th", table.heads)
    rows = "".join(f"<tr>{_cells('td', row)}</tr>" for row in table.rows)
    return f"<table><tr>{heads}</tr>{rows}</table><p>{escape(table.note)}</p>"


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
