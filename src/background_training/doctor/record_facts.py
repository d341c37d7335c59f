"""Reads what a root records: ledger, model, what the replays taught, and the newest episodes. Changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from background_training.doctor.facts import Line, Model, Records, Replays, Seen
from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import DELETED, TRAINED
from background_training.errors import EpisodeError, LedgerError, ModelError, ModelMissingError
from background_training.monitor.file_count import REPLAY_SUFFIX, count_files
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.settings import LimitSettings, ReplaySettings
from background_training.storage import atomic_files, model_store

RECENT_FATES = 200
EPISODES_READ = 60
_BYTES_READ = 100_000_000
_ARCHIVE_LOOKED_FOR = 200
_REPLAYS_COUNTED = 100_000


def records(paths: Paths) -> Records:
    try:
        lines = list(ledger_lines.read_lines(paths.ledger))
    except (LedgerError, OSError) as error:
        return Records(trouble=str(error))
    chain, chains = "", {""}
    for _, group in ledger_lines.groups(lines):
        chain = ledger_lines.chain_after(chain, group)
        chains.add(chain)
    fates = [line for line in lines if line["fate"] not in (DELETED, *ledger_lines.OF_NO_FILE)]
    return Records(
        counts=ledger_lines.counts_of(lines),
        recent=fates[-RECENT_FATES:],
        chains=frozenset(chains),
        gone=tuple(_gone(paths, lines)),
    )


def _gone(paths: Paths, lines: Sequence[Line]) -> Iterable[str]:
    deleted = ledger_lines.deleted_hashes(lines)
    newest = [line for line in lines if line["fate"] == TRAINED and line["sha256"] not in deleted][-_ARCHIVE_LOOKED_FOR:]
    for line in newest:
        # What was committed a moment ago, or before a crash, may still lie in the buffer.
        places = (paths.archive / line.get("archived_as", line["name"]), paths.buffer / line["name"])
        if not any(os.path.lexists(place) for place in places):
            yield str(line["name"])


def model(paths: Paths) -> Model:
    try:
        found = model_store.read(paths.model)
    except ModelMissingError:
        return Model(missing=True)
    except (ModelError, OSError) as error:
        return Model(trouble=str(error))
    floats = {name: array for name, array in found.arrays.items() if array.dtype.kind == "f"}
    return Model(
        version=found.version,
        state_width=found.state_width,
        actions=found.actions,
        manifest=found.manifest,
        not_finite=tuple(sorted(name for name, array in floats.items() if not np.isfinite(array).all())),
    )


def waiting_episodes(paths: Paths, limits: LimitSettings) -> tuple[Seen, ...]:
    """The newest files of the buffer, oldest first."""
    try:
        names = buffer.waiting_names(paths)
    except OSError:
        return ()
    return _read(paths.buffer, names, limits)


def trained_episodes(paths: Paths, found: Records, limits: LimitSettings) -> tuple[Seen, ...]:
    """The episodes trained on last, oldest first."""
    names = [line.get("archived_as", line["name"]) for line in found.recent if line["fate"] == TRAINED]
    return _read(paths.archive, names, limits)


def _read(folder: Path, names: Sequence[str], limits: LimitSettings) -> tuple[Seen, ...]:
    """The last of these files, a bounded number of bytes of them."""
    seen: list[Seen] = []
    room = _BYTES_READ
    for name in reversed(names[-EPISODES_READ:]):
        path = folder / name
        try:
            status = os.lstat(path)
            room -= status.st_size
            if room < 0:
                break
            data = atomic_files.read_regular_file(path, _BYTES_READ)
        except (OSError, OverflowError):
            continue  # moved on meanwhile, or another check's business
        try:
            seen.append(Seen(name, status.st_mtime, episode_file.read(data, limits)))
        except EpisodeError as error:
            seen.append(Seen(name, status.st_mtime, None, error.reason, str(error)))
    return tuple(reversed(seen))


def replays(paths: Paths, settings: ReplaySettings) -> Replays:
    if not settings.folder:
        return Replays()
    folder = Path(settings.folder).expanduser()
    counts = _replay_counts(paths)
    return Replays(
        folder_exists=folder.is_dir(),
        files=count_files(folder, REPLAY_SUFFIX, _REPLAYS_COUNTED),
        learnt=counts.get("learnt"),
        skipped=counts.get("skipped", {}),
    )


def _replay_counts(paths: Paths) -> dict[str, Any]:
    try:
        counts = json.loads(paths.build_orders.read_bytes())["counts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    sound = isinstance(counts, dict) and isinstance(counts.get("learnt"), int) and isinstance(counts.get("skipped"), dict)
    return counts if sound else {}
