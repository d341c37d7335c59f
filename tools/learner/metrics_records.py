"""Makes the records of the metrics history: of a batch and its games just trained, or from what the ledger tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from local_training import metrics
from local_training.episode import Episode
from local_training.errors import EpisodeError, LedgerError
from local_training.metrics import BATCHES, GAMES, GOVERNOR_STATES
from local_training.paths import Paths
from local_training.record_file import Records
from tools.learner import fold
from tools.learner.generation import Generation
from tools.learner.ledger import Line
from tools.learner.round import Round

_LARGEST_LAG = 2**31 - 1
_OF_THE_WRITER = {"moment", "version", "weight", "won", "lost", "refused", "recovered"}


def games_of(done: Round, moment: float) -> Records:
    """A record for each game of a round that has trained."""
    assert done.trained is not None
    records = _blank_games(done.trained.version, len(done.accepted), moment)
    for record, item in zip(records, done.accepted, strict=True):
        _describe(record, item.episode)
        record["age_seconds"] = max(0.0, moment - item.signature[2] / 1e9)
    return records


def batch_of(trained: Generation, games: Records, moment: float, **more: float) -> Records:
    """The record of a version's batch: what its report says, and `more`."""
    facts = {**trained.report, **more}
    return _batch(trained.version, facts, games, moment, refused=bool(trained.report.get("refused")))


def recovered(
    version: int, lines: Sequence[Line], present: Generation | None, paths: Paths, moment: float
) -> tuple[Records, Records]:
    """The records of a batch and of its games that a crash has taken, from the batch's lines in the ledger.

    If it is the one of the present model, from its report and from the episodes in the archive too. Never its times.
    """
    games = _blank_games(version, len(lines), moment)
    is_present = present is not None and present.version == version
    for record, line in zip(games, lines, strict=True):
        record["steps"], record["episode_return"] = line.get("steps", 0), line.get("return", np.nan)
        record["lag"] = _lag(version, line.get("policy_version"))
        episode = _read(paths, line) if is_present else None
        if episode is not None:
            _describe(record, episode)
    facts: dict[str, Any] = {
        "games": len(games),
        "steps": int(games["steps"].sum()),
        "mean_return": float(games["episode_return"].mean()),
        "mean_length": float(games["steps"].mean()),
    }
    if is_present and present is not None:
        facts |= present.report
    refused = any(line.get("refused") for line in lines)
    return _batch(version, facts, games, moment, refused=refused, recovered=True), games


def governor_code(state: str) -> int:
    """What stands for a state of the governor in a record."""
    return GOVERNOR_STATES.index(state) if state in GOVERNOR_STATES else 0


def _batch(
    version: int, facts: Mapping[str, Any], games: Records, moment: float, *, refused: bool, recovered: bool = False
) -> Records:
    record = np.zeros(1, BATCHES)
    results = games["result"]
    own = {"moment": moment, "version": version, "weight": 1, "refused": refused, "recovered": recovered}
    own |= {"won": int((results == metrics.WON).sum()), "lost": int((results == metrics.LOST).sum())}
    for name in BATCHES.names or ():
        known = own if name in _OF_THE_WRITER else facts
        _put(record, name, known.get(name, np.nan))
    return record


def _put(record: Records, name: str, value: Any) -> None:
    """A number as the field can hold it: a report may come from another program's model, with numbers of any kind."""
    kind = record.dtype[name]
    number = float(value) if isinstance(value, (int, float)) else np.nan
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            record[name] = number
    else:
        record[name] = 0 if np.isnan(number) else int(min(max(number, 0.0), float(np.iinfo(kind).max)))


def _blank_games(version: int, count: int, moment: float) -> Records:
    records = np.zeros(count, GAMES)
    records["moment"], records["version"], records["number"], records["weight"] = moment, version, np.arange(count), 1
    records["age_seconds"], records["lag"] = np.nan, -1
    return records


def _describe(record: Any, episode: Episode) -> None:
    record["steps"], record["episode_return"] = episode.steps, episode.episode_return
    record["lag"] = _lag(int(record["version"]), episode.policy_version)
    record["result"] = metrics.result_code(episode.meta)
    record["terminated"], record["recorded"] = episode.terminated, episode.log_probs is not None
    record["opponent"] = metrics.name_of(episode.meta.get("opponent"))
    record["map"] = metrics.name_of(episode.meta.get("map"))


def _lag(version: int, played_by: int | None) -> int:
    return -1 if played_by is None else min(max(version - 1 - played_by, 0), _LARGEST_LAG)


def _read(paths: Paths, line: Line) -> Episode | None:
    """The trained episode of a line, read again; None if it is not there any more."""
    try:
        return fold.episode_of(paths, line)
    except (LedgerError, EpisodeError):
        return None
