"""Summarises the results of many replays: the JSON file for bots, and a table for people.

Pure: the same results give the same bytes, in whatever order, by however many workers and on whichever day they were made.
Therefore the time in it is the newest replay's and not the clock's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.analysis import REASONS, PlayerFacts, ReplayResult
from background_training.starcraft.replays.build_order import NAMES


class Spread(TypedDict):
    median: float
    p10: float
    p90: float


def spread_of(numbers: Iterable[float]) -> Spread:
    """Median, 10th and 90th percentile, to the hundredth; at least one number is needed."""
    ordered = sorted(numbers)
    return Spread(median=quantile(ordered, 0.5), p10=quantile(ordered, 0.1), p90=quantile(ordered, 0.9))


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the sorted numbers lie, to the hundredth.

    Linear between neighbours: with h = (n - 1) * share, it is x[floor(h)] + (h - floor(h)) * (x[floor(h) + 1] - x[floor(h)]).

    Source: Hyndman & Fan 1996, type 7; NumPy's default.
    """
    position = (len(ordered) - 1) * share
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (position - below) * (ordered[above] - ordered[below]), 2)


def median_low(numbers: Iterable[float]) -> float:
    """The median, or the lower of the two in the middle, so that it is one of the numbers."""
    ordered = sorted(numbers)
    return ordered[(len(ordered) - 1) // 2]


SCHEMA = 1
ANY = "any"
OPENING_LINES = 30
"""Lines of the build order that stands for an opening."""

FLAT_KEYS = {
    "spawning_pool_supply": "spawning_pool",
    "natural_expansion_supply": "base_2",
    "gas_supply": "extractor",
    "roach_warren_supply": "roach_warren",
    "hydralisk_den_supply": "hydralisk_den",
    "lair_supply": "lair",
    "hive_supply": "hive",
}
"""Keys that bots read, each the median supply of a timing."""

_INNERMOST = re.compile(r"[\[{][^\[\]{}]*[\]}]")
_LINE_BREAK = re.compile(r"\n\s*")  # in a JSON string a line break is an escape


@dataclass(frozen=True)
class Learnt:
    """One learnable player of one replay that counts."""

    result: ReplayResult
    player: PlayerFacts


def without_duplicates(results: Iterable[ReplayResult]) -> tuple[list[ReplayResult], set[str]]:
    """Keep one recording of each game: the longest, and of equally long ones that of the smallest hash.

    Returns:
        all results but the duplicates, sorted by hash, and the hashes of the duplicates.
    """
    kept: dict[str, ReplayResult] = {}
    duplicates: set[str] = set()
    others: list[ReplayResult] = []
    for result in sorted(results, key=lambda result: (-result["seconds"], result["sha256"])):
        if result["verdict"] != analysis.LEARN or not result["identity"]:
            others.append(result)
        elif result["identity"] in kept:
            duplicates.add(result["sha256"])
        else:
            kept[result["identity"]] = result
    return sorted([*kept.values(), *others], key=lambda result: result["sha256"]), duplicates


def learnt_players(results: Iterable[ReplayResult]) -> list[Learnt]:
    """The learnable players of replays without duplicates."""
    return [Learnt(result, player) for result in results for player in result["players"] if result["verdict"] == analysis.LEARN]


def summarise(results: Iterable[ReplayResult], files: Mapping[str, int], without_content: Mapping[str, int]) -> dict[str, Any]:
    """The content of models/learned_build_orders.json.

    Args:
        results: one per content.
        files: how many files hold a content, by its hash; a content that no file holds any more counts once if it was learnt.
        without_content: how many files could not be read, by reason.
    """
    kept, duplicates = without_duplicates(results)
    learnt = learnt_players(kept)
    counts = _counts(kept, duplicates, files, without_content)
    flat, flat_start, behind = _flat_values(learnt)
    return {
        "schema": SCHEMA,
        "generated_at": max((result["played_at"] for result in kept), default=""),
        "summary": f"{counts['learnt']} of {counts['seen']} replays teach a Zerg build order",
        "counts": counts,
        **flat,
        "flat_keys": {"start_supply": flat_start, "players": behind},
        "groups": _groups(learnt),
    }


def to_bytes(summary: Mapping[str, Any]) -> bytes:
    """The file's bytes; keys keep their order, and innermost lists and objects are written in one line."""
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    text = _INNERMOST.sub(lambda match: _LINE_BREAK.sub(" ", match.group()), text)
    return (text + "\n").encode("utf-8", "replace")


def _counts(
    kept: Sequence[ReplayResult], duplicates: set[str], files: Mapping[str, int], without_content: Mapping[str, int]
) -> dict[str, Any]:
    skipped: Counter[str] = Counter(without_content)
    learnt = 0
    for result in kept:
        held_by = files.get(result["sha256"], 0)
        if result["verdict"] == analysis.LEARN:
            learnt += 1
            skipped["duplicate"] += max(0, held_by - 1)
        else:
            skipped[result["reason"]] += held_by
    skipped["duplicate"] += sum(files.get(sha256, 0) for sha256 in duplicates)
    skipped = +skipped
    players = sum(len(result["players"]) for result in kept if result["verdict"] == analysis.LEARN)
    seen = learnt + sum(skipped.values())
    return {"seen": seen, "learnt": learnt, "players": players, "skipped": dict(sorted(skipped.items()))}


def _flat_values(learnt: Sequence[Learnt]) -> tuple[dict[str, int], int | None, dict[str, int]]:
    """Median supplies from the start supply that most players had; of equals, from the larger.

    Returns:
        the flat keys that were learnt and no others, the start supply they belong to, and the players behind each.
    """
    starts = Counter(one.player["start_supply"] for one in learnt)
    if not starts:
        return {}, None, {}
    start = max(starts, key=lambda supply: (starts[supply], supply))
    values: dict[str, int] = {}
    behind: dict[str, int] = {}
    for key, timing in FLAT_KEYS.items():
        supplies = [
            one.player["timings"][timing]["supply"]
            for one in learnt
            if one.player["start_supply"] == start and timing in one.player["timings"]
        ]
        if supplies:
            values[key] = int(median_low(supplies))
            behind[key] = len(supplies)
    return values, start, behind


def _groups(learnt: Sequence[Learnt]) -> dict[str, Any]:
    """groups[start supply][opponent race or "any"]["Win", "Loss", ... or "any"]."""
    members: dict[tuple[int, str, str], list[Learnt]] = {}
    for one in learnt:
        player = one.player
        for race in (ANY, player["opponent_race"]):
            for result in (ANY, player["result"]):
                members.setdefault((player["start_supply"], race, result), []).append(one)
    groups: dict[str, Any] = {}
    for start, race, result in sorted(members):
        by_race = groups.setdefault(str(start), {}).setdefault(race, {})
        by_race[result] = _group(members[start, race, result])
    return groups


def _group(members: Sequence[Learnt]) -> dict[str, Any]:
    by_opening: dict[str, list[Learnt]] = {}
    for one in members:
        by_opening.setdefault(one.player["opening"], []).append(one)
    openings = sorted(by_opening.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        "players": len(members),
        "timings": timing_table(members),
        "openings": [_opening(key, players, len(members)) for key, players in openings],
    }


def timing_table(members: Sequence[Learnt]) -> dict[str, Any]:
    """Per timing that any of the players has: how many have it, and the spread in seconds and in supply."""
    table: dict[str, Any] = {}
    for name in NAMES:
        found = [one.player["timings"][name] for one in members if name in one.player["timings"]]
        if found:
            table[name] = {
                "n": len(found),
                "seconds": spread_of(timing["seconds"] for timing in found),
                "supply": spread_of(timing["supply"] for timing in found),
            }
    return table


def _opening(key: str, members: Sequence[Learnt], of_players: int) -> dict[str, Any]:
    """One opening, with a game that was really played to stand for it."""
    typical = most_typical(members)
    return {
        "opening": key,
        "n": len(members),
        "share": round(len(members) / of_players, 4),
        "text": typical.player["opening_text"],
        "timings": timing_table(members),
        "replay": typical.result["sha256"],
        "player": typical.player["name"],
        "build_order": [list(line) for line in typical.player["build_order"][:OPENING_LINES]],
    }


def most_typical(members: Sequence[Learnt]) -> Learnt:
    """The player whose hatchery, extractor and pool are, in seconds, nearest to the medians of all of them."""
    names = ("base_2", "extractor", "spawning_pool")
    times = {name: [one.player["timings"][name]["seconds"] for one in members if name in one.player["timings"]] for name in names}
    medians = {name: median_low(numbers) for name, numbers in times.items() if numbers}

    def distance(one: Learnt) -> tuple[int, float, str, str]:
        own = one.player["timings"]
        missing = sum(name not in own for name in medians)
        away = sum(abs(own[name]["seconds"] - medians[name]) for name in medians if name in own)
        return missing, round(away, 2), one.result["sha256"], one.player["name"]

    return min(members, key=distance)


WIDTH = 78
OPENINGS_SHOWN = 5


def table(summary: Mapping[str, Any]) -> str:
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
