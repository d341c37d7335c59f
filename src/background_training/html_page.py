"""HTML as text: a page with its style, tables, pictures within the page. Whatever is not made here is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 980px; padding: 0 1em; color: #1c1c1c;
       background: #fff }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 2px solid #ddd } h3 { margin: 1.6em 0 .4em }
table { border-collapse: collapse; font-size: 13px; width: 100% }
td, th { padding: 3px 8px; text-align: left; border-bottom: 1px solid #eee; overflow-wrap: anywhere; min-width: 5em }
td.number, th.number { text-align: right; overflow-wrap: normal; min-width: 0 }
.picture { overflow-x: auto; margin: .6em 0 } .picture img { width: 100%; min-width: 640px; display: block }
.small { color: #666; font-size: 13px }
"""


class Markup(str):
    """HTML made by this module, which is not escaped again."""

    __slots__ = ()


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        parts: HTML.
        style: additional CSS.
    """
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return "\n".join([f"{head}{view}<style>{STYLE}{style}</style>", *parts, "</html>\n"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), kind: str = "") -> str:
    """A table of texts.

    Args:
        heads: of the columns; none for a table without.
        rows: cells of plain text, escaped here, but for Markup.
        numbers: which columns hold numbers.
        kind: a class for the style.
    """
    opening = f'<table class="{kind}">' if kind else "<table>"
    head = "<tr>" + "".join(_cell("th", text, index in numbers) for index, text in enumerate(heads)) + "</tr>" if heads else ""
    body = "".join("<tr>" + "".join(_cell("td", text, i in numbers) for i, text in enumerate(row)) + "</tr>\n" for row in rows)
    return f"{opening}{head}\n{body}</table>"


def picture(png: bytes, says: str) -> str:
    """An image embedded in the page, with its alternative text."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return f'<div class="picture"><img alt="{escape(says)}" src="{source}"></div>'


def _cell(tag: str, text: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ""
    return f"<{tag}{kind}>{text if isinstance(text, Markup) else escape(text)}</{tag}>"
