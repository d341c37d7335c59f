"""The report: one HTML page, complete in itself, with the distributions, the openings, and the replays behind them.

Its charts are SVG text, one panel per timing, one row per opponent, one dot per player: no library draws, since the page has to
open anywhere, years later, without a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from background_training import html_page
from background_training.starcraft.replays import summary
from background_training.starcraft.replays.analysis import REASONS
from background_training.starcraft.replays.build_order import NAMES
from background_training.starcraft.replays.replay_archive import ReplayArchive
from background_training.starcraft.replays.summary import Learnt, spread_of
from background_training.storage import atomic_files

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
    """The seconds at the left end and at the right end, and the places of the marks."""

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
        # Dots of similar times have different heights; otherwise they hide one another.
        height = y + (number * 5 % 13) - 6
        fill = colour if dot.won else "#ffffff"
        title = f"<title>{escape(f'{clock(dot.seconds)}  {dot.label}')}</title>"
        parts.append(f'<circle cx="{axis.x(dot.seconds)}" cy="{height}" r="3" fill="{fill}" stroke="{colour}">{title}</circle>')
    return "".join(parts)


STYLE = """
.panels { display: flex; flex-wrap: wrap; gap: 10px } svg { background: #fafafa; border: 1px solid #e4e4e4 }
.openings { table-layout: fixed; margin-bottom: 1.2em }
.openings th:nth-child(1) { width: 19% } .openings th:nth-child(2) { width: 17% } .openings th:nth-child(3) { width: 27% }
.bar { background: #8a3a9c; height: 11px; display: inline-block; vertical-align: middle }
"""

OPENING_TIMINGS = ("base_2", "extractor", "spawning_pool", "queen", "metabolic_boost")


def write_report(archive: ReplayArchive) -> None:
    """Write the page of an archive.

    Raises:
        OSError: it could not be written, and is unchanged.
    """
    kept, _ = summary.without_duplicates(archive.results.values())
    files: dict[str, str] = {}
    for path, sighting in archive.store.sightings.items():
        files[sighting.sha256] = os.path.basename(path)
    page = report_html(archive.summarise(), summary.learnt_players(kept), files)
    with archive.store.writing():
        atomic_files.write_atomically(archive.paths.replay_report, page.encode("utf-8", "replace"), durable=False)


def report_html(summed_up: Mapping[str, Any], learnt: Sequence[Learnt], files: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        summed_up: what `summary.summarise` returns.
        learnt: the players behind it.
        files: the name of a file that holds a content, by its hash.
    """
    parts = [f"<h1>{escape(summed_up['summary'])}</h1>"]
    parts.append(f'<p class="small">Newest replay: {escape(summed_up["generated_at"] or "none")}</p>')
    for start in sorted({one.player["start_supply"] for one in learnt}, reverse=True):
        members = [one for one in learnt if one.player["start_supply"] == start]
        parts.append(_start_section(start, members, summed_up["groups"][str(start)]))
    parts.append(_skipped_section(summed_up["counts"]["skipped"]))
    parts.append(_replays_section(learnt, files))
    return html_page.page("Replay report", parts, STYLE)


def _start_section(start: int, members: Sequence[Learnt], races: Mapping[str, Any]) -> str:
    parts = [f"<h2>Games that start with {start} supply <small>({len(members)} players)</small></h2>"]
    parts.append("<h3>Openings</h3>")
    for race, results in sorted(races.items(), key=lambda item: (item[0] != summary.ANY, item[0])):
        parts.append(_openings_table("all opponents" if race == summary.ANY else race, results[summary.ANY]))
    parts.append('<h3>Timings</h3><p class="small">One dot is one player, filled if the game was won; hover for the name. ')
    parts.append("The bar reaches from the 10th to the 90th percentile, the line marks the median.</p>")
    parts.append('<div class="panels">')
    for name in NAMES:
        rows = _rows(name, members)
        if rows:
            parts.append(timing_panel(name.replace("_", " "), rows))
    return "".join([*parts, "</div>"])


def _rows(timing: str, members: Iterable[Learnt]) -> dict[str, list[Dot]]:
    rows: dict[str, list[Dot]] = {}
    for one in members:
        player = one.player
        if timing in player["timings"]:
            dot = Dot(player["timings"][timing]["seconds"], player["result"] == "Win", f"{player['name']}, {one.result['map']}")
            rows.setdefault(player["opponent_race"], []).append(dot)
    return dict(sorted(rows.items()))


def _openings_table(against: str, group: Mapping[str, Any]) -> str:
    heads = [f"against {against} ({group['players']})", "", "such as", *(name.replace("_", " ") for name in OPENING_TIMINGS)]
    rows = []
    for opening in group["openings"]:
        bar = f'<span class="bar" style="width:{opening["share"] * 90:.0f}px"></span> {opening["share"]:.0%}'
        times = (_median(opening["timings"], name) for name in OPENING_TIMINGS)
        rows.append((opening["opening"], html_page.Markup(bar), opening["text"], *times))
    return html_page.table(heads, rows, numbers=range(3, len(heads)), kind="openings")


def _median(timings: Mapping[str, Any], name: str) -> str:
    return clock(timings[name]["seconds"]["median"]) if name in timings else ""


def _skipped_section(skipped: Mapping[str, int]) -> str:
    if not skipped:
        return ""
    counted = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    rows = [(str(count), reason, REASONS.get(reason, "")) for reason, count in counted]
    return f"<h2>Skipped</h2>{html_page.table((), rows, numbers=(0,))}"


def _replays_section(learnt: Sequence[Learnt], files: Mapping[str, str]) -> str:
    rows = []
    for one in sorted(learnt, key=lambda one: (one.result["played_at"], one.result["sha256"], one.player["name"]), reverse=True):
        player, result = one.player, one.result
        row = (
            result["played_at"][:10],
            player["name"],
            player["opponent_race"],
            player["result"],
            player["opening_text"],
            result["map"],
            files.get(result["sha256"], result["sha256"][:12]),
        )
        rows.append(row)
    heads = ("date", "player", "against", "result", "opening", "map", "file")
    return f"<h2>The replays</h2>{html_page.table(heads, rows)}"
