"""What stands on the page, from facts: texts, numbers and charts, without a browser. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from background_training import command_lines
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.monitor import advice, life_signs, words
from background_training.monitor.advice import Advice
from background_training.monitor.web import build_orders, ledger_follower
from background_training.monitor.web.content import Chart, Table
from background_training.monitor.web.facts import Facts
from background_training.records import episode_fate

UNKNOWN = "-"
GOOD, QUIET, BAD = "good", "quiet", "bad"
_LONGEST_TEXT = 300


@dataclass(frozen=True)
class View:
    """The whole page. moment: when it was so; charts, tables: by the name of their card."""

    root: str
    state: str
    mood: str
    tiles: tuple[tuple[str, str], ...]
    advice: tuple[Advice, ...]
    newest: tuple[str, ...]
    log: str
    moment: str = ""
    paused: bool = False
    charts: Mapping[str, Chart] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


def view(facts: Facts, charts: Mapping[str, Chart]) -> View:
    """Put the page together."""
    snapshot = facts.snapshot
    content = snapshot.status.content or {}
    said = life_signs.state_words(snapshot.status, snapshot.now)
    return View(
        root=words.visible(facts.root),
        state=said,
        mood=_mood(said, content),
        tiles=tuple(_tiles(facts)),
        advice=tuple(advice.advice(snapshot, facts.root)),
        newest=tuple(_sentences(facts.ledger.newest)),
        log="\n".join(words.visible(line) for line in facts.log_lines) or "Nothing has been logged yet.",
        moment=words.moment(snapshot.now),
        paused=snapshot.pause is not None,
        charts=charts,
        tables={"fates": _fates(facts), "reasons": _reasons(facts), "openings": _openings(facts)},
    )


def _mood(said: str, content: Mapping[str, Any]) -> str:
    if said.startswith(life_signs.NO_SIGN) or content.get("state") in ("failed", "waiting"):
        return BAD
    return GOOD if content.get("state") in ("idle", "training", "starting", "restarting") else QUIET


def _tiles(facts: Facts) -> list[tuple[str, str]]:
    stats = life_signs.current_stats(facts.snapshot)
    version = facts.snapshot.model.version
    waiting = f"{facts.snapshot.buffer.count:,}"
    tiles = [("Games trained", "files_processed", ",d"), ("Steps", "total_samples", ",d")]
    tiles += [("Mean return, last batch", "mean_return", ",.4g")]
    shown = [(title, words.number(stats[key], form) if key in stats else UNKNOWN) for title, key, form in tiles]
    active = words.number(stats["active_workers"], "d") if "active_workers" in stats else "?"
    workers = f"{active} of {words.number(stats.get('max_workers', 0), 'd')}"
    governor = ": ".join(part for part in life_signs.throttle(facts.snapshot) if part)[:120] or UNKNOWN
    shown.insert(0, ("Version", UNKNOWN if version is None else f"{version:,}"))
    return [*shown, ("Waiting", waiting), ("Workers", workers if stats else UNKNOWN), ("Governor", governor)]


def _fates(facts: Facts) -> Table:
    ledger = facts.ledger
    said = {
        TRAINED: "trained on, exactly once",
        STALE: "set aside: too old when their turn came",
        DUPLICATE: "set aside: delivered before",
        REJECTED: "set aside: unusable",
    }
    rows = [(fate, f"{ledger.counts.get(fate, 0):,}", sentence) for fate, sentence in said.items()]
    rows.append(("waiting", f"{facts.snapshot.buffer.count:,}", "lie in the buffer"))
    gone = ledger_follower.deleted(ledger.counts)
    rows += [("deleted", f"{gone:,}", "of the above, deleted since to keep the archive small")] if gone else []
    notes = [f"The ledger {words.visible(ledger.trouble)}."] if ledger.trouble else []
    notes += [f"{ledger.read_share:.0%} of the ledger has been read so far."] if ledger.read_share < 1 else []
    damaged = words.plural(ledger.damaged, "line")
    notes += [f"{damaged} of the ledger can't be read; {command_lines.command('doctor')} shows more."] if ledger.damaged else []
    return Table(("fate", "episodes", ""), tuple(rows), note=" ".join(notes))


def _reasons(facts: Facts) -> Table:
    rows = [
        (fate, kind, f"{count:,}", words.visible(seen, _LONGEST_TEXT)) for fate, kind, count, seen in facts.ledger.reasons[:12]
    ]
    rest = len(facts.ledger.reasons) - len(rows)
    note = f"And {words.plural(rest, 'more reason')}." if rest > 0 else ""
    return Table(("fate", "reason", "episodes", "the newest one"), tuple(rows), "No file was set aside.", note)


def _sentences(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [episode_fate.sentence(line) for line in lines if isinstance(line.get("sha256"), str)]


def _openings(facts: Facts) -> Table:
    heads = ("players", "opening", "share", "pool, 10 % / median / 90 %")
    empty = (
        f"No replays have been analysed: {command_lines.command('replays')} DIR does, and so does the learner (replays.folder)."
    )
    if facts.build_orders is None:
        return Table(heads, (), empty)
    rows = []
    for group in build_orders.groups(facts.build_orders):
        opponent, supply = words.visible(group.opponent, 20), words.visible(group.start_supply, 10)
        who = f"{group.players:,} against {opponent}, from {supply} supply"
        for opening in group.openings:
            pool = " / ".join(f"{seconds:.0f} s" for seconds in opening.pool_seconds) if opening.pool_seconds else UNKNOWN
            rows.append((who, words.visible(opening.text, _LONGEST_TEXT), f"{opening.share:.0%}", pool))
    summary = words.visible(facts.build_orders.get("summary", ""), _LONGEST_TEXT)
    return Table(heads, tuple(rows[:40]), "No replay taught a build order.", summary)
