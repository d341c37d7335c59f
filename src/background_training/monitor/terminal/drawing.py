"""Draws rows on a terminal, over the last ones: of a row that has not changed, nothing is sent. Nobody else needs rich."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TextIO

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from background_training.monitor.terminal import glyphs
from background_training.monitor.terminal.rows import (
    BAD,
    CURVE,
    EMPTY,
    GOOD,
    HEADING,
    KEY,
    LABEL,
    PLAIN,
    TITLE,
    WARNING,
    Row,
    width_of,
)
from background_training.printable import encodable

_STYLES = {
    PLAIN: Style(),
    LABEL: Style(dim=True),
    HEADING: Style(color="cyan"),
    TITLE: Style(reverse=True, bold=True),
    KEY: Style(reverse=True),
    GOOD: Style(color="green"),
    WARNING: Style(color="yellow"),
    BAD: Style(color="red", bold=True),
    CURVE: Style(color="cyan"),
    EMPTY: Style(dim=True),
}
_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.WINDOWS,
}
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[0m\x1b[?1049l"
_FONT_FACES = re.compile(r"@font-face \{[^}]*\}\s*")


def can_draw(out: TextIO) -> bool:
    """Whether there is a terminal that can be drawn on; neither a dumb one nor Windows' console of old."""
    if not out.isatty():
        return False  # rich can be told otherwise by the environment
    if sys.platform == "win32":
        os.system("")  # an old console heeds escape codes only after a shell has run in it
    console = Console(file=out)
    return console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows


class Canvas:
    """A terminal's other screen, while entered; what was on the terminal before comes back with `leave`."""

    def __init__(self, out: TextIO) -> None:
        console = Console(file=out)
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self._system = _SYSTEMS.get(console.color_system or "")
        self._plain = console.no_color
        self._drawn: list[Row] = []
        self._inside = False
        self.signs = glyphs.glyphs_for(self._encoding)
        self._painted = lru_cache(1024)(self._paint)

    def size(self) -> tuple[int, int]:
        """Columns and rows, as of now."""
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        return max(columns, 20) if columns else 80, max(rows, 3) if rows else 24

    def enter(self) -> None:
        self._inside = True
        self._drawn = []
        self._send(_ENTER)

    def leave(self) -> None:
        """Safe to repeat."""
        if self._inside:
            self._inside = False
            self._send(_LEAVE)

    def draw(self, rows: Sequence[Row]) -> None:
        """Bring the screen up to date.

        Raises:
            OSError: the terminal is gone.
        """
        anew = len(rows) != len(self._drawn)
        parts = ["\x1b[2J"] if anew and self._drawn else []
        for number, row in enumerate(rows):
            if anew or row != self._drawn[number]:
                parts.append(f"\x1b[{number + 1};1H{self._painted(row)}")
        self._drawn = list(rows)
        if parts:
            self._send("".join(parts))

    def _paint(self, row: Row) -> str:
        return "".join(self._styled(text, style) for text, style in row)

    def _styled(self, text: str, name: str) -> str:
        style = _STYLES[name].without_color if self._plain else _STYLES[name]
        return style.render(text, color_system=self._system) if self._system is not None else text

    def _send(self, text: str) -> None:
        self._out.write(encodable(text, self._encoding))
        self._out.flush()


def picture(rows: Sequence[Row], title: str) -> str:
    """The very screen as an SVG picture, which asks nobody for a font."""
    console = Console(record=True, file=io.StringIO(), width=max(width_of(row) for row in rows), force_terminal=True)
    for row in rows:
        line = Text(no_wrap=True, end="\n")
        for text, style in row:
            line.append(text, _STYLES[style])
        console.print(line, highlight=False, soft_wrap=True)
    return _FONT_FACES.sub("", console.export_svg(title=title))
