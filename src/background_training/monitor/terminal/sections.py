"""The parts of the live screen, from facts: rows of text, without a terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from background_training import command_lines
from background_training.monitor import advice, history, humanize, learner_state
from background_training.monitor.folder_census import FolderFacts
from background_training.monitor.history import GAMES, NEWEST_GAMES, Floats
from background_training.monitor.terminal import glyphs
from background_training.monitor.terminal.gatherer import LiveFacts
from background_training.monitor.terminal.glyphs import Glyphs
from background_training.monitor.terminal.rows import (
    BAD,
    CURVE,
    DETAIL,
    EMPTY,
    EXTRA,
    GOOD,
    HEADING,
    KEY,
    LABEL,
    LABEL_WIDTH,
    PLAIN,
    TITLE,
    USEFUL,
    WARNING,
    Ranked,
    Row,
    Span,
    labelled,
    paragraph,
)

NAME = "BACKGROUND TRAINING LIVE MONITOR"
_SHORT_NAME = "BACKGROUND TRAINING"
_WIDE_TITLE = 100
_LEVELS = {advice.ERROR: BAD, advice.WARNING: WARNING, advice.NOTE: PLAIN}
_FULL_AT_LEAST = 20
"""A few waiting files are no backlog."""
_LOG_AT_LEAST = 3
_COUNTED_LATELY_SECONDS = 3.0


def title(facts: LiveFacts, width: int) -> Row:
    """Name, root and time."""
    paused = "  PAUSED" if facts.snapshot.pause else ""
    right = f"{paused}  {humanize.moment(facts.snapshot.now)} "
    left = f" {NAME if width >= _WIDE_TITLE else _SHORT_NAME}  "
    room = width - len(left) - len(right)
    root = glyphs.cut_left(humanize.visible(facts.root), room)
    return ((left + root + " " * (room - glyphs.width_of(root)), TITLE), (right, TITLE))


def heading(text: str, width: int, signs: Glyphs, rank: int = DETAIL) -> Ranked:
    return Ranked(((f"{signs.rule} {text} {signs.rule * max(0, width - len(text) - 3)}", HEADING),), rank)


def learner(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """State, governor, worker, model, totals."""
    snapshot = facts.snapshot
    content, stats = snapshot.status.content or {}, _stats(facts)
    said = learner_state.state_words(snapshot.status, snapshot.now)
    mood = _mood(said, content, paused=snapshot.pause is not None)
    shown = paragraph("State", f"{signs.dot} {said}", mood, width, 2)
    state, reason = learner_state.throttle(snapshot)
    if state or reason:
        text = ": ".join(part for part in (state, reason) if part)
        shown += paragraph("Governor", text, WARNING if reason else PLAIN, width, 2)
    if stats:
        shown += [_worker(facts, stats), *_totals(stats)]
    model = snapshot.model
    if model.size_bytes is None or model.modified is None:
        return [*shown, labelled("Model", humanize.visible(model.trouble))]
    version = f"version {model.version:,}, " if model.version is not None else f"{humanize.visible(model.trouble)}; "
    updated = f"updated {humanize.ago(model.modified, snapshot.now)}, {humanize.size(model.size_bytes)}"
    return [*shown, labelled("Model", f"{version}{updated}")]


def learning(facts: LiveFacts, width: int, signs: Glyphs, chart_rows: int) -> list[Ranked]:
    """Returns and won games as curves, and the figures of the newest batch."""
    found = facts.learning
    shown = [heading("Learning", width, signs)]
    if not found.games:
        return [*shown, labelled("Return", "no game has been trained on yet")]
    newest = f", {_number(found.newest_mean_return)} of the last {NEWEST_GAMES}" if found.games > NEWEST_GAMES else ""
    text = f"mean {_number(found.mean_return)} of {humanize.plural(found.games, 'game')}{newest}"
    shown += _curve("Return", text, found.returns, None, width, signs, chart_rows)
    if found.decided:
        won = f"{100 * found.won / found.decided:.0f} % of {humanize.plural(found.decided, 'game')} with a result"
        shown += _curve("Won", won, found.wins, (0.0, 1.0), width, signs, max(1, chart_rows // 2))
    else:
        shown.append(labelled("Won", f"no result is known of the last {found.games} (meta may say)", rank=DETAIL))
    figures = found.figures
    losses = (("policy loss", "policy_loss"), ("value", "value_loss"), ("entropy", "entropy"), ("KL", "kl"))
    shown.append(labelled("Batch", _figures(figures, losses), rank=USEFUL))
    steps = (("gradient", "gradient_norm"), ("clipped", "clipped_share"), ("step size", "learning_rate"))
    shown.append(labelled("", _figures(figures, steps), rank=EXTRA))
    stale = f"{_number(figures['staleness_versions'])} versions, {_number(figures['staleness_seconds'])} s waited"
    return [*shown, labelled("Freshness", stale, rank=EXTRA)]


def whole_run(facts: LiveFacts, width: int, signs: Glyphs, rows: int) -> list[Ranked]:
    """The returns of all games there were, the first on the left."""
    if facts.all_games <= GAMES:
        return []
    shown = _curve("Whole run", f"{facts.all_games:,} games", facts.whole_run, None, width, signs, rows)
    return [Ranked(ranked.row, USEFUL) for ranked in shown]


def flow(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """From the buffer to the archive: how many wait, how fast they go, where the time goes."""
    snapshot, found = facts.snapshot, facts.learning
    shown = [heading("Flow", width, signs), _backlog(facts, width, signs)]
    if facts.rates is None:
        shown.append(labelled("Rates", ("not known of the last minute", LABEL), rank=DETAIL))
    else:
        pairs = (("in", facts.rates.arriving), ("trained", facts.rates.trained), ("archived", facts.rates.archived))
        spans = [span for name, rate in pairs for span in ((f"{name} ", LABEL), (f"{rate:,.2f}/s  ", PLAIN))]
        shown.append(labelled("Rates", *spans))
    stages = [(stage, seconds) for stage, seconds in found.stage_seconds.items() if math.isfinite(seconds)]
    if stages:
        spans = [span for name, seconds in stages for span in ((f"{name} ", LABEL), (f"{_short(seconds)}  ", PLAIN))]
        shown.append(labelled("A batch", *spans, rank=USEFUL))
    shown.append(labelled("Archive", _folder(snapshot.archive, snapshot.now, "archived"), rank=USEFUL))
    stats = _stats(facts)
    if stats:
        pairs_aside = (("files_skipped_old", "too old"), ("files_rejected", "rejected"), ("files_duplicate", "delivered before"))
        aside = ", ".join(f"{humanize.number(stats.get(key, 0), ',d')} {text}" for key, text in pairs_aside)
        shown.append(labelled("Set aside", aside, rank=USEFUL))
    return shown + _replays(facts, signs)


def advices(facts: LiveFacts, width: int, signs: Glyphs, rows: int) -> list[Ranked]:
    """What is wrong and what to do, the worst first: as many as fit whole, but at least one."""
    shown: list[Ranked] = []
    found = advice.advice(facts.snapshot, facts.root)
    for number, item in enumerate(found):
        block = paragraph(item.level.capitalize(), item.seen, _LEVELS[item.level], width, 3)
        block += paragraph(f"{signs.arrow:>9}", item.cure, PLAIN, width, 3)
        left = len(found) - number
        if shown and len(shown) + len(block) + (left > 1) > rows:
            shown += paragraph("", humanize.visible(f"{left} more; {command_lines.command('doctor')} lists all"), LABEL, width, 1)
            break
        shown += block
    return [heading("What to do", width, signs), *shown] if shown else []


def files(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """Where it lies, and the newest files."""
    snapshot = facts.snapshot
    since = f"{humanize.moment(snapshot.started)}, {humanize.duration(snapshot.now - snapshot.started)} ago"
    shown = [heading("Files", width, signs, EXTRA + 1), labelled("Watching", f"since {since}", rank=EXTRA)]
    for label, folder in (("Waiting", snapshot.buffer), ("Archived", snapshot.archive)):
        shown += [
            labelled(
                "" if number else label, f"{humanize.name(file.name, 40)} ({humanize.size(file.size_bytes)})", rank=EXTRA + number
            )
            for number, file in enumerate(folder.newest)
        ]
    return shown


def log(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """The end of the training log, as far as there is room."""
    lines = [line for line in facts.snapshot.log_lines if line.strip("-= ")]
    shown = [heading("Log", width, signs)]
    if not lines:
        return [*shown, Ranked(((" nothing logged yet", LABEL),), USEFUL)]
    ages = range(len(lines) - 1, -1, -1)
    ranks = [USEFUL if age < _LOG_AT_LEAST else EXTRA + 1 + age for age in ages]
    return shown + [Ranked(((f" {humanize.visible(line)}", PLAIN),), rank) for line, rank in zip(lines, ranks, strict=True)]


def footer(message: str, *, has_keys: bool) -> Row:
    """The keys; or what one of them has led to."""
    keys = (("p", "pause"), ("r", "resume"), ("q", "quit")) if has_keys else (("Ctrl+C", "quit"),)
    spans = [span for key, what in keys for span in ((f" {key} ", KEY), (f" {what}  ", LABEL))]
    return (*spans, (message, WARNING))


def _curve(
    label: str, text: str, values: Floats, bounds: tuple[float, float] | None, width: int, signs: Glyphs, rows: int
) -> list[Ranked]:
    """In one row, with the text behind; or a caption, and the curve below it, between its bounds or its own extremes."""
    points = history.points(values, max(8, width - LABEL_WIDTH - 1 - (len(text) + 1) * (rows == 1)))
    finite = [point for point in points if math.isfinite(point)]
    low, high = bounds or (min(finite, default=0.0), max(finite, default=0.0))
    lines = glyphs.chart(points, rows, signs, low, high)
    if rows == 1:
        return [labelled(label, (lines[0], CURVE), f" {text}")]
    marks = {0: _number(high) if high > low else "", rows - 1: _number(low)}
    drawn = [
        Ranked(((f"{marks.get(number, ''):>{LABEL_WIDTH - 1}} ", LABEL), (line, CURVE)), USEFUL)
        for number, line in enumerate(lines)
    ]
    return [labelled(label, text), *drawn]


def _backlog(facts: LiveFacts, width: int, signs: Glyphs) -> Ranked:
    buffer = facts.snapshot.buffer
    text = _folder(buffer, facts.snapshot.now, "new")
    if buffer.trouble:
        return labelled("Buffer", text)
    most = max(buffer.count, facts.learning.most_waiting, _FULL_AT_LEAST)
    full, empty = glyphs.bar(buffer.count / most, max(6, min(24, width - LABEL_WIDTH - 50)), signs)
    style = WARNING if buffer.count == most else GOOD
    return labelled("Buffer", (full, style), (empty, EMPTY), f" {text}")


def _folder(folder: FolderFacts, now: float, arrived: str) -> str:
    if folder.trouble:
        return humanize.visible(folder.trouble)
    text = humanize.plural(folder.count, "file")
    if folder.count:
        text += f", {'' if folder.measured >= folder.count else 'at least '}{humanize.size(folder.total_bytes)}"
    text += f", +{folder.arrived:,} {arrived}" if folder.arrived else ""
    lately = now - folder.looked_at <= _COUNTED_LATELY_SECONDS
    return text if lately else f"{text} ({humanize.ago(folder.looked_at, now)})"


def _replays(facts: LiveFacts, signs: Glyphs) -> list[Ranked]:
    progress, stats = facts.replays, _stats(facts)
    if progress is None:
        analysed = stats.get("replays_analyzed")
        return [labelled("Replays", f"{humanize.number(analysed, ',d')} analysed")] if analysed else []
    text = f"{progress.read:,} read" + (f" of {progress.files:,}" if progress.files else "")
    spans: list[Span] = []
    if progress.files:
        full, empty = glyphs.bar(progress.read / progress.files, 12, signs)
        spans = [(full, GOOD), (empty, EMPTY), (" ", PLAIN)]
    taught = [labelled("", humanize.visible(progress.summary, 120), rank=DETAIL)] if progress.summary else []
    return [labelled("Replays", *spans, text, rank=USEFUL), *taught]


def _worker(facts: LiveFacts, stats: Mapping[str, Any]) -> Ranked:
    active, most = humanize.number(stats.get("active_workers", "?"), "d"), humanize.number(stats.get("max_workers", 0), "d")
    text = f"{active}/{most} active"
    figures = facts.learning.figures
    cpu, memory = figures.get("cpu_percent", math.nan), figures.get("memory_mb", math.nan)
    if math.isfinite(cpu) and math.isfinite(memory) and learner_state.is_running(facts.snapshot.status, facts.snapshot.now):
        text += f", {cpu:.0f} % of a core, {memory:.0f} MB"
    restarts, errors = (humanize.number(stats.get(key, 0), ",d") for key in ("worker_restarts", "errors"))
    plurals = [_counted(number, noun) for number, noun in ((restarts, "restart"), (errors, "error"))]
    troubles: Span = (f"; {', '.join(plurals)}", PLAIN if (restarts, errors) == ("0", "0") else BAD)
    return labelled("Worker", text, troubles)


def _totals(stats: Mapping[str, Any]) -> list[Ranked]:
    keys = (("files_processed", "game"), ("batches_trained", "batch"), ("total_samples", "step"))
    counts = ", ".join(_counted(humanize.number(stats.get(key, 0), ",d"), noun) for key, noun in keys)
    spent, loss = (
        humanize.number(stats.get("total_processing_time", 0.0), ",.2f"),
        humanize.number(stats.get("avg_loss", 0.0), ".4f"),
    )
    returned, loss_of_last = (
        humanize.number(stats.get("mean_return", 0.0), ",.4g"),
        humanize.number(stats.get("last_loss", 0.0), ".4f"),
    )
    last = f"return {returned}, loss {loss_of_last}"
    return [
        labelled("Trained", counts, rank=USEFUL),
        labelled("", f"in {spent} s, mean loss {loss}", rank=EXTRA),
        labelled("", f"last batch: {last}", rank=EXTRA),
    ]


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}" if number == "1" else f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"


def _stats(facts: LiveFacts) -> Mapping[str, Any]:
    return learner_state.current_stats(facts.snapshot)


def _mood(said: str, content: Mapping[str, Any], *, paused: bool) -> str:
    if said.startswith(learner_state.NO_SIGN) or content.get("state") in ("failed", "waiting"):
        return BAD
    if paused or content.get("state") in ("paused", "restarting"):
        return WARNING
    return GOOD if content.get("state") in ("idle", "training", "starting") else PLAIN


def _figures(figures: Mapping[str, float], wanted: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{title} {_number(figures.get(name, math.nan))}" for title, name in wanted)


def _number(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "?"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
