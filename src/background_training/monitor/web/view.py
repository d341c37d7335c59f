"""What the page shows, from facts: cards, texts, tables and plain HTML. Pure, without a browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from background_training import command_lines
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.monitor import advice, humanize, learner_state, replays
from background_training.monitor.advice import Advice
from background_training.monitor.web.facts import PageFacts, deleted
from background_training.records import episode_fate


@dataclass(frozen=True)
class Card:
    """One card; kind: "curve", "chart", "table", "search" or "log". The view fills it by its name."""

    name: str
    title: str
    kind: str
    wide: bool = False


CARDS = (
    Card("curve", "Learning curve", "curve", wide=True),
    Card("opponents", "By opponent", "chart"),
    Card("maps", "By map", "chart"),
    Card("returns", "Distribution of returns", "chart"),
    Card("staleness", "Staleness of the games", "chart"),
    Card("throughput", "Throughput", "chart"),
    Card("waiting", "Backlog", "chart"),
    Card("resources", "CPU and memory", "chart"),
    Card("stages", "Where the time goes", "chart"),
    Card("losses", "Losses", "chart"),
    Card("policy", "Exploration, and size of the steps", "chart"),
    Card("fates", "What became of every episode", "table"),
    Card("reasons", "Not trained, and why", "table"),
    Card("search", "Look for an episode", "search", wide=True),
    Card("openings", "Build orders from replays", "table", wide=True),
    Card("log", "Training log", "log", wide=True),
)


@dataclass(frozen=True)
class Chart:
    """One chart: ECharts' options, or None and the words that stand in its place; and a sentence below it."""

    options: Mapping[str, Any] | None
    empty: str = ""
    note: str = ""


@dataclass(frozen=True)
class PageTable:
    """Rows of texts below heads; or the words in their place where there are none."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = ""
    note: str = ""


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
    tables: Mapping[str, PageTable] = field(default_factory=dict)


def view(facts: PageFacts, charts: Mapping[str, Chart]) -> View:
    """Build the view."""
    snapshot = facts.snapshot
    content = snapshot.status.content or {}
    said = learner_state.state_words(snapshot.status, snapshot.now)
    return View(
        root=humanize.visible(facts.root),
        state=said,
        mood=_mood(said, content),
        tiles=tuple(_tiles(facts)),
        advice=tuple(advice.advice(snapshot, facts.root)),
        newest=tuple(_sentences(facts.ledger.newest)),
        log="\n".join(humanize.visible(line) for line in facts.log_lines) or "Nothing has been logged yet.",
        moment=humanize.moment(snapshot.now),
        paused=snapshot.pause is not None,
        charts=charts,
        tables={"fates": _fates(facts), "reasons": _reasons(facts), "openings": _openings(facts)},
    )


def _mood(said: str, content: Mapping[str, Any]) -> str:
    if said.startswith(learner_state.NO_SIGN) or content.get("state") in ("failed", "waiting"):
        return BAD
    return GOOD if content.get("state") in ("idle", "training", "starting", "restarting") else QUIET


def _tiles(facts: PageFacts) -> list[tuple[str, str]]:
    stats = learner_state.current_stats(facts.snapshot)
    version = facts.snapshot.model.version
    waiting = f"{facts.snapshot.buffer.count:,}"
    tiles = [("Games trained", "files_processed", ",d"), ("Steps", "total_samples", ",d")]
    tiles += [("Mean return, last batch", "mean_return", ",.4g")]
    shown = [(title, humanize.number(stats[key], form) if key in stats else UNKNOWN) for title, key, form in tiles]
    active = humanize.number(stats["active_workers"], "d") if "active_workers" in stats else "?"
    workers = f"{active} of {humanize.number(stats.get('max_workers', 0), 'd')}"
    governor = ": ".join(part for part in learner_state.throttle(facts.snapshot) if part) or UNKNOWN
    shown.insert(0, ("Version", UNKNOWN if version is None else f"{version:,}"))
    return [*shown, ("Waiting", waiting), ("Workers", workers if stats else UNKNOWN), ("Governor", governor)]


def _fates(facts: PageFacts) -> PageTable:
    ledger = facts.ledger
    said = {
        TRAINED: "trained on, exactly once",
        STALE: "stale: older than the limit when read",
        DUPLICATE: "duplicates of files that were already processed",
        REJECTED: "rejected: unusable",
    }
    rows = [(fate, f"{ledger.counts.get(fate, 0):,}", sentence) for fate, sentence in said.items()]
    rows.append(("waiting", f"{facts.snapshot.buffer.count:,}", "in the buffer"))
    gone = deleted(ledger.counts)
    rows += [("deleted", f"{gone:,}", "of the above, deleted since to keep the archive small")] if gone else []
    notes = [f"The ledger {humanize.visible(ledger.trouble)}."] if ledger.trouble else []
    notes += [f"{ledger.read_share:.0%} of the ledger has been read so far."] if ledger.read_share < 1 else []
    damaged = humanize.plural(ledger.damaged, "line")
    notes += [f"{damaged} of the ledger can't be read; {command_lines.command('doctor')} shows more."] if ledger.damaged else []
    return PageTable(("fate", "episodes", ""), tuple(rows), note=" ".join(notes))


def _reasons(facts: PageFacts) -> PageTable:
    rows = [
        (fate, kind, f"{count:,}", humanize.visible(seen, _LONGEST_TEXT)) for fate, kind, count, seen in facts.ledger.reasons[:12]
    ]
    rest = len(facts.ledger.reasons) - len(rows)
    note = f"And {humanize.plural(rest, 'more reason')}." if rest > 0 else ""
    return PageTable(
        ("fate", "reason", "episodes", "the newest one"), tuple(rows), "No file was rejected, stale or a duplicate.", note
    )


def _sentences(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [episode_fate.sentence(line) for line in lines if isinstance(line.get("sha256"), str)]


def _openings(facts: PageFacts) -> PageTable:
    heads = ("players", "opening", "share", "pool, 10 % / median / 90 %")
    empty = f"No replays have been analysed: {command_lines.command('replays')} DIR does it, or the learner (replays.folder)."
    if facts.build_orders is None:
        return PageTable(heads, (), empty)
    rows = []
    for group in replays.groups(facts.build_orders):
        opponent, supply = humanize.visible(group.opponent, 20), humanize.visible(group.start_supply, 10)
        who = f"{group.players:,} against {opponent}, from {supply} supply"
        for opening in group.openings:
            pool = " / ".join(f"{seconds:.0f} s" for seconds in opening.pool_seconds) if opening.pool_seconds else UNKNOWN
            rows.append((who, humanize.visible(opening.text, _LONGEST_TEXT), f"{opening.share:.0%}", pool))
    summary = humanize.visible(facts.build_orders.get("summary", ""), _LONGEST_TEXT)
    return PageTable(heads, tuple(rows[:40]), "No replay taught a build order.", summary)


def plain_html(view: View, title: str) -> str:
    """One element, of class bt-first, which the page's style hides as soon as the script has drawn the same figures.

    Every text is escaped: some come from files that anybody may have written.
    """
    tiles = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(label)}</dt></div>" for label, value in view.tiles)
    advice = "".join(f"<p class={item.level}><b>{escape(item.seen)}</b><br>{escape(item.cure)}</p>" for item in view.advice)
    return (
        f"<section class=bt-first><h1>{escape(title)}</h1><p><b>{escape(view.state)}</b> {escape(view.root)}</p>"
        f"<dl>{tiles}</dl>{advice}{_table(view.tables['fates'])}"
        f"<p>Figures of {escape(view.moment)}. The charts follow when the page's script has come.</p></section>"
    )


def _table(table: PageTable) -> str:
    heads = _cells("th", table.heads)
    rows = "".join(f"<tr>{_cells('td', row)}</tr>" for row in table.rows)
    return f"<table><tr>{heads}</tr>{rows}</table><p>{escape(table.note)}</p>"


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
