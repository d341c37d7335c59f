"""The dashboard of the guides as lines of text, ranked for small screens, and the terminal or pipe they are printed to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from background_training.monitor import humanize, learner_state
from background_training.monitor.advice import Advice
from background_training.monitor.facts import ModelFileFacts, Snapshot
from background_training.monitor.folder_census import FolderFacts
from background_training.monitor.history import GAMES, Learning
from background_training.printable import encodable

REFRESH_SECONDS = 2.0
RULE = "=" * 78
THIN_RULE = "-" * 78
_COUNTED_LATELY_SECONDS = 3 * REFRESH_SECONDS

ESSENTIAL, USEFUL, DETAIL, _NEWEST_LOG_LINE, DECORATION = 0, 1, 2, 3, 100


@dataclass(frozen=True)
class Line:
    """One line; of lines that do not fit the screen, those of the highest rank go first."""

    text: str
    rank: int = ESSENTIAL


def lines(
    snapshot: Snapshot, seconds: float = REFRESH_SECONDS, learning: Learning | None = None, advised: Sequence[Advice] = ()
) -> list[Line]:
    """The whole dashboard, top to bottom; `seconds` from one to the next."""
    sections = [
        _header(snapshot),
        _folder("BUFFER DIRECTORY (Pending Training)", snapshot.buffer, snapshot.now, _buffer_words(snapshot.buffer)),
        _folder("ARCHIVE DIRECTORY (Processed)", snapshot.archive, snapshot.now, _archive_words(snapshot.archive)),
        _model(snapshot.model, snapshot.now),
        _learner(snapshot),
        _what_to_do(advised),
        _statistics(snapshot),
        _games(learning) if learning is not None and learning.games else [],
        _log(snapshot),
    ]
    shown = [line for section in sections if section for line in (*section, Line("", DECORATION))]
    footer = f"Refresh Rate: {seconds:g} seconds | Press Ctrl+C to stop monitoring"
    return [*shown, Line(RULE, DECORATION), Line(footer)]


def fitted(shown: Sequence[Line], rows: int) -> list[str]:
    """The texts of the lines that fit on `rows` rows; what does not fit goes by rank, and from the bottom up."""
    by_worth = sorted(range(len(shown)), key=lambda index: (shown[index].rank, index))
    return [shown[index].text for index in sorted(by_worth[:rows])]


def _header(snapshot: Snapshot) -> list[Line]:
    return [
        Line(RULE, DECORATION),
        Line("BACKGROUND TRAINING LIVE MONITOR"),
        Line(RULE, DECORATION),
        Line(f"Monitoring Started: {humanize.moment(snapshot.started)}", DETAIL),
        Line(f"Current Time:       {humanize.moment(snapshot.now)}", USEFUL),
        Line(f"Uptime:             {humanize.duration(snapshot.now - snapshot.started)}", DETAIL),
    ]


def _rows(pairs: Iterable[tuple[str, str, int]]) -> list[Line]:
    return [Line(f"  {key + ':':<14}{value}", rank) for key, value, rank in pairs]


def _folder(title: str, folder: FolderFacts, now: float, status: tuple[str, str]) -> list[Line]:
    sentence, recent_title = status
    head = [Line(title), *_rows([("Path", humanize.visible(folder.path), DETAIL)])]
    if folder.trouble:
        return [*head, *_rows([("Status", humanize.visible(folder.trouble), ESSENTIAL)])]
    count = humanize.plural(folder.count, "file")
    if now - folder.looked_at > _COUNTED_LATELY_SECONDS:
        count += f" (counted {humanize.ago(folder.looked_at, now)})"
    total = humanize.size(folder.total_bytes)
    if folder.measured < folder.count:
        total = f"at least {total} ({folder.measured:,} of {folder.count:,} files measured)"
    facts = [("File Count", count, ESSENTIAL), ("Total Size", total, USEFUL), ("Status", sentence, ESSENTIAL)]
    recent = [
        Line(f"    - {humanize.name(file.name)} ({humanize.size(file.size_bytes)}, {humanize.moment(file.modified)})", DETAIL)
        for file in folder.newest
    ]
    return [*head, *_rows(facts), *([Line(f"  {recent_title}:", DETAIL), *recent] if recent else [])]


def _buffer_words(folder: FolderFacts) -> tuple[str, str]:
    if folder.arrived:
        return f"+{humanize.plural(folder.arrived, 'new file')} detected!", "Recent Files"
    return ("no new files" if folder.count else "empty"), "Recent Files"


def _archive_words(folder: FolderFacts) -> tuple[str, str]:
    if folder.arrived:
        return f"+{humanize.plural(folder.arrived, 'file')} archived (training completed)", "Recently Archived"
    return "nothing newly archived", "Recently Archived"


def _model(model: ModelFileFacts, now: float) -> list[Line]:
    shown = [Line("MODEL STATUS"), *_rows([("Path", humanize.visible(model.path), DETAIL)])]
    if model.size_bytes is None or model.modified is None:
        return [*shown, *_rows([("Status", humanize.visible(model.trouble), ESSENTIAL)])]
    version = "unknown" if model.version is None else f"{model.version:,}"
    status = ("Status", humanize.visible(model.trouble), ESSENTIAL) if model.trouble else ("Status", "Model exists", USEFUL)
    return shown + _rows(
        [
            status,
            ("Size", humanize.size(model.size_bytes), DETAIL),
            ("Modified", humanize.moment(model.modified), DETAIL),
            ("Update", f"Model updated {humanize.ago(model.modified, now)}!", ESSENTIAL),
            ("Version", version, ESSENTIAL),
        ]
    )


def _learner(snapshot: Snapshot) -> list[Line]:
    stats = learner_state.current_stats(snapshot)
    shown = [Line("LEARNER"), *_rows([("State", learner_state.state_words(snapshot.status, snapshot.now), ESSENTIAL)])]
    if snapshot.pause is not None:
        shown += _rows([("Paused", f"{humanize.visible(snapshot.pause.words)}; --resume ends it", ESSENTIAL)])
    if not stats:
        return shown
    active, most = humanize.number(stats.get("active_workers", "?"), "d"), humanize.number(stats.get("max_workers", 0), "d")
    restarts = humanize.number(stats.get("worker_restarts", 0), "d")
    errors = humanize.number(stats.get("errors", 0), "d")
    error = humanize.visible(stats.get("last_error") or "none", 400)
    governed = ": ".join(part for part in learner_state.throttle(snapshot) if part)
    return shown + _rows(
        [
            ("Worker", f"{active}/{most} active, {restarts} restarts", USEFUL),
            ("Governor", governed or "-", USEFUL),
            ("Errors", errors, USEFUL),
            ("Last Error", error, ESSENTIAL if stats.get("last_error") else DETAIL),
        ]
    )


def _what_to_do(advised: Sequence[Advice]) -> list[Line]:
    told = [Line(text, ESSENTIAL) for item in advised for text in (f"  {item.seen}", f"    {item.cure}")]
    return [Line("WHAT TO DO"), *told] if told else []


_STATISTICS = (
    ("Files Processed", "files_processed", ",d"),
    ("Batch Training Runs", "batches_trained", ",d"),
    ("Total Samples", "total_samples", ",d"),
    ("Processing Time", "total_processing_time", ".2f"),
    ("Average Loss", "avg_loss", ".4f"),
    ("Last Loss", "last_loss", ".4f"),
    ("Mean Return", "mean_return", ".4g"),
    ("Files Skipped (Old)", "files_skipped_old", ",d"),
    ("Files Rejected", "files_rejected", ",d"),
    ("Files Duplicate", "files_duplicate", ",d"),
)


def _statistics(snapshot: Snapshot) -> list[Line]:
    """Two statistics to a line."""
    stats = learner_state.current_stats(snapshot)
    cells = [f"{title + ':':<22}{humanize.number(stats[key], form)}" for title, key, form in _STATISTICS if key in stats]
    if not cells:
        return []
    rows = ["".join(f"  {cell:<36}" for cell in cells[start : start + 2]).rstrip() for start in range(0, len(cells), 2)]
    return [Line("TRAINING STATISTICS", USEFUL), *(Line(row, USEFUL) for row in rows)]


def _games(learning: Learning) -> list[Line]:
    """Results of the newest games, as in the live screen's curves."""
    mean = f"{humanize.number(learning.mean_return, '.4g')} of {humanize.plural(learning.games, 'game')}"
    won = f"{learning.won} of {learning.decided}" if learning.decided else "no results recorded"
    shown = [Line(f"NEWEST GAMES (at most {GAMES})", USEFUL)]
    return shown + _rows([("Mean Return", mean, USEFUL), ("Won", won, USEFUL)])


def _log(snapshot: Snapshot) -> list[Line]:
    shown = [Line("TRAINING LOG (Last 10 lines)", USEFUL)]
    if not snapshot.log_lines:
        return [*shown, Line("  nothing logged yet", USEFUL)]
    count = len(snapshot.log_lines)
    texts = [f"  {humanize.visible(text)}" for text in snapshot.log_lines]
    return shown + [Line(text, _NEWEST_LOG_LINE + count - 1 - index) for index, text in enumerate(texts)]


_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR = "\x1b[2J"


class Screen:
    """Shows one dashboard after the other: over the last one, cut to the screen, or whole and below it."""

    def __init__(self, out: TextIO, *, overwrite: bool) -> None:
        """`overwrite` applies to a terminal only; a pipe or a file gets every dashboard whole."""
        self._out = out
        self._is_terminal = overwrite and out.isatty()
        self._first = True
        if self._is_terminal and sys.platform == "win32":
            os.system("")  # an old console interprets escape codes only after a shell has run in it

    def show(self, shown: Sequence[Line]) -> None:
        """Show the lines.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
        """
        if not self._is_terminal:
            text = "\n".join(line.text for line in shown) + "\n"
        else:
            columns, rows = shutil.get_terminal_size()
            kept = [text[: columns - 1] for text in fitted(shown, rows - 1)]
            # Overwritten, not cleared first: otherwise the screen would flicker at every refresh.
            body = "".join(f"{text}{_END_OF_LINE}\n" for text in kept)
            text = f"{_CLEAR if self._first else ''}{_HOME}{body}{_END_OF_SCREEN}"
        self._first = False
        self._out.write(encodable(text, self._out.encoding))
        self._out.flush()
