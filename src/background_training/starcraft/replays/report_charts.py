"""The pictures of the report as SVG text: one panel per timing, one row per opponent, one dot per player.

Pure. No library draws: the page has to open anywhere, years later, without a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from background_training.starcraft.replays.spread import spread_of

WIDTH = 470
LEFT, RIGHT = 76, 14
TOP, ROW, AXIS = 30, 26, 24
COLOURS = {"Terran": "#2f6db3", "Protoss": "#b07d0a", "Zerg": "#8a3a9c"}
OTHER_COLOUR = "#666666"
TICK_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
TICKS_AT_MOST = 6
TEXT = 'font-family="system-ui, sans-serif" font-size="11" fill="#333"'


class Dot(NamedTuple):
    """One player's time: `won` fills it, `label` is what the pointer shows."""

    seconds: float
    won: bool
    label: str


class Axis(NamedTuple):
    """The seconds at the left end and at the right end, and where the marks stand."""

    start: float
    end: float
    ticks: tuple[float, ...]

    def x(self, seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (seconds - self.start) / (self.end - self.start), 1)


def axis_for(seconds: Sequence[float]) -> Axis:
    """An axis from mark to mark around the numbers, with the finest step that leaves at most six marks."""
    low, high = min(seconds), max(seconds)
    for step in TICK_STEPS:
        start, end = low // step * step, (high // step + 1) * step
        if (end - start) / step < TICKS_AT_MOST:
            break
    count = int((end - start) / step)
    skip = -(-count // TICKS_AT_MOST)
    return Axis(start, end, tuple(start + step * number for number in range(0, count + 1, skip)))


def clock(seconds: float) -> str:
    """Minutes and seconds as players read them: 1:14."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def timing_panel(title: str, rows: Mapping[str, Sequence[Dot]]) -> str:
    """One timing: a row of dots per opponent race, the bar from p10 to p90, and the mark of the median."""
    axis = axis_for([dot.seconds for dots in rows.values() for dot in dots])
    height = TOP + ROW * len(rows) + AXIS
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" {TEXT}>']
    parts.append(f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(title)}</text>')
    bottom = TOP + ROW * len(rows)
    for tick in axis.ticks:
        parts.append(f'<line x1="{axis.x(tick)}" y1="{TOP}" x2="{axis.x(tick)}" y2="{bottom}" stroke="#e2e2e2"/>')
        parts.append(f'<text x="{axis.x(tick)}" y="{bottom + 16}" text-anchor="middle" fill="#666">{clock(tick)}</text>')
    for number, (race, dots) in enumerate(rows.items()):
        parts.append(_row(race, dots, axis, TOP + ROW * number + ROW // 2))
    return "".join([*parts, "</svg>"])


def _row(race: str, dots: Sequence[Dot], axis: Axis, y: int) -> str:
    colour = COLOURS.get(race, OTHER_COLOUR)
    spread = spread_of(dot.seconds for dot in dots)
    left, right, middle = axis.x(spread["p10"]), axis.x(spread["p90"]), axis.x(spread["median"])
    parts = [f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">v {escape(race)} <tspan fill="#999">{len(dots)}</tspan></text>']
    width = max(1.0, round(right - left, 1))
    parts.append(f'<rect x="{left}" y="{y - 9}" width="{width}" height="18" fill="{colour}" opacity="0.16"/>')
    parts.append(f'<rect x="{middle - 1:.1f}" y="{y - 11}" width="2" height="22" fill="{colour}"/>')
    for number, dot in enumerate(sorted(dots)):
        # Neighbours in time stand at different heights, else equal times hide one another.
        height = y + (number * 5 % 13) - 6
        fill = colour if dot.won else "#ffffff"
        title = f"<title>{escape(f'{clock(dot.seconds)}  {dot.label}')}</title>"
        parts.append(f'<circle cx="{axis.x(dot.seconds)}" cy="{height}" r="3" fill="{fill}" stroke="{colour}">{title}</circle>')
    return "".join(parts)
