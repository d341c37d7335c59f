"""Gathers the facts of a report on one root: ledger, model, a sample of the archive. Changes nothing."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from background_training import settings_file
from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import EpisodeError, ModelError, ModelMissingError
from background_training.paths import Paths
from background_training.records import episode_fate, ledger_lines
from background_training.settings import RENAMED, Settings
from background_training.storage import atomic_files, model_store

SAMPLED_EPISODES = 3000
_LARGEST_SAMPLE = 5_000_000
_WON = {"victory", "win", "won"}
_DECIDED = _WON | {"defeat", "loss", "lose", "lost", "tie", "draw"}

Line = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GameSample:
    """The metadata of one trained episode.

    number: which trained game it is, from 1.
    lag: how many versions old the policy was that played; None if not recorded.
    won: True or False if a result is known.
    """

    number: int
    moment: float
    lag: int | None
    won: bool | None
    opponent: str
    map: str
    game: str


@dataclass(frozen=True)
class Reason:
    """Why files were rejected, stale or duplicates: their number, and an example."""

    fate: str
    kind: str
    count: int
    example: str


@dataclass(frozen=True)
class RunFacts:
    """Everything in the report. returns, steps, versions: one per trained game, in the order of training;
    stale_steps: one per stale game, if the ledger has its steps."""

    returns: Floats
    steps: Floats
    versions: Floats
    stale_steps: Floats = field(default_factory=lambda: np.empty(0))
    samples: tuple[GameSample, ...] = ()
    fates: Counter[str] = field(default_factory=Counter)
    reasons: tuple[Reason, ...] = ()
    waiting: int = 0
    model_version: int = 0
    model_trouble: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    machine: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str, str], ...] = ()


def gather(settings: Settings, sampled: int = SAMPLED_EPISODES) -> RunFacts:
    """Read one root.

    Args:
        sampled: of how many trained episodes the files are read, evenly over all of them.

    Raises:
        LedgerError: the ledger is damaged.
        OSError: the machine failed.
    """
    paths = settings.paths
    lines = list(ledger_lines.read_lines(paths.ledger))
    trained = [line for line in lines if line["fate"] == TRAINED]
    version, manifest, trouble = _model(paths)
    return RunFacts(
        returns=_column(trained, "return"),
        steps=_column(trained, "steps"),
        versions=_column(trained, "seq"),
        stale_steps=_column([line for line in lines if line["fate"] == STALE and "steps" in line], "steps"),
        samples=tuple(_samples(paths, trained, sampled)),
        fates=ledger_lines.counts_of(lines),
        reasons=tuple(_reasons(lines)),
        waiting=_waiting(paths),
        model_version=version,
        model_trouble=trouble,
        manifest=manifest,
        machine=tuple(_machine()),
        settings=tuple(_changed_settings(settings, manifest)),
    )


def private_words(paths: Paths) -> list[str]:
    """Private words for a page that is published: the root's path, the user's name and the machine's."""
    words = {str(paths.root), os.path.realpath(paths.root), str(Path.home()), platform.node()}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        words.add(getpass.getuser())
    return sorted((word for word in words if len(word) > 2), key=len, reverse=True)


def _column(lines: Sequence[Line], key: str) -> Floats:
    values = [line.get(key) for line in lines]
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float64)


def _waiting(paths: Paths) -> int:
    try:
        return len(buffer.waiting_names(paths))
    except OSError:
        return 0


def _model(paths: Paths) -> tuple[int, Mapping[str, Any], str]:
    try:
        model = model_store.read(paths.model, model_store.POLICY_KEYS)
    except ModelMissingError:
        return 0, {}, "There is no model yet."
    except ModelError as error:
        return 0, {}, f"The model can't be read: {error.found}."
    return model.version, model.manifest, ""


def _samples(paths: Paths, trained: Sequence[Line], most: int) -> Iterable[GameSample]:
    for index in np.unique(np.linspace(0, len(trained) - 1, min(most, len(trained))).astype(int)):
        line = trained[index]
        path = paths.archive / line.get("archived_as", line["name"])
        try:
            moment = os.lstat(path).st_mtime
            episode = episode_file.read(atomic_files.read_regular_file(path, _LARGEST_SAMPLE))
        except (OSError, OverflowError, EpisodeError):
            continue  # deleted since, or too large for a look in passing
        played, meta = episode.policy_version, episode.meta
        lag = None if played is None else max(int(line["seq"]) - 1 - played, 0)
        yield GameSample(int(index) + 1, moment, lag, _won(meta), *(_text(meta.get(key)) for key in ("opponent", "map", "game")))


def _won(meta: Mapping[str, Any]) -> bool | None:
    word = str(meta.get("result", ""))[:20].casefold()
    return word in _WON if word in _DECIDED else None


def _text(value: object) -> str:
    return str(value)[:80] if isinstance(value, (str, int, float)) else ""


def _reasons(lines: Iterable[Line]) -> list[Reason]:
    """The reasons of files that were not trained, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for line in lines:
        if line["fate"] in (STALE, DUPLICATE, REJECTED):
            words = str(line.get("reason", ""))
            key = line["fate"], episode_fate.kind_of(line["fate"], words)
            counts[key] += 1
            examples[key] = episode_fate.without_code(words)
    return [Reason(fate, kind, count, examples[fate, kind]) for (fate, kind), count in counts.most_common()]


def _machine() -> Iterable[tuple[str, str]]:
    yield "System", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "Processors", str(os.cpu_count() or "unknown")
    yield "Memory", f"{psutil.virtual_memory().total / 2**30:.1f} GB"
    yield "Python", platform.python_version()
    yield "NumPy", np.__version__


def _changed_settings(settings: Settings, manifest: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """(key, value, default) of what differs from the defaults; what was learnt with stands in the model. No paths."""
    usual, given = settings_file.as_sections(Settings()), settings_file.as_sections(settings)
    learnt = manifest.get("hyper_parameters")
    recorded: Mapping[str, Any] = learnt if isinstance(learnt, Mapping) else {}
    given["learning"].update((RENAMED.get(f"learning.{key}", key), value) for key, value in recorded.items())
    for section, values in given.items():
        for key, value in values.items():
            default = usual[section].get(key)
            if key in usual[section] and value != default and (section, key) not in _PRIVATE:
                yield f"{section}.{key}", str(value), str(default)


_PRIVATE = {("replays", "folder"), ("replays", "move_analysed_to")}
