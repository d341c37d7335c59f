"""Where the parts of the live screen go: one below the other, or in two columns where there is room. Pure."""

from __future__ import annotations

from background_training.monitor.terminal import sections
from background_training.monitor.terminal.gatherer import LiveFacts
from background_training.monitor.terminal.glyphs import Glyphs
from background_training.monitor.terminal.rows import ESSENTIAL, Row, beside, fitted, kept

WIDE = 140
"""From so many columns on there are two."""
_USUAL_ROWS = 24
_LOG_ROWS = 6
_ROWS_BESIDES = 3


def screen(facts: LiveFacts, width: int, height: int, signs: Glyphs, message: str = "", *, has_keys: bool = True) -> list[Row]:
    """Just so many rows, none wider than the screen."""
    body = _wide(facts, width, height - 2, signs) if width >= WIDE else _narrow(facts, width, height - 2, signs)
    body += [()] * (height - 2 - len(body))
    shown = [sections.title(facts, width), *body, sections.footer(message, has_keys=has_keys)]
    return [fitted(row, width) for row in shown][: max(height, 1)]


def _narrow(facts: LiveFacts, width: int, rows: int, signs: Glyphs) -> list[Row]:
    chart_rows = max(1, _chart_rows(rows - 6) // 2)
    above = sections.learner(facts, width, signs) + sections.learning(facts, width, signs, chart_rows)
    above += sections.whole_run(facts, width, signs, chart_rows)
    above += sections.flow(facts, width, signs)
    room = rows - sum(row.rank == ESSENTIAL for row in above) - _ROWS_BESIDES
    advices = sections.advices(facts, width, signs, room)
    below = sections.files(facts, width, signs) + sections.log(facts, width, signs)
    return kept([*above, *advices, *below], rows)


def _wide(facts: LiveFacts, width: int, rows: int, signs: Glyphs) -> list[Row]:
    left_width = (width - 2) // 2
    right_width = width - 2 - left_width
    advices = sections.advices(facts, width, signs, rows // 3)
    left = sections.learner(facts, left_width, signs) + sections.learning(facts, left_width, signs, _chart_rows(rows))
    right = sections.flow(facts, right_width, signs) + sections.whole_run(facts, right_width, signs, _chart_rows(rows))
    right += sections.files(facts, right_width, signs)
    room = max(rows - min(len(advices), rows // 3) - _LOG_ROWS, rows // 2)
    columns = beside(kept(left, room), kept(right, room), left_width, right_width)
    below = [*advices, *sections.log(facts, width, signs)]
    return columns + kept(below, rows - len(columns))


def _chart_rows(rows: int) -> int:
    """Higher curves on a higher screen."""
    return max(1, min(8, (rows - _USUAL_ROWS) // 2))
