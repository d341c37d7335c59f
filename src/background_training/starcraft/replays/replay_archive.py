"""A folder of replays with the results and the summary of one root: which files are to be read, and what follows from them.

The process may be killed between any two steps. A result is written before its file counts as done; index and summary are derived
from the results, so a later run makes the same ones.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from background_training.paths import Paths
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis, summary
from background_training.starcraft.replays.analysis import ReplayResult
from background_training.starcraft.replays.results_store import ResultsStore, Sighting, find_replays, is_current, shortened
from background_training.starcraft.replays.worker import HUMBLE
from background_training.starcraft.replays.worker_pool import WorkerPool
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

_FUTURE_SECONDS = 3600.0


class ReplayArchive:
    """The replays of one folder, and the results and summary of one root."""

    def __init__(self, paths: Paths, settings: ReplaySettings, folder: str) -> None:
        self.paths = paths
        self.settings = settings
        self.folder = os.path.abspath(folder)
        self.store = ResultsStore(paths.replay_results)
        self.results = {result["sha256"]: result for result in self.store.all_results(summary.OPENING_LINES)}
        self._tried: set[tuple[str, int, int]] = set()
        self._statuses: dict[str, os.stat_result] = {}

    def prepare(self) -> None:
        """Make the folders that are written to.

        Raises:
            OSError: one of them can't be made.
        """
        self.store.prepare()
        self.paths.models.mkdir(parents=True, exist_ok=True)

    def look(self, *, settled_before: float | None = None, retry_failed: bool = False) -> list[str]:
        """The replays that have to be read, in the order of names.

        These are new or changed, could not be opened last time, or failed with another version of the library. Each state of a
        file is returned once.

        Args:
            settled_before: leave out files modified after this time (seconds since 1970), since they may be unfinished.
            retry_failed: include those that failed with this version of the library.
        """
        found = find_replays(self.folder, self._moved_to())
        self.store.forget_vanished(self.folder, found)
        return [path for path, status in found.items() if self._has_to_be_read(path, status, settled_before, retry_failed)]

    def _has_to_be_read(self, path: str, status: os.stat_result, settled_before: float | None, retry_failed: bool) -> bool:
        state = (path, status.st_size, status.st_mtime_ns)
        if state in self._tried or (settled_before is not None and _may_be_unfinished(status.st_mtime - settled_before)):
            return False
        self._statuses[path] = status
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            self.store.see(path, Sighting(status.st_size, status.st_mtime_ns, "", "not-a-file"))
            return False
        seen = self.store.unchanged(path, status)
        known = self.results.get(seen.sha256) if seen else None
        if known is not None and is_current(known, analysis.made_with(self.settings), analysis.library_version()):
            return retry_failed and known["reason"] in analysis.FAILURES
        return True

    def take(self, path: str, result: ReplayResult) -> None:
        """Store the result of a file, and move the file if `move_analysed_to` is set.

        Raises:
            OSError: the result could not be stored.
            LockUnavailableError: another process holds the results.
        """
        status = self._statuses[path]
        self._tried.add((path, status.st_size, status.st_mtime_ns))
        if not result["sha256"]:
            self.store.see(path, Sighting(status.st_size, status.st_mtime_ns, "", result["reason"]))
            return
        if self.results.get(result["sha256"], {}) != result:
            self.store.put(result)
            self.results[result["sha256"]] = shortened(result, summary.OPENING_LINES)
        if self.settings.move_analysed_to and result["reason"] not in analysis.FAILURES:
            path = self._move(path)
        self.store.see(path, Sighting(status.st_size, status.st_mtime_ns, result["sha256"]))

    def write_summary(self) -> bool:
        """Update index and summary; True if the summary's bytes have changed.

        Raises:
            OSError: a file could not be written, and is unchanged.
        """
        self.store.save_index()
        data = summary.to_bytes(self.summarise())
        try:
            if self.paths.build_orders.read_bytes() == data:
                return False
        except FileNotFoundError:
            pass
        with self.store.writing():
            atomic_files.write_atomically(self.paths.build_orders, data, durable=True)
        return True

    def summarise(self) -> dict[str, Any]:
        seen = self.store.sightings.values()
        files = Counter(sighting.sha256 for sighting in seen if sighting.sha256)
        without_content = Counter(sighting.reason for sighting in seen if not sighting.sha256)
        return summary.summarise(self.results.values(), files, without_content)

    def details(self) -> Iterator[dict[str, Any]]:
        """The result of each replay in the folder, in the order of names, with duplicates marked.

        Of files with the same content, the last by name is the original: "name.SC2Replay" comes after "name (1).SC2Replay".
        """
        _, duplicates = summary.without_duplicates(self.results.values())
        sightings = {path: self.store.sightings.get(path) for path in find_replays(self.folder, self._moved_to())}
        stands_for = {sighting.sha256: path for path, sighting in sightings.items() if sighting}
        for path, sighting in sightings.items():
            if sighting is None:
                continue  # it is newer than the last `look`
            facts = self._facts(sighting)
            is_copy = sighting.sha256 in duplicates or stands_for[sighting.sha256] != path
            if facts["verdict"] == analysis.LEARN and is_copy:
                facts["verdict"], facts["reason"] = analysis.SKIP, "duplicate"
            yield {"file": path, **facts}

    def _facts(self, sighting: Sighting) -> dict[str, Any]:
        result = self.store.get(sighting.sha256) if sighting.sha256 else None
        if result is None:
            return {"sha256": None, "verdict": analysis.SKIP, "reason": sighting.reason, "detail": "", "players": []}
        order = ("sha256", "verdict", "reason", "detail", "version", "map", "played_at", "seconds", "players")
        facts: dict[str, Any] = dict(result)
        return {name: facts[name] for name in order}

    def write_details(self, file: Path) -> int:
        """Write one line of JSON per replay; the number of lines.

        Raises:
            OSError: the file could not be written, and is unchanged.
        """
        lines = [json.dumps(facts) + "\n" for facts in self.details()]
        atomic_files.write_atomically(file, "".join(lines).encode(), durable=False)
        return len(lines)

    def _moved_to(self) -> str:
        return os.path.abspath(self.settings.move_analysed_to) if self.settings.move_analysed_to else ""

    def _move(self, path: str) -> str:
        """Move an analysed replay; its path afterwards, which is the former one if it can't be moved."""
        folder = Path(self._moved_to())
        source = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, 1000):
                name = source.name if number == 1 else f"{source.stem} ({number}){source.suffix}"
                if not atomic_files.exists(folder / name):
                    atomic_files.move(source, folder / name)
                    return str(folder / name)
        except OSError as error:
            logger.warning("%s stays where it is: %s", path, error)
        return path


def _may_be_unfinished(seconds_late: float) -> bool:
    """Whether a file was modified so recently that it may grow; a time far in the future means that a clock was wrong."""
    return 0 < seconds_late < _FUTURE_SECONDS


def analyse_some(root: str, folder: str, settings: ReplaySettings, max_files: int = 20) -> dict[str, int]:
    """Read up to `max_files` new replays and update the summary: one periodic job of the learner.

    It reads in child processes of the lowest priority, so that a file that hangs costs its time limit only. It may be killed at
    any moment: those processes end with it, and the next call continues.

    Args:
        root: the root of the project's files, as for `Paths`.
        folder: of the replays.

    Returns:
        counts: "read" now, "left" to read, "seen", "learnt".

    Raises:
        OSError: results or summary can't be written.
        WorkerError: no process can be started.
        ReplayError: sc2reader is not installed.
    """
    archive = ReplayArchive(Paths(Path(root)), settings, folder)
    archive.prepare()
    waiting = archive.look(settled_before=time.time() - settings.settle_seconds)
    if waiting:
        analysis.demand_library()
        with WorkerPool(settings, archive.paths.replay_results, HUMBLE) as pool:
            for path, result in pool.read(waiting[:max_files]):
                archive.take(path, result)
    archive.write_summary()
    counts = archive.summarise()["counts"]
    return {
        "read": min(max_files, len(waiting)),
        "left": max(0, len(waiting) - max_files),
        "seen": int(counts["seen"]),
        "learnt": int(counts["learnt"]),
    }


MAX_FILES = 10
"""Replays per job; between two jobs the learner checks whether episodes wait, which go first."""


def analyse_new(root: str, settings: dict[str, Any]) -> dict[str, int]:
    """Analyse some of the replays that are new in `settings["folder"]`; see replay_archive.analyse_some."""
    chosen = ReplaySettings(**settings)
    return analyse_some(root, chosen.folder, chosen, MAX_FILES)
