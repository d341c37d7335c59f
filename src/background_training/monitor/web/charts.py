"""The page's charts, from the metrics history. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from background_training.algo import intervals
from background_training.monitor import history, humanize
from background_training.monitor.history import Floats, GroupResults
from background_training.monitor.web import echarts
from background_training.monitor.web.echarts import Trace
from background_training.monitor.web.view import Chart

Records = npt.NDArray[np.void]

WINDOWS = (10, 50, 200)
"""Over how many games the curve may be smoothed."""

_DOTS, _POINTS, _STAGES = 350, 250, 40
_NO_GAMES = "No game has been trained on since the metrics history began (logs/metrics.sqlite3)."
_NO_BATCHES = "No batch has been trained since the metrics history began (logs/metrics.sqlite3)."
_NO_NAMES = 'No game says its {0}: a bot may write it into the episode\'s meta, as "{0}".'


def charts(batches: Records, games: Records) -> dict[str, Chart]:
    """All charts by the names of their cards; the learning curve once for each window, as "curve 10"."""
    drawn = {f"curve {window}": _curve(games, window) for window in WINDOWS}
    drawn["returns"] = _returns(games)
    drawn["opponents"] = _groups(games, "opponent")
    drawn["maps"] = _groups(games, "map")
    drawn["throughput"] = _throughput(games)
    for name, draw in _OVER_VERSIONS.items():
        drawn[name] = draw(batches) if len(batches) else Chart(None, _NO_BATCHES)
    return drawn


def _curve(games: Records, window: int) -> Chart:
    if not len(games):
        return Chart(None, _NO_GAMES)
    numbers, returns = history.numbers_of(games), games["episode_return"].astype(np.float64)
    smooth = history.trailing_mean(returns, games["weight"].astype(np.float64), window)
    dots, line = history.evenly(len(games), _DOTS), history.evenly(len(games), _POINTS)
    marks = [(float(numbers[place]), version) for place, version in history.version_marks(games["version"])]
    drawn = echarts.curve(
        (_list(numbers[dots]), _list(returns[dots])), (_list(numbers[line]), _list(smooth[line])), window, marks
    )
    note = f"Undiscounted return of {humanize.plural(int(numbers[-1]), 'game')}, in the order of training"
    return Chart(drawn, note=note + (f"; dots are {len(dots)} of them, evenly chosen." if len(dots) < len(games) else "."))


def _returns(games: Records) -> Chart:
    spread = history.distribution(games)
    if spread is None:
        return Chart(None, "A distribution needs at least two games." if len(games) else _NO_GAMES)
    middles = (spread.edges[:-1] + spread.edges[1:]) / 2
    names = [f"{middle:.3g}" for middle in middles]
    first = Trace(f"first {humanize.plural(spread.first_games, 'game')}", _list(spread.first))
    last = Trace(f"last {humanize.plural(spread.last_games, 'game')}", _list(spread.last))
    return Chart(
        echarts.bars(names, [last, first], left="% of them"), note="Returns of the first and of the last tenth of the games."
    )


def _groups(games: Records, field: str) -> Chart:
    found, more = history.groups(games, field)
    if not found:
        return Chart(None, _NO_NAMES.format(field) if len(games) else _NO_GAMES)
    decided = [group for group in found if group.decided]
    rest = f" And {more:,} more." if more else ""
    if not decided:
        drawn = echarts.shares(
            [_name(group) for group in found], [group.mean_return for group in found], _returns_of(found), percent=False
        )
        return Chart(drawn, note=f"Mean return, and of how many games, as none says its result.{rest}")
    shares = [100.0 * group.won / group.decided for group in decided]
    drawn = echarts.shares([_name(group) for group in decided], shares, [_share(group) for group in decided], percent=True)
    return Chart(drawn, note=f"Share of games won, in percent; behind it 95 % intervals and games.{rest}")


def _name(group: GroupResults) -> str:
    return humanize.visible(group.name, 40)


def _share(group: GroupResults) -> str:
    share = intervals.share_of(group.won, group.decided)
    return f"{100 * share.low:.0f}-{100 * share.high:.0f} % of {group.decided:,}"


def _returns_of(found: Sequence[GroupResults]) -> list[str]:
    return [f"{group.mean_return:.3g} in {group.games:,}" for group in found]


def _throughput(games: Records) -> Chart:
    found = history.rates(games)
    if found is None:
        return Chart(None, _NO_GAMES)
    form = "%H:%M:%S" if found.seconds < 60 else "%H:%M"
    names = [time.strftime(form, time.localtime(moment)) for moment in found.moments]
    drawn = [
        Trace("games a minute", _list(found.games_per_minute)),
        Trace("steps a second", _list(found.steps_per_second), right=True),
    ]
    stretch = f"{found.seconds:.0f} s" if found.seconds < 60 else f"{found.seconds / 60:.0f} min"
    return Chart(
        echarts.bars(names, drawn, left="games/min", right="steps/s"),
        note=f"The last hour of training, in stretches of {stretch}.",
    )


def _over_versions(
    lines: Mapping[str, tuple[str, bool]], left: str, right: str, note: str, *, whole: bool = False
) -> Callable[[Records], Chart]:
    """Draws fields of the batches as lines; lines: by field, the name and whether it is on the right axis."""

    def draw(batches: Records) -> Chart:
        weights = batches["weight"].astype(np.float64)
        columns = [batches[name].astype(np.float64) for name in ("version", *lines)]
        x, *means = history.bucket_means(columns, weights, _POINTS)
        if not any(np.isfinite(mean).any() for mean in means):
            return Chart(None, "Not recorded for any batch yet.")
        drawn = [Trace(name, _list(mean), on_right) for (name, on_right), mean in zip(lines.values(), means, strict=True)]
        return Chart(echarts.lines(_list(np.round(x)), drawn, left=left, right=right, whole=whole), note=note)

    return draw


def _stages(batches: Records) -> Chart:
    stages = ("load", "train", "commit", "archive")
    columns = [batches["version"].astype(np.float64), *(1000.0 * batches[f"{stage}_seconds"] for stage in stages)]
    versions, *means = history.bucket_means(columns, batches["weight"].astype(np.float64), _STAGES)
    drawn = [Trace(stage, _list(mean)) for stage, mean in zip(stages, means, strict=True)]
    names = [f"{version:.0f}" for version in versions]
    return Chart(echarts.bars(names, drawn, left="ms a batch", stacked=True), note="Time per batch, by version.")


_OVER_VERSIONS: dict[str, Callable[[Records], Chart]] = {
    "staleness": _over_versions(
        {"staleness_versions": ("versions behind", False), "staleness_seconds": ("seconds waited", True)},
        "versions",
        "s",
        "How old the policy that played was, and how long the games had waited, when they were trained on.",
    ),
    "waiting": _over_versions(
        {"waiting": ("files waiting", False), "set_aside": ("not trained", False)},
        "files",
        "",
        "Seen when each batch was done.",
        whole=True,
    ),
    "resources": _over_versions(
        {
            "cpu_percent": ("training CPU", False),
            "others_cpu_percent": ("other programs", False),
            "memory_mb": ("training memory", True),
        },
        "%",
        "MB",
        "The training process (100 % is one core), and what others used of the whole machine, as the governor saw it.",
    ),
    "stages": _stages,
    "losses": _over_versions(
        {"policy_loss": ("policy", False), "value_loss": ("value", True)}, "policy", "value", "Loss of both networks."
    ),
    "policy": _over_versions(
        {"entropy": ("entropy", False), "kl": ("KL to the policy that played", True)},
        "nats",
        "nats",
        "Entropy falls as the policy becomes deterministic; near 0 it no longer explores.",
    ),
}


def _list(values: Floats) -> list[float]:
    listed: list[float] = values.tolist()
    return listed
