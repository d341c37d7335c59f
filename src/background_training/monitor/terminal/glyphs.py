"""Curves and bars out of characters, and how many columns a text takes on a terminal. Pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Glyphs:
    """Characters that a terminal can show. ramp: from nothing to a full cell, in equal steps."""

    ramp: str
    full: str
    empty: str
    rule: str
    arrow: str
    dot: str


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "█", "░", "─", "→", "●")
ASCII = Glyphs(" _.-=*#", "#", ".", "-", ">", "*")


def glyphs_for(encoding: str) -> Glyphs:
    """The finest that an encoding holds."""
    try:
        (BLOCKS.ramp + BLOCKS.empty + BLOCKS.rule + BLOCKS.arrow + BLOCKS.dot).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def chart(values: Sequence[float], rows: int, glyphs: Glyphs, low: float, high: float) -> list[str]:
    """One column for each value, `rows` high, top first; what is not finite leaves a gap, and the least still shows a mark."""
    most = rows * (len(glyphs.ramp) - 1)
    columns = [_column(_height(value, low, high, most), rows, glyphs.ramp) for value in values]
    return ["".join(line) for line in zip(*columns, strict=True)] if columns else [""] * rows


@lru_cache(4096)
def _column(height: int, rows: int, ramp: str) -> str:
    """The cells of one column, top first."""
    steps = len(ramp) - 1
    return "".join(ramp[min(max(height - row * steps, 0), steps)] for row in reversed(range(rows)))


def _height(value: float, low: float, high: float, most: int) -> int:
    if not math.isfinite(value):
        return 0
    share = 0.5 if high <= low else (value - low) / (high - low)
    return 1 + round(min(max(share, 0.0), 1.0) * (most - 1))


def bar(share: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """The filled and the empty part of a bar; whatever is more than nothing shows, and only all of it fills the bar."""
    share = min(max(share, 0.0), 1.0)
    filled = round(share * width)
    filled = max(filled, 1) if share > 0 else 0
    filled = min(filled, width - 1) if share < 1 else width
    return glyphs.full * filled, glyphs.empty * (width - filled)


@lru_cache(4096)
def width_of(text: str) -> int:
    """Columns that a printable text takes: two for wide signs, none for accents of their own."""
    return len(text) if text.isascii() else sum(_columns(sign) for sign in text)


def _columns(sign: str) -> int:
    if unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def cut(text: str, width: int) -> str:
    """As much of a text as fits."""
    if width_of(text) <= width:
        return text
    taken, used = [], 0
    for sign in text:
        used += _columns(sign)
        if used > width:
            break
        taken.append(sign)
    return "".join(taken)


def cut_left(text: str, width: int) -> str:
    """As much of the end of a text as fits, as the end of a path tells more than its beginning."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 3:
        text = text[1:]
    return f"...{text}"[: max(width, 0)]


def wrapped(text: str, width: int, most: int) -> list[str]:
    """A text in lines, broken at spaces where there are any; what is too long for `most` lines ends in three dots."""
    lines: list[str] = []
    rest = text.strip()
    while rest and width > 3:
        line = cut(rest, width)
        if line != rest:
            space = line.rfind(" ") if rest[len(line)] != " " else len(line)
            line = line[:space] if space > width // 3 else line
        rest = rest[len(line) :].strip()
        if rest and len(lines) == most - 1:
            return [*lines, cut(line, width - 3) + "..."]
        lines.append(line.rstrip())
    return lines
