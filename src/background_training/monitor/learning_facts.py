"""How the bot does, from the newest records of the metrics history. Pure; arrays in, plain numbers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from background_training.monitor.web import series
from background_training.monitor.web.series import Floats
from background_training.records import metrics
from background_training.records.metrics import Records

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
    """What the last GAMES games and the newest batches tell; NaN is not known.

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
    """Put it together."""
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
        wins=series.trailing_mean(wins, np.ones(len(wins)), NEWEST_GAMES),
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
    (means,) = series.bucket_means([values], np.ones(len(values)), width)
    wider = min(width // max(len(means), 1), _WIDEST)
    return [float(mean) for mean in np.repeat(means, wider)]


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else float("nan")


def _newest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
