"""From the metrics history to a few points: smoothing, down-sampling, shares and rates. Pure; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.records import metrics
from background_training.records.metrics import Records

Floats = npt.NDArray[np.float64]


def numbers_of(games: Records) -> Floats:
    """Which game each record ends with, counted from 1: records that stand for several games count for several."""
    return np.cumsum(games["weight"], dtype=np.float64)


def trailing_mean(values: Floats, weights: Floats, window: float) -> Floats:
    """The weighted mean of each value and those before it that end within the last `window` games.

    A record that the window cuts counts whole. NaN values have no weight, and where there is nothing else the mean is NaN.
    """
    known = np.isfinite(values)
    reach = np.cumsum(weights)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0) * weights)])
    counts = np.concatenate([[0.0], np.cumsum(np.where(known, weights, 0.0))])
    first = np.minimum(np.searchsorted(reach, reach - window, "right"), np.arange(len(values)))
    end = np.arange(1, len(values) + 1)
    count = counts[end] - counts[first]
    return _divided(sums[end] - sums[first], count)


def evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    """Up to `most` of `count` places, evenly chosen, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.intp)) if count else np.empty(0, np.intp)


def bucket_means(columns: list[Floats], weights: Floats, most: int) -> list[Floats]:
    """Each column as the weighted means of up to `most` stretches of equal length; NaN values have no weight."""
    count = len(weights)
    if not count:
        return [np.empty(0) for _ in columns]
    starts = (np.arange(min(most, count)) * count) // min(most, count)
    means = []
    for column in columns:
        known = np.where(np.isfinite(column), weights, 0.0)
        sums, counts = np.add.reduceat(np.nan_to_num(column) * known, starts), np.add.reduceat(known, starts)
        means.append(_divided(sums, counts))
    return means


def version_marks(versions: npt.NDArray[Any], most: int = 6) -> list[tuple[int, int]]:
    """(place of its first record, version) of up to `most` round versions: on a phone, the labels of more would overlap."""
    if not len(versions):
        return []
    first, last = int(versions[0]), int(versions[-1])
    step = next(size for power in range(12) for size in (10**power, 2 * 10**power, 5 * 10**power) if (last - first) / size < most)
    wanted = np.arange(-(-max(first, 1) // step) * step, last + 1, step)
    return [(int(place), int(version)) for version, place in zip(wanted, np.searchsorted(versions, wanted), strict=True)]


@dataclass(frozen=True)
class GroupResults:
    """Results of the games against one opponent, or on one map."""

    name: str
    games: int
    won: int
    decided: int
    mean_return: float


def groups(games: Records, field: str, most: int = 10) -> tuple[list[GroupResults], int]:
    """The groups with the most games, and how many more there are; games without a name are in none."""
    named = games[games[field] != b""]
    names, inverse = np.unique(named[field], return_inverse=True)
    weights = named["weight"].astype(np.float64)
    returns = named["episode_return"].astype(np.float64)
    known = np.where(np.isfinite(returns), weights, 0.0)

    def summed(what: Floats) -> Floats:
        return np.bincount(inverse, what, len(names)).astype(np.float64)

    total, counted = summed(weights), summed(known)
    won = summed(weights * (named["result"] == metrics.WON))
    decided = summed(weights * (named["result"] != metrics.UNKNOWN))
    means = _divided(summed(np.nan_to_num(returns) * known), counted)
    largest = np.lexsort((names, -total))[:most]
    found = [
        GroupResults(metrics.text_of(bytes(names[at])), int(total[at]), int(won[at]), int(decided[at]), float(means[at]))
        for at in largest
    ]
    return found, len(names) - len(found)


@dataclass(frozen=True)
class Distribution:
    """Shares of the games, in percent, between edges; the outermost bins include values beyond them."""

    edges: Floats
    first: Floats
    last: Floats
    first_games: int
    last_games: int


def distribution(games: Records, bins: int = 24) -> Distribution | None:
    """How the returns of the first and of the last tenth of the games are spread; None for less than two games.

    The edges leave out the outermost half percent on both sides, so that a single game does not flatten all others.
    """
    values = games["episode_return"].astype(np.float64)
    sound = np.isfinite(values)
    values, weights = values[sound], games["weight"][sound].astype(np.float64)
    if len(values) < 2:
        return None
    size = max(1, len(values) // 10)
    low, high = np.quantile(np.concatenate([values[:size], values[-size:]]), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)

    def shares(part: slice) -> Floats:
        counts, _ = np.histogram(np.clip(values[part], edges[0], edges[-1]), edges, weights=weights[part])
        return np.asarray(100.0 * counts / weights[part].sum(), np.float64)

    first, last = slice(0, size), slice(len(values) - size, None)
    return Distribution(edges, shares(first), shares(last), int(weights[first].sum()), int(weights[last].sum()))


@dataclass(frozen=True)
class Throughput:
    """Games a minute and steps a second, in stretches of `seconds` that begin at `moments`."""

    moments: Floats
    seconds: float
    games_per_minute: Floats
    steps_per_second: Floats


def rates(games: Records, span_seconds: float = 3600.0, most: int = 60) -> Throughput | None:
    """The throughput of the last hour in which games were trained; None without a game."""
    if not len(games):
        return None
    moments, weights = games["moment"], games["weight"].astype(np.float64)
    end = float(moments[-1])
    recent = moments >= end - span_seconds
    start = float(moments[recent].min())
    usual = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
    seconds = next((size for size in usual if (end - start) / size < most), span_seconds / most)
    # Counted back from the end: the newest stretch would look slow if it were not a whole one.
    edges = end - seconds * np.arange(max(1, int(np.ceil((end - start) / seconds))), -1, -1)
    places = np.maximum(moments[recent], edges[0])
    count, _ = np.histogram(places, edges, weights=weights[recent])
    steps, _ = np.histogram(places, edges, weights=(weights * games["steps"])[recent])
    return Throughput(
        np.asarray(edges[:-1], np.float64),
        seconds,
        np.asarray(60.0 * count / seconds, np.float64),
        np.asarray(steps / seconds, np.float64),
    )


def _divided(sums: Floats, counts: Floats) -> Floats:
    """sums / counts, and NaN where nothing was counted."""
    quotients = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=quotients, where=counts > 0)
    return quotients


GAMES = 200
NEWEST_GAMES = 20
_BATCHES = 20
_WIDEST = 4
_MOST_FILES_BATCHES = 200
STAGES = ("load", "train", "commit", "archive")
FIGURES: tuple[str, ...] = (
    "loss",
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "clipped_share",
    "gradient_norm",
    "learning_rate",
)
FIGURES += ("staleness_versions", "staleness_seconds", "cpu_percent", "memory_mb", "others_cpu_percent")


@dataclass(frozen=True)
class Learning:
    """Statistics of the last GAMES games and of the newest batches; NaN if unknown.

    games: how many there are; won, decided: of those whose result is known.
    returns: of each of them, oldest first.
    wins: the share of won games among each and the NEWEST_GAMES before it, a draw being half a game won.
    stage_seconds: by stage, the mean of the newest batches.
    figures: by name, of the newest batch that knows it.
    most_waiting: most files that have waited after one of the last batches.
    """

    games: int = 0
    decided: int = 0
    won: int = 0
    returns: Floats = field(default_factory=lambda: np.empty(0))
    wins: Floats = field(default_factory=lambda: np.empty(0))
    mean_return: float = float("nan")
    newest_mean_return: float = float("nan")
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    most_waiting: int = 0


def learning(batches: Records, games: Records) -> Learning:
    """Compute them from the metrics history."""
    newest = games[-GAMES:]
    returns = newest["episode_return"].astype(np.float64)
    results = newest["result"]
    wins = np.full(len(newest), np.nan)
    for result, value in ((metrics.WON, 1.0), (metrics.LOST, 0.0), (metrics.DRAWN, 0.5)):
        wins[results == result] = value
    recent = batches[-_BATCHES:]
    return Learning(
        games=len(newest),
        decided=int((results != metrics.UNKNOWN).sum()),
        won=int((results == metrics.WON).sum()),
        returns=returns,
        wins=trailing_mean(wins, np.ones(len(wins)), NEWEST_GAMES),
        mean_return=_mean(returns),
        newest_mean_return=_mean(returns[-NEWEST_GAMES:]),
        stage_seconds={stage: _mean(recent[f"{stage}_seconds"]) for stage in STAGES},
        figures={name: _newest(recent[name]) for name in FIGURES},
        most_waiting=int(batches["waiting"][-_MOST_FILES_BATCHES:].max(initial=0)),
    )


def whole_run(games: Records, most: int = 240) -> tuple[int, Floats]:
    """How many games there were, and up to `most` means of their returns, each of as many games as the next."""
    weights = games["weight"].astype(np.float64)
    returns = games["episode_return"].astype(np.float64)
    total = int(weights.sum())
    places = ((np.cumsum(weights) - weights / 2) * min(most, max(len(games), 1)) / max(total, 1)).astype(np.intp)
    known = np.where(np.isfinite(returns), weights, 0.0)
    sums, counts = np.bincount(places, np.nan_to_num(returns) * known), np.bincount(places, known)
    return total, np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def points(values: Floats, width: int) -> list[float]:
    """Up to `width` means of stretches of equal length; of few values, each is drawn wider."""
    (means,) = bucket_means([values], np.ones(len(values)), width)
    wider = min(width // max(len(means), 1), _WIDEST)
    return [float(mean) for mean in np.repeat(means, wider)]


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else float("nan")


def _newest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
