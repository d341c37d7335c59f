"""When the disk of a root will be full at the present rate, and which settings bound what grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from background_training.episodes.buffer import TRAINED
from background_training.paths import Paths
from background_training.records.ledger_lines import parse
from background_training.settings import RetentionSettings
from background_training.storage.atomic_files import free_bytes

_TAIL_BYTES = 256_000
_MOST_FILES = 100
_FEWEST_GAMES = 20
_FEWEST_SECONDS = 60.0
_WEEK_SECONDS = 604_800.0
_DAY_SECONDS = 86_400.0
_LOOK_SECONDS = 60.0
SOON_DAYS = 30.0
"""A forecast below this is reported unasked."""


@dataclass(frozen=True)
class GrowthRate:
    """How fast a root has grown over its newest games.

    games: the size of the sample.
    games_per_second: from the times at which their files were written.
    archive_bytes, ledger_bytes: of one game.
    """

    games: int
    games_per_second: float
    archive_bytes: float
    ledger_bytes: float


@dataclass(frozen=True)
class Forecast:
    """days: until the disk is full. sentence: for a person. remedy: the settings that bound what grows."""

    days: float
    sentence: str
    remedy: str


def forecast(growth: GrowthRate | None, free: float | None, retention: RetentionSettings) -> Forecast | None:
    """When `free` bytes are used up; None if unknown, or if everything that grows is bounded."""
    if growth is None or free is None:
        return None
    archive_is_bounded = bool(retention.archive_files or retention.archive_bytes or retention.archive_days)
    archive = 0.0 if archive_is_bounded else growth.games_per_second * growth.archive_bytes
    ledger = 0.0 if retention.ledger_lines else growth.games_per_second * growth.ledger_bytes
    if archive + ledger <= 0.0:
        return None
    days = free / (archive + ledger) / _DAY_SECONDS
    grows = [f"the archive grows by {_size(archive * _WEEK_SECONDS)}"] if archive else []
    grows += [f"the ledger grows by {_size(ledger * _WEEK_SECONDS)}"] if ledger else []
    bounds = ["retention.archive_bytes (or archive_files, archive_days) bounds the archive"] if archive else []
    bounds += ["retention.ledger_lines bounds the ledger"] if ledger else []
    rate = f"At the rate of the last {growth.games} games ({growth.games_per_second:.3g} a second)"
    full = f"the disk is full in {_duration(days)} ({_size(free)} free)"
    return Forecast(days, f"{rate} {' and '.join(grows)} a week: {full}", "; ".join(bounds))


def measured_growth(paths: Paths) -> GrowthRate | None:
    """From the last lines of the ledger and their files; None if these are too few or of one moment."""
    try:
        with open(paths.ledger, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            texts = file.read(_TAIL_BYTES).split(b"\n")[size > _TAIL_BYTES :]
    except OSError:
        return None
    found = [(line, len(text) + 1) for text in texts if (line := parse(text)) is not None and line["fate"] == TRAINED]
    if len(found) < _FEWEST_GAMES:
        return None
    chosen = {round(step * (len(found) - 1) / (_MOST_FILES - 1)) for step in range(_MOST_FILES)}
    files = [_size_and_time(paths.archive / found[index][0].get("archived_as", found[index][0]["name"])) for index in chosen]
    there = [file for file in files if file is not None]
    times = [written for _, written in there]
    if len(there) < _FEWEST_GAMES or (seconds := max(times) - min(times)) < _FEWEST_SECONDS:
        return None
    ledger_bytes = sum(length for _, length in found) / len(found)
    return GrowthRate(len(found), len(found) / seconds, sum(size for size, _ in there) / len(there), ledger_bytes)


def look(paths: Paths, retention: RetentionSettings) -> Forecast | None:
    """The forecast of a root as it is now."""
    return forecast(measured_growth(paths), free_bytes(paths.root), retention)


class ForecastWatch:
    """The forecast for a monitor, updated once a minute."""

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths, self._clock = paths, clock
        self._due = float("-inf")
        self._last: Forecast | None = None

    def look(self, settings: object) -> Forecast | None:
        """Args: settings: the learner's, as its status has them; what can't be read counts as the defaults."""
        if self._clock() >= self._due:
            self._due = self._clock() + _LOOK_SECONDS
            self._last = look(self._paths, _retention_of(settings))
        return self._last


def _retention_of(settings: object) -> RetentionSettings:
    section = settings.get("retention") if isinstance(settings, Mapping) else None
    try:
        return RetentionSettings(**section) if isinstance(section, Mapping) else RetentionSettings()
    except (TypeError, ValueError):
        return RetentionSettings()


def _size_and_time(path: Path) -> tuple[int, float] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # deleted since, or an impossible file name
        return None
    return found.st_size, found.st_mtime


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _duration(days: float) -> str:
    if days < 2.0:
        return f"{days * 24.0:.2g} hours"
    return f"{days:.0f} days" if days < 730.0 else f"{days / 365.0:.0f} years"
