"""Stores the results of replays: one JSON file per content, and an index from file names to contents.

It promises that a result is complete or absent, whenever a process is killed, and that the same content is read only once.
It does not promise to keep the index, which only saves hashing and is rebuilt if it is missing or malformed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import filelock

from background_training.errors import LockUnavailableError
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.analysis import ANALYSIS, ReplayResult
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

INDEX_NAME = "index.json"
INDEX_FORMAT = 1
LOCK_SECONDS = 10.0
SUFFIX = ".SC2Replay"


class Sighting(NamedTuple):
    """A file as it was when it was last seen.

    sha256: of its content; "" if that could not be read, for the `reason`.
    """

    size: int
    modified_ns: int
    sha256: str
    reason: str = ""


class ResultsStore:
    """The results below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sightings: dict[str, Sighting] = {}
        self._load_index()

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            OSError: it can't be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)

    # results

    def path_of(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.json"

    def get(self, sha256: str) -> ReplayResult | None:
        """The result for a content; None if it is missing or malformed."""
        return read_result(self.path_of(sha256))

    def put(self, result: ReplayResult) -> None:
        """Store a result.

        Raises:
            OSError: it was not stored.
        """
        data = json.dumps(result, separators=(",", ":"), sort_keys=True).encode()
        with self.writing():
            atomic_files.write_atomically(self.path_of(result["sha256"]), data, durable=False)

    def all_results(self, max_lines: int) -> Iterator[ReplayResult]:
        """Every readable result of this analysis, in the order of hashes, with the first `max_lines` of each build order.

        Otherwise the whole build orders of thousands of games would fill the memory, though only their openings are needed.
        """
        for name in sorted(os.listdir(self.folder)) if self.folder.is_dir() else []:
            if name.endswith(".json") and name != INDEX_NAME and not name.startswith("."):
                result = read_result(self.folder / name)
                if result is not None and result["made_with"].startswith(f"analysis {ANALYSIS},"):
                    yield shortened(result, max_lines)

    # index

    def unchanged(self, path: str, status: os.stat_result) -> Sighting | None:
        """The last sighting of a file, if the file has not changed since and had content."""
        seen = self.sightings.get(path)
        if seen is None or not seen.sha256 or (seen.size, seen.modified_ns) != (status.st_size, status.st_mtime_ns):
            return None
        return seen

    def see(self, path: str, sighting: Sighting) -> None:
        self.sightings[path] = sighting

    def forget_vanished(self, folder: str, present: Iterable[str]) -> None:
        """Remove files from the index that have disappeared from `folder`."""
        kept = set(present)
        inside = os.path.join(folder, "")
        for path in [path for path in self.sightings if path.startswith(inside) and path not in kept]:
            if not os.path.lexists(path):
                del self.sightings[path]

    def save_index(self) -> None:
        """Write the index.

        Raises:
            OSError: the index on disk is unchanged.
        """
        index = {"format": INDEX_FORMAT, "files": dict(sorted(self.sightings.items()))}
        with self.writing():
            atomic_files.write_atomically(self.folder / INDEX_NAME, json.dumps(index).encode(), durable=False)

    def _load_index(self) -> None:
        path = self.folder / INDEX_NAME
        try:
            index = json.loads(path.read_bytes())
            if index["format"] == INDEX_FORMAT:
                self.sightings = {name: Sighting(*seen) for name, seen in index["files"].items()}
        except (FileNotFoundError, NotADirectoryError):
            pass  # `prepare` makes the folder, or raises
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s can't be read (%s); every replay is hashed again", path, error)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the store for a write, since a command and a learner may store results in the same root.

        Raises:
            LockUnavailableError: another process held the lock for ten seconds, or the folder can't be locked.
        """
        lock = filelock.FileLock(str(self.folder / ".lock"), timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError) as error:
            raise LockUnavailableError(lock.lock_file, str(error)) from error
        try:
            yield
        finally:
            lock.release()


def read_result(path: Path) -> ReplayResult | None:
    """A result from its file; None if it is missing or malformed, and then its replay is read again."""
    try:
        result = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read (%s); its replay is read again", path, error)
        return None
    if not isinstance(result, dict) or result.keys() != ReplayResult.__required_keys__:
        return None
    return cast(ReplayResult, result)


def shortened(result: ReplayResult, max_lines: int) -> ReplayResult:
    """The result with the first `max_lines` of each build order; in place."""
    for player in result["players"]:
        del player["build_order"][max_lines:]
    return result


def is_current(result: ReplayResult, made_with: str, library: str) -> bool:
    """Whether a result is up to date; a failure is, until the version of the library changes."""
    if result["made_with"] != made_with:
        return False
    return result["reason"] not in analysis.FAILURES or result["library"] == library


def find_replays(folder: str, exclude: str = "") -> dict[str, os.stat_result]:
    """Everything below `folder` with the name of a replay, files or not, in the order of names.

    Args:
        folder: absolute; or a single replay.
        exclude: a folder that is not entered, such as the one that analysed replays are moved to.
    """
    if not os.path.isdir(folder):
        return {folder: os.stat(folder)}
    found: dict[str, os.stat_result] = {}
    for place, folders, files in os.walk(folder):
        named = [name for name in folders if name.lower().endswith(SUFFIX.lower())]
        folders[:] = sorted(name for name in folders if name not in named and os.path.join(place, name) != exclude)
        for name in (*named, *files):
            if name.lower().endswith(SUFFIX.lower()) and not name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    found[os.path.join(place, name)] = os.lstat(os.path.join(place, name))
    return dict(sorted(found.items()))
