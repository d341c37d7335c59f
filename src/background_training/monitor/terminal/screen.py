"""The live screen: rows of text from facts, fitted to a terminal of any size, and drawn over the rows before.

Each row has a rank, and where not all rows fit, those of the highest rank are left out. Only this module needs rich.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from background_training import command_lines
from background_training.monitor import advice, history, humanize, learner_state
from background_training.monitor.folder_census import FolderFacts
from background_training.monitor.history import GAMES, NEWEST_GAMES, Floats
from background_training.monitor.terminal.live_facts import LiveFacts
from background_training.printable import encodable

ESSENTIAL, USEFUL, DETAIL, EXTRA = 0, 1, 2, 3
WIDE = 140
"""Screens of at least this many columns show the sections in two columns."""
_WIDE_TITLE, _LABEL_WIDTH, _USUAL_ROWS, _LOG_ROWS = 100, 11, 24, 6
_BACKLOG_AT_LEAST = 20
"""A bar that is full with fewer waiting files would look like a backlog."""
_COUNTED_LATELY_SECONDS = 3.0
_PLAIN, _DIM, _GOOD, _WARN, _BAD, _CURVE, _KEY = "", "dim", "green", "yellow", "bold red", "cyan", "reverse"
_LEVELS = {advice.ERROR: _BAD, advice.WARNING: _WARN, advice.NOTE: _PLAIN}
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[0m\x1b[?1049l"
_FONT_FACES = re.compile(r"@font-face \{[^}]*\}\s*")
_WRAPPING = Console(file=io.StringIO())

Piece = tuple[str, str]
"""Text and style."""
Ranked = tuple[int, Text]


class Glyphs(NamedTuple):
    """Characters that a terminal can show. ramp: from empty to a full cell, in equal steps."""

    ramp: str
    full: str
    empty: str
    rule: str
    arrow: str
    dot: str


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "█", "░", "─", "→", "●")
ASCII = Glyphs(" _.-=*#", "#", ".", "-", ">", "*")


def glyphs_for(encoding: str) -> Glyphs:
    """The finest glyphs that an encoding can represent."""
    try:
        "".join(BLOCKS).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def chart(values: Sequence[float], rows: int, glyphs: Glyphs, low: float, high: float) -> list[str]:
    """One column per value, `rows` high, top row first. A value that is not finite leaves a gap; the lowest one has a mark."""
    steps = len(glyphs.ramp) - 1

    def height(value: float) -> int:
        if not math.isfinite(value):
            return 0
        share = 0.5 if high <= low else (value - low) / (high - low)
        return 1 + round(min(max(share, 0.0), 1.0) * (rows * steps - 1))

    heights = [height(value) for value in values]
    return ["".join(glyphs.ramp[min(max(top - row * steps, 0), steps)] for top in heights) for row in reversed(range(rows))]


def bar(share: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """The filled and the empty part of a bar: any share above 0 shows, and only a share of 1 fills the bar."""
    share = min(max(share, 0.0), 1.0)
    filled = max(round(share * width), 1) if share > 0 else 0
    filled = min(filled, width - 1) if share < 1 else width
    return glyphs.full * filled, glyphs.empty * (width - filled)


def wrapped(text: str, width: int, most: int) -> list[str]:
    """A text in lines of at most `width` cells, broken at spaces if possible; if cut after `most` lines, it ends in "..."."""
    lines = [line.plain.rstrip() for line in Text(text.strip()).wrap(_WRAPPING, max(width, 4))] if text.strip() else []
    if len(lines) > most:
        last = lines[most - 1]
        lines = [*lines[: most - 1], set_cell_size(last, min(cell_len(last), max(width, 4) - 3)).rstrip() + "..."]
    return lines


def cut_left(text: str, width: int) -> str:
    """The end of a text, as far as it fits: the end of a path identifies it better than its beginning."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 3:
        text = text[1:]
    return f"...{text}"[: max(width, 0)]


# The whole screen


def screen(facts: LiveFacts, width: int, height: int, signs: Glyphs, message: str = "", *, has_keys: bool = True) -> list[Text]:
    """Exactly `height` rows, each exactly `width` cells wide."""
    body = (_wide if width >= WIDE else _narrow)(facts, width, height - 2, signs)
    body += [Text() for _ in range(height - 2 - len(body))]
    shown = [_title(facts, width), *body, _footer(message, has_keys=has_keys)][: max(height, 1)]
    for row in shown:
        row.truncate(width, overflow="crop", pad=True)
    return shown


def _narrow(facts: LiveFacts, width: int, rows: int, signs: Glyphs) -> list[Text]:
    chart_rows = max(1, _chart_rows(rows - 6) // 2)
    above = _learner(facts, width, signs) + _learning(facts, width, signs, chart_rows)
    above += _whole_run(facts, width, signs, chart_rows) + _queue(facts, width, signs)
    room = rows - sum(rank == ESSENTIAL for rank, _ in above) - 3
    return _kept([*above, *_advice(facts, width, signs, room), *_files(facts, width, signs), *_log(facts, width, signs)], rows)


def _wide(facts: LiveFacts, width: int, rows: int, signs: Glyphs) -> list[Text]:
    left_width = (width - 2) // 2
    right_width = width - 2 - left_width
    advised = _advice(facts, width, signs, rows // 3)
    left = _learner(facts, left_width, signs) + _learning(facts, left_width, signs, _chart_rows(rows))
    right = _queue(facts, right_width, signs) + _whole_run(facts, right_width, signs, _chart_rows(rows))
    right += _files(facts, right_width, signs)
    room = max(rows - min(len(advised), rows // 3) - _LOG_ROWS, rows // 2)
    columns = []
    for one, other in itertools.zip_longest(_kept(left, room), _kept(right, room)):
        row = one or Text()
        row.truncate(left_width, overflow="crop", pad=True)
        columns.append(Text.assemble(row, "  ", other or ""))
    return columns + _kept([*advised, *_log(facts, width, signs)], rows - len(columns))


def _kept(shown: Sequence[Ranked], rows: int) -> list[Text]:
    """The rows that fit, in their order: high ranks are left out first, and from the bottom up."""
    by_rank = sorted(range(len(shown)), key=lambda index: (shown[index][0], index))
    return [shown[index][1] for index in sorted(by_rank[: max(rows, 0)])]


def _chart_rows(rows: int) -> int:
    return max(1, min(8, (rows - _USUAL_ROWS) // 2))


def _labelled(label: str, *pieces: str | Piece, rank: int = ESSENTIAL) -> Ranked:
    return rank, Text.assemble((f" {label:<{_LABEL_WIDTH - 1}}", _DIM), *pieces)


def _paragraph(label: str, text: str, style: str, width: int, most: int) -> list[Ranked]:
    lines = wrapped(text, width - _LABEL_WIDTH, most)
    return [_labelled("" if number else label, (line, style)) for number, line in enumerate(lines)]


def _heading(text: str, width: int, signs: Glyphs, rank: int = DETAIL) -> Ranked:
    return rank, Text(f"{signs.rule} {text} {signs.rule * max(0, width - len(text) - 3)}", _CURVE)


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[Piece]:
    return [piece for name, value in pairs for piece in ((f"{name} ", _DIM), (f"{value}  ", _PLAIN))]


# Its sections


def _title(facts: LiveFacts, width: int) -> Text:
    right = f"{'  PAUSED' if facts.snapshot.pause else ''}  {humanize.moment(facts.snapshot.now)} "
    left = f" BACKGROUND TRAINING{' LIVE MONITOR' if width >= _WIDE_TITLE else ''}  "
    room = width - len(left) - len(right)
    root = cut_left(humanize.visible(facts.root), room)
    return Text(left + root + " " * (room - cell_len(root)) + right, "reverse bold")


def _footer(message: str, *, has_keys: bool) -> Text:
    keys = (("p", "pause"), ("r", "resume"), ("q", "quit")) if has_keys else (("Ctrl+C", "quit"),)
    pieces = [piece for key, what in keys for piece in ((f" {key} ", _KEY), (f" {what}  ", _DIM))]
    return Text.assemble(*pieces, (message, _WARN))


def _learner(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """State, throttle, worker, totals, model."""
    snapshot, stats = facts.snapshot, learner_state.current_stats(facts.snapshot)
    said = learner_state.state_words(snapshot.status, snapshot.now)
    style = _state_style(said, (snapshot.status.content or {}).get("state"), paused=snapshot.pause is not None)
    shown = _paragraph("State", f"{signs.dot} {said}", style, width, 2)
    state, reason = learner_state.throttle(snapshot)
    if state or reason:
        text = ": ".join(part for part in (state, reason) if part)
        shown += _paragraph("Governor", text, _WARN if reason else _PLAIN, width, 3)
    shown += [_worker(facts, stats), *_totals(stats)] if stats else []
    model = snapshot.model
    if model.size_bytes is None or model.modified is None:
        return [*shown, _labelled("Model", humanize.visible(model.trouble))]
    version = f"version {model.version:,}, " if model.version is not None else f"{humanize.visible(model.trouble)}; "
    updated = f"updated {humanize.ago(model.modified, snapshot.now)}, {humanize.size(model.size_bytes)}"
    return [*shown, _labelled("Model", f"{version}{updated}")]


def _state_style(said: str, state: object, *, paused: bool) -> str:
    if said.startswith(learner_state.NO_SIGN) or state in ("failed", "waiting"):
        return _BAD
    if paused or state in ("paused", "restarting"):
        return _WARN
    return _GOOD if state in ("idle", "training", "starting") else _PLAIN


def _worker(facts: LiveFacts, stats: Mapping[str, Any]) -> Ranked:
    text = f"{_count(stats, 'active_workers', '?')}/{_count(stats, 'max_workers')} active"
    cpu, memory = (facts.learning.figures.get(key, math.nan) for key in ("cpu_percent", "memory_mb"))
    is_running = learner_state.is_running(facts.snapshot.status, facts.snapshot.now)
    text += f", {cpu:.0f} % of a core, {memory:.0f} MB" if is_running and math.isfinite(cpu + memory) else ""
    restarts, errors = _count(stats, "worker_restarts"), _count(stats, "errors")
    style = _PLAIN if (restarts, errors) == ("0", "0") else _BAD
    return _labelled("Worker", text, (f"; {_counted(restarts, 'restart')}, {_counted(errors, 'error')}", style))


def _totals(stats: Mapping[str, Any]) -> list[Ranked]:
    keys = (("files_processed", "game"), ("batches_trained", "batch"), ("total_samples", "step"))
    spent, returned = (
        humanize.number(stats.get(key, 0.0), form) for key, form in (("total_processing_time", ",.2f"), ("mean_return", ",.4g"))
    )
    mean, last = (humanize.number(stats.get(key, 0.0), ".4f") for key in ("avg_loss", "last_loss"))
    return [
        _labelled("Trained", ", ".join(_counted(_count(stats, key), noun) for key, noun in keys), rank=USEFUL),
        _labelled("", f"in {spent} s, mean loss {mean}", rank=EXTRA),
        _labelled("", f"last batch: return {returned}, loss {last}", rank=EXTRA),
    ]


def _learning(facts: LiveFacts, width: int, signs: Glyphs, chart_rows: int) -> list[Ranked]:
    """Returns and won games as curves, and figures of the newest batch."""
    found, shown = facts.learning, [_heading("Learning", width, signs)]
    if not found.games:
        return [*shown, _labelled("Return", "no game has been trained on yet")]
    newest = f", {_number(found.newest_mean_return)} of the last {NEWEST_GAMES}" if found.games > NEWEST_GAMES else ""
    text = f"mean {_number(found.mean_return)} of {humanize.plural(found.games, 'game')}{newest}"
    shown += _curve("Return", text, found.returns, None, width, signs, chart_rows)
    if found.decided:
        won = f"{100 * found.won / found.decided:.0f} % of {humanize.plural(found.decided, 'game')} with a result"
        shown += _curve("Won", won, found.wins, (0.0, 1.0), width, signs, max(1, chart_rows // 2))
    else:
        shown.append(_labelled("Won", "no results recorded (pass result= to end_episode)", rank=DETAIL))
    figures = {name: _number(value) for name, value in found.figures.items()}
    stale = f"{figures['staleness_versions']} versions, {figures['staleness_seconds']} s waited"
    losses = (
        f"policy loss {figures['policy_loss']}, value {figures['value_loss']}, entropy {figures['entropy']}, KL {figures['kl']}"
    )
    steps = f"gradient {figures['gradient_norm']}, clipped {figures['clipped_share']}, step size {figures['learning_rate']}"
    rows = ("Batch", losses, USEFUL), ("", steps, EXTRA), ("Staleness", stale, EXTRA)
    return shown + [_labelled(label, text, rank=rank) for label, text, rank in rows]


def _whole_run(facts: LiveFacts, width: int, signs: Glyphs, rows: int) -> list[Ranked]:
    if facts.all_games <= GAMES:
        return []
    shown = _curve("Whole run", f"{facts.all_games:,} games", facts.whole_run, None, width, signs, rows)
    return [(USEFUL, row) for _, row in shown]


def _curve(
    label: str, text: str, values: Floats, bounds: tuple[float, float] | None, width: int, signs: Glyphs, rows: int
) -> list[Ranked]:
    """In one row with the text after it; or a caption and the curve below, between its bounds or its own extremes."""
    points = history.points(values, max(8, width - _LABEL_WIDTH - 1 - (len(text) + 1) * (rows == 1)))
    finite = [point for point in points if math.isfinite(point)]
    low, high = bounds or (min(finite, default=0.0), max(finite, default=0.0))
    lines = chart(points, rows, signs, low, high)
    if rows == 1:
        return [_labelled(label, (lines[0], _CURVE), f" {text}")]
    marks = {0: _number(high) if high > low else "", rows - 1: _number(low)}
    drawn = [
        (USEFUL, Text.assemble((f"{marks.get(number, ''):>{_LABEL_WIDTH - 1}} ", _DIM), (line, _CURVE)))
        for number, line in enumerate(lines)
    ]
    return [_labelled(label, text), *drawn]


def _queue(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """From the buffer to the archive: files waiting, rates, time per stage, and files that were not trained."""
    snapshot, rates, stats = facts.snapshot, facts.rates, learner_state.current_stats(facts.snapshot)
    shown = [_heading("Queue", width, signs), _backlog(facts, width, signs)]
    if rates is None:
        shown.append(_labelled("Rates", ("no figures for the last minute", _DIM), rank=DETAIL))
    else:
        named = (("in", rates.arriving), ("trained", rates.trained), ("archived", rates.archived))
        shown.append(_labelled("Rates", *_pairs((name, f"{rate:,.2f}/s") for name, rate in named)))
    stages = [(stage, _short(seconds)) for stage, seconds in facts.learning.stage_seconds.items() if math.isfinite(seconds)]
    shown += [_labelled("A batch", *_pairs(stages), rank=USEFUL)] if stages else []
    shown.append(_labelled("Archive", _folder(snapshot.archive, snapshot.now, "archived"), rank=USEFUL))
    if stats:
        fates = (("files_skipped_old", "stale"), ("files_rejected", "rejected"), ("files_duplicate", "duplicates"))
        shown.append(_labelled("Untrained", ", ".join(f"{_count(stats, key)} {fate}" for key, fate in fates), rank=USEFUL))
    return shown + _replays(facts, stats, signs)


def _backlog(facts: LiveFacts, width: int, signs: Glyphs) -> Ranked:
    buffer = facts.snapshot.buffer
    text = _folder(buffer, facts.snapshot.now, "new")
    if buffer.trouble:
        return _labelled("Buffer", text)
    most = max(buffer.count, facts.learning.most_waiting, _BACKLOG_AT_LEAST)
    full, empty = bar(buffer.count / most, max(6, min(24, width - _LABEL_WIDTH - 50)), signs)
    return _labelled("Buffer", (full, _WARN if buffer.count == most else _GOOD), (empty, _DIM), f" {text}")


def _folder(folder: FolderFacts, now: float, arrived: str) -> str:
    if folder.trouble:
        return humanize.visible(folder.trouble)
    text = humanize.plural(folder.count, "file")
    if folder.count:
        text += f", {'' if folder.measured >= folder.count else 'at least '}{humanize.size(folder.total_bytes)}"
    text += f", +{folder.arrived:,} {arrived}" if folder.arrived else ""
    lately = now - folder.looked_at <= _COUNTED_LATELY_SECONDS
    return text if lately else f"{text} ({humanize.ago(folder.looked_at, now)})"


def _replays(facts: LiveFacts, stats: Mapping[str, Any], signs: Glyphs) -> list[Ranked]:
    progress = facts.replays
    if progress is None:
        return [_labelled("Replays", f"{_count(stats, 'replays_analyzed')} analysed")] if stats.get("replays_analyzed") else []
    pieces: list[Piece] = []
    if progress.files:
        full, empty = bar(progress.read / progress.files, 12, signs)
        pieces = [(full, _GOOD), (empty, _DIM), (" ", _PLAIN)]
    text = f"{progress.read:,} read" + (f" of {progress.files:,}" if progress.files else "")
    summary = [_labelled("", humanize.visible(progress.summary, 120), rank=DETAIL)] if progress.summary else []
    return [_labelled("Replays", *pieces, text, rank=USEFUL), *summary]


def _advice(facts: LiveFacts, width: int, signs: Glyphs, rows: int) -> list[Ranked]:
    """What is wrong and what to do, the worst first: as many items as fit uncut, but at least one."""
    shown: list[Ranked] = []
    found = advice.advice(facts.snapshot, facts.root)
    for number, item in enumerate(found):
        block = _paragraph(item.level.capitalize(), item.seen, _LEVELS[item.level], width, 3)
        block += _paragraph(f"{signs.arrow:>9}", item.cure, _PLAIN, width, 3)
        left = len(found) - number
        if shown and len(shown) + len(block) + (left > 1) > rows:
            more = f"{left} more; {command_lines.command('doctor')} lists all"
            shown += _paragraph("", humanize.visible(more), _DIM, width, 1)
            break
        shown += block
    return [_heading("What to do", width, signs), *shown] if shown else []


def _files(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    snapshot = facts.snapshot
    since = f"since {humanize.moment(snapshot.started)}, {humanize.ago(snapshot.started, snapshot.now)}"
    shown = [_heading("Files", width, signs, EXTRA + 1), _labelled("Watching", since, rank=EXTRA)]
    for label, folder in (("Waiting", snapshot.buffer), ("Archived", snapshot.archive)):
        for number, file in enumerate(folder.newest):
            text = f"{humanize.name(file.name, 40)} ({humanize.size(file.size_bytes)})"
            shown.append(_labelled("" if number else label, text, rank=EXTRA + number))
    return shown


def _log(facts: LiveFacts, width: int, signs: Glyphs) -> list[Ranked]:
    """The end of the training log: the last three lines are worth more than details, older ones less."""
    lines = [line for line in facts.snapshot.log_lines if line.strip("-= ")]
    shown = [_heading("Log", width, signs)]
    if not lines:
        return [*shown, (USEFUL, Text(" nothing logged yet", _DIM))]
    ages = range(len(lines) - 1, -1, -1)
    ranks = [USEFUL if age < 3 else EXTRA + 1 + age for age in ages]
    return shown + [(rank, Text(f" {humanize.visible(line)}")) for line, rank in zip(lines, ranks, strict=True)]


def _count(stats: Mapping[str, Any], key: str, unknown: object = 0) -> str:
    return humanize.number(stats.get(key, unknown), ",d")


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}" if number == "1" else f"{number} {noun}{'es' if noun.endswith('ch') else 's'}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "?"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"


# The terminal


def can_draw(out: TextIO) -> bool:
    """Whether `out` is a terminal that can be drawn on; neither a dumb one nor Windows' legacy console."""
    if not out.isatty():
        return False  # environment variables can make rich believe otherwise
    if sys.platform == "win32":
        os.system("")  # an old console interprets escape codes only after a shell has run in it
    console = Console(file=out)
    return console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows


class Canvas:
    """A terminal's alternate screen, while entered; `leave` restores what was on the terminal before."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out)
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self._drawn: list[Text] = []
        self._inside = False
        self.signs = glyphs_for(self._encoding)

    def size(self) -> tuple[int, int]:
        """Columns and rows, as of now."""
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        return max(columns, 20) if columns else 80, max(rows, 3) if rows else 24

    def enter(self) -> None:
        self._inside = True
        self._drawn = []
        self._send(_ENTER)

    def leave(self) -> None:
        """Safe to repeat."""
        if self._inside:
            self._inside = False
            self._send(_LEAVE)

    def draw(self, rows: Sequence[Text]) -> None:
        """Send the rows that have changed.

        Raises:
            OSError: the terminal is gone.
        """
        resized = len(rows) != len(self._drawn)
        parts = ["\x1b[2J"] if resized and self._drawn else []
        for number, row in enumerate(rows):
            if resized or row != self._drawn[number]:
                parts.append(f"\x1b[{number + 1};1H{self._painted(row)}")
        self._drawn = list(rows)
        if parts:
            self._send("".join(parts))

    def _painted(self, row: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(row, end="", soft_wrap=True, highlight=False)
        return capture.get()

    def _send(self, text: str) -> None:
        self._out.write(encodable(text, self._encoding))
        self._out.flush()


def picture(rows: Sequence[Text], title: str) -> str:
    """The same screen as an SVG picture, which loads no font."""
    console = Console(record=True, file=io.StringIO(), width=max(cell_len(row.plain) for row in rows), force_terminal=True)
    for row in rows:
        console.print(row, highlight=False, soft_wrap=True)
    return _FONT_FACES.sub("", console.export_svg(title=title))
