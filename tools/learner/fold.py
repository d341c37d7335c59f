"""Training as a fold over the archive: the ledger's batches, trained again in their order, give the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from local_training import atomic_files, episode_file, model_store
from local_training.episode import Episode
from local_training.errors import LedgerError
from local_training.paths import Paths
from local_training.settings import LearningSettings, LimitSettings
from tools.learner import generation
from tools.learner.generation import Generation
from tools.learner.ledger import Line

# What was trained once is read again however large it is: the limits of today are for the files of today.
_NO_LIMITS = LimitSettings(
    max_memory_bytes=2**62, max_steps=2**62, max_state_width=2**62, max_actions=2**31, max_magnitude=float("inf")
)


def base_path(paths: Paths, chain: str) -> Path:
    """Where the copy of a model lies from which a history began anew."""
    return paths.history / f"base_{chain[:16]}.npz"


def fold(paths: Paths, groups: Iterable[tuple[int, Sequence[Line]]], start: Generation | None) -> Iterator[Generation]:
    """Train the batches of a ledger again, and yield each version.

    Args:
        groups: (version, its lines), oldest first, all after `start`.
        start: the version before the first group; None if the first group names its base.

    Raises:
        LedgerError: an episode or a base is missing, or has changed since it was trained on.
    """
    present = start
    for version, lines in groups:
        if "base" in lines[0]:
            present = _base(paths, lines[0])
        if present is None or present.version + 1 != version:
            found = f"there is nothing to go on from before version {version}"
            raise LedgerError(str(paths.ledger), found, "Use tools/rollback_model.py to go on from an earlier version")
        settings = _settings(lines[0], present)
        episodes = [episode_of(paths, line) for line in lines]
        present = generation.successor(present, [_bare(line) for line in lines], episodes, settings)
        yield present


def recent_of(paths: Paths, newest: Sequence[Line], settings: LearningSettings) -> tuple[Episode, ...]:
    """The episodes that may join the next batch again, read back from the archive.

    What the archive no longer holds ends the list: the newest come first in worth.
    """
    episodes: list[Episode] = []
    for line in reversed(newest):
        try:
            episodes.append(episode_of(paths, line))
        except LedgerError:
            break
        if len(generation.kept_recent(episodes[::-1], settings)) < len(episodes):
            break
    return generation.kept_recent(episodes[::-1], settings)


def episode_of(paths: Paths, line: Line) -> Episode:
    """The trained episode of a ledger line, from the archive or, before its move, from the buffer.

    Raises:
        LedgerError: it lies nowhere with the bytes it was trained with.
    """
    places = (paths.archive / line.get("archived_as", line["name"]), paths.buffer / line["name"])
    for place in places:
        try:
            data = atomic_files.read_regular_file(place)
        except (FileNotFoundError, atomic_files.NotARegularFileError):
            continue
        if hashlib.sha256(data).hexdigest() == line["sha256"]:
            return episode_file.read(data, _NO_LIMITS)
    found = f"{line['name']!a} of version {line['seq']} is not in the archive with the bytes it was trained with"
    raise LedgerError(str(paths.ledger), found, "Put the file back, or use tools/rollback_model.py to go on without it")


def _base(paths: Paths, line: Line) -> Generation:
    base = line["base"]
    if base["chain"] == "":
        width, actions = line["sizes"]
        return generation.untrained(width, actions, LearningSettings(**line["learning"]))
    path = base_path(paths, base["chain"])
    try:
        data = model_store.read_bytes(path)
    except FileNotFoundError:
        found = f"the model of version {base['version']}, from which the history goes on, is missing"
        raise LedgerError(str(path), found, "Put the file back, or use tools/rollback_model.py") from None
    return adopted(generation.load(data, str(path)), base["chain"])


def adopted(model: Generation, chain: str) -> Generation:
    """The model as a base: history begins with it, whatever it says of its own past."""
    record = {"kind": generation.BASE, "seq": model.version, "previous_chain": "", "chain": chain, "batch": []}
    return Generation(model.state, model.version, {**model.manifest, "commit": record}, model.data)


def settings_of(present: Generation) -> LearningSettings:
    """The learning settings that a version was trained with."""
    return LearningSettings(**present.manifest["hyper_parameters"])


def _settings(line: Line, present: Generation) -> LearningSettings:
    return LearningSettings(**line["learning"]) if "learning" in line else settings_of(present)


def _bare(line: Line) -> dict[str, object]:
    """The line without what `successor` adds to the first one of a batch."""
    return {key: value for key, value in line.items() if key not in ("recent", "base", "sizes", "learning")}
