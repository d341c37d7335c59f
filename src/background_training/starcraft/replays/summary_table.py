"""What an analysis found, as a table of plain text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from background_training.starcraft.replays.verdict import REASONS

WIDTH = 78
OPENINGS_SHOWN = 5


def summary_table(summary: Mapping[str, Any]) -> str:
    """Counts, reasons, and the timings of each start supply against all opponents."""
    counts = summary["counts"]
    lines = [summary["summary"], "-" * WIDTH]
    for reason, count in sorted(counts["skipped"].items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  skipped {count:4d}  {reason:20s} {REASONS.get(reason, '')}")
    for start, races in summary["groups"].items():
        lines.extend(_start_lines(start, races["any"]["any"]))
    return "\n".join(lines)


def _start_lines(start: str, group: Mapping[str, Any]) -> list[str]:
    players = group["players"]
    lines = ["", f"Games that start with {start} supply: {players} player{'s' if players != 1 else ''}"]
    lines.append(f"  {'timing':18s}{'n':>4s}   {'median':>7s} {'p10':>7s} {'p90':>7s} s   {'supply':>6s} {'p10':>5s} {'p90':>5s}")
    for name, timing in group["timings"].items():
        seconds, supply = timing["seconds"], timing["supply"]
        lines.append(
            f"  {name:18s}{timing['n']:4d}   {seconds['median']:7.1f} {seconds['p10']:7.1f} {seconds['p90']:7.1f}"
            f"     {supply['median']:6.1f} {supply['p10']:5.1f} {supply['p90']:5.1f}"
        )
    for opening in group["openings"][:OPENINGS_SHOWN]:
        lines.append(f"  {opening['share']:5.0%}  {opening['opening']:22s} such as {opening['text']}")
    return lines
