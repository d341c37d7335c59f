"""The report: one HTML page, complete in itself, with the distributions, the openings, and the replays behind them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from background_training import html_page
from background_training.starcraft.replays import summary
from background_training.starcraft.replays.replay_archive import ReplayArchive
from background_training.starcraft.replays.report_charts import Dot, clock, timing_panel
from background_training.starcraft.replays.summary import Learnt
from background_training.starcraft.replays.timings import NAMES
from background_training.starcraft.replays.verdict import REASONS
from background_training.storage import atomic_files

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
        OSError: nothing has changed under its name.
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
    return f"<h2>The replays behind it</h2>{html_page.table(heads, rows)}"
