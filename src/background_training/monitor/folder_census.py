"""Counts and measures the episodes of a folder repeatedly, without a stat() of every file each time."""

from __future__ import annotations

import dataclasses
import heapq
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from background_training.paths import is_episode_name

NEWEST_SHOWN = 3
MEASURED_PER_LOOK = 20_000
MEASURED_ANEW = 1_000
"""Up to this many files are all measured at every look, as other writers let files grow in place."""
NAMES_KEPT = 200_000
REST_FACTOR = 20.0
"""A slow look is followed by a rest of this many times its length: 5 % of a core at most."""
LONGEST_TRUST_SECONDS = 60.0
"""An unchanged folder time is trusted for this long at most, as network drives may cache an old one."""
_COARSEST_FOLDER_TIME_SECONDS = 2.0


@dataclass(frozen=True)
class FileFacts:
    """One file; `modified` is in seconds since 1970."""

    name: str
    size_bytes: int
    modified: float


@dataclass(frozen=True)
class FolderFacts:
    """One folder of episodes, as the last look found it.

    trouble: why the folder can't be read; "" if it can.
    count: episode files in it.
    measured: of how many of them the size is known; `total_bytes` is the sum of those.
    newest: the newest of the measured ones, newest first.
    arrived: files that the look before did not see; 0 at the first.
    looked_at: seconds since 1970.
    """

    path: str
    trouble: str = ""
    count: int = 0
    measured: int = 0
    total_bytes: int = 0
    newest: tuple[FileFacts, ...] = ()
    arrived: int = 0
    looked_at: float = 0.0


class FolderCensus:
    """The episodes of one folder, counted repeatedly.

    The count is exact and the work bounded: a look lists the names at most once and measures a bounded number of
    files, unmeasured ones with the greatest names first, as ours begin with their date. So the size of a folder of
    100,000 files is complete after some looks, and "at least" that much until then. The facts may be old by
    `rest_factor` times the length of a look; `looked_at` says how old.
    """

    def __init__(
        self,
        path: Path,
        *,
        measured_per_look: int = MEASURED_PER_LOOK,
        rest_factor: float = REST_FACTOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._measured_per_look = measured_per_look
        self._rest_factor = rest_factor
        self._clock = clock
        self._due = float("-inf")
        self._listed_at = float("-inf")
        self._folder_time: float | None = None
        self._known: dict[str, tuple[int, float] | None] = {}
        self._last: FolderFacts | None = None

    def look(self, now: float) -> FolderFacts:
        """What the folder holds now, or did at the last look if the next is not due yet; `now` is the wall clock's time."""
        begun = self._clock()
        if self._last is not None and begun < self._due:
            return self._last
        try:
            facts = self._looked(now)
        except FileNotFoundError:
            facts = self._forgotten("not there yet", now)
        except OSError as error:
            facts = self._forgotten(f"can't be listed: {error.strerror or error}", now)
        self._due = self._clock() + self._rest_factor * (self._clock() - begun)
        self._last = facts
        return facts

    def _forgotten(self, trouble: str, now: float) -> FolderFacts:
        self._known = {}
        self._folder_time = None
        return FolderFacts(str(self._path), trouble, looked_at=now)

    def _looked(self, now: float) -> FolderFacts:
        folder_time = os.stat(self._path).st_mtime
        if self._last is not None and self._is_unchanged(self._last, folder_time):
            return dataclasses.replace(self._last, arrived=0, looked_at=now)
        # A change within the same tick of a coarse clock would leave the folder's time as it is; so a young one proves nothing.
        self._folder_time = folder_time if now - folder_time > _COARSEST_FOLDER_TIME_SECONDS else None
        self._listed_at = self._clock()
        return self._listed(now)

    def _is_unchanged(self, last: FolderFacts, folder_time: float) -> bool:
        """Whether another listing would find nothing else; small folders are listed always, as files grow in place."""
        trusted = self._clock() - self._listed_at < LONGEST_TRUST_SECONDS
        return trusted and folder_time == self._folder_time and last.count == last.measured > MEASURED_ANEW

    def _listed(self, now: float) -> FolderFacts:
        names, count = self._names()
        before = self._known
        arrived = sum(name not in before for name in names) if count == len(names) else count - self._count_before()
        first = self._last is None or bool(self._last.trouble)
        anew = count <= MEASURED_ANEW
        self._known = {name: None if anew else before.get(name) for name in names}
        self._measure()
        measured = {name: facts for name, facts in self._known.items() if facts is not None}
        newest = heapq.nlargest(NEWEST_SHOWN, measured.items(), key=lambda item: (item[1][1], item[0]))
        return FolderFacts(
            path=str(self._path),
            count=count,
            measured=len(measured),
            total_bytes=sum(facts[0] for facts in measured.values()),
            newest=tuple(FileFacts(name, *facts) for name, facts in newest),
            arrived=0 if first else max(arrived, 0),
            looked_at=now,
        )

    def _count_before(self) -> int:
        return self._last.count if self._last else 0

    def _names(self) -> tuple[list[str], int]:
        """The names of the episodes, up to NAMES_KEPT of them, and how many there are."""
        names: list[str] = []
        count = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                if is_episode_name(entry.name):
                    count += 1
                    if len(names) < NAMES_KEPT:
                        names.append(entry.name)
        return names, count

    def _measure(self) -> None:
        """Read size and time of files not measured yet, a bounded number of them."""
        unknown = [name for name, facts in self._known.items() if facts is None]
        if len(unknown) > self._measured_per_look:
            unknown = heapq.nlargest(self._measured_per_look, unknown)
        for name in unknown:
            try:
                status = os.lstat(os.path.join(self._path, name))
            except OSError:
                continue  # moved meanwhile, or not accessible
            self._known[name] = (status.st_size, status.st_mtime)
