"""Rows of a screen: pieces of text in named styles, ranked for screens on which not all of them fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from background_training.monitor.terminal import glyphs

PLAIN, LABEL, HEADING, TITLE, KEY = "plain", "label", "heading", "title", "key"
GOOD, WARNING, BAD, CURVE, EMPTY = "good", "warning", "bad", "curve", "empty"
STYLES = (PLAIN, LABEL, HEADING, TITLE, KEY, GOOD, WARNING, BAD, CURVE, EMPTY)

Span = tuple[str, str]
"""Text and style."""
Row = tuple[Span, ...]

ESSENTIAL, USEFUL, DETAIL, EXTRA = 0, 1, 2, 3
LABEL_WIDTH = 11


@dataclass(frozen=True)
class Ranked:
    """A row; where not all fit, those of the highest rank go first."""

    row: Row
    rank: int = ESSENTIAL


def labelled(label: str, *spans: Span | str, rank: int = ESSENTIAL) -> Ranked:
    """A label of fixed width, and what it stands for."""
    pieces = tuple((span, PLAIN) if isinstance(span, str) else span for span in spans)
    return Ranked(((f" {label:<{LABEL_WIDTH - 1}}", LABEL), *pieces), rank)


def paragraph(label: str, text: str, style: str, width: int, most: int, rank: int = ESSENTIAL) -> list[Ranked]:
    """A labelled text of several lines."""
    lines = glyphs.wrapped(text, width - LABEL_WIDTH, most)
    return [labelled("" if number else label, (line, style), rank=rank) for number, line in enumerate(lines)]


def width_of(row: Row) -> int:
    return sum(glyphs.width_of(text) for text, _ in row)


def fitted(row: Row, width: int) -> Row:
    """The row, cut or filled with spaces to be just so wide."""
    spans: list[Span] = []
    left = width
    for text, style in row:
        taken = glyphs.cut(text, left)
        left -= glyphs.width_of(taken)
        if taken:
            spans.append((taken, style))
        if taken != text:
            break
    return (*spans, (" " * left, PLAIN)) if left else tuple(spans)


def kept(shown: Sequence[Ranked], rows: int) -> list[Row]:
    """The rows that fit, in their order; what does not fit goes by rank, and from the bottom up."""
    by_worth = sorted(range(len(shown)), key=lambda index: (shown[index].rank, index))
    return [shown[index].row for index in sorted(by_worth[: max(rows, 0)])]


def beside(left: Iterable[Row], right: Iterable[Row], left_width: int, right_width: int) -> list[Row]:
    """Two columns with two spaces between them."""
    lefts, rights = list(left), list(right)
    count = max(len(lefts), len(rights))
    lefts += [()] * (count - len(lefts))
    rights += [()] * (count - len(rights))
    gap: Row = (("  ", PLAIN),)
    return [(*fitted(one, left_width), *gap, *fitted(other, right_width)) for one, other in zip(lefts, rights, strict=True)]
