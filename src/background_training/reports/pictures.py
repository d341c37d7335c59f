"""The report's pictures, as PNG. Nothing is imported from here unless there is something to draw."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from background_training.algo.intervals import Estimate, Stretch

Floats = npt.NDArray[np.float64]

_BLUE, _ORANGE, _GREY = "#2f6db3", "#c9620d", "#777777"
_DOTS = 3000
_DOTS_PER_INCH = 130


def curve(values: Floats, parts: Sequence[Stretch], versions: Floats, what: str) -> bytes:
    """One dot a game, the mean of each stretch and its 95 % band; above, the versions that the games were trained into."""
    figure, axes = _blank(9, 4.2)
    shown = np.unique(np.linspace(0, len(values) - 1, min(_DOTS, len(values))).astype(int))
    axes.plot(shown + 1, values[shown], ".", color=_GREY, markersize=3.5, alpha=0.35, label="one game", rasterized=True)
    middles = [(part.first + part.last) / 2 for part in parts]
    axes.plot(
        middles, [part.mean.value for part in parts], "o-", color=_BLUE, markersize=3, linewidth=2, label=_mean_label(parts)
    )
    if len(parts) > 1:
        low, high = [part.mean.low for part in parts], [part.mean.high for part in parts]
        axes.fill_between(middles, low, high, color=_BLUE, alpha=0.2, linewidth=0, label="95 % of that mean")
    axes.set(xlabel="game", ylabel=what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _versions_above(axes, versions)
    axes.legend(loc="best", fontsize=8)
    return _png(figure, axes)


def _mean_label(parts: Sequence[Stretch]) -> str:
    size = parts[0].last - parts[0].first + 1
    return f"mean of {size} games" if size > 1 else "mean"


def _versions_above(axes: Axes, versions: Floats) -> None:
    """The newest version at some games, along the upper edge."""
    if not len(versions) or versions[-1] <= versions[0]:
        return
    above = axes.secondary_xaxis("top")
    places = np.unique(np.linspace(0, len(versions) - 1, 6).astype(int))
    above.set_xticks(list(places + 1), [f"{versions[place]:,.0f}" for place in places])
    above.set_xlabel("version of the model", fontsize=8)
    above.tick_params(labelsize=8)


def distributions(first: Floats, last: Floats) -> bytes:
    """How the returns of the first tenth of the games and those of the last are spread."""
    figure, axes = _blank(9, 2.8)
    together = np.concatenate([first, last])
    low, high = float(together.min()), float(together.max())
    edges = [float(edge) for edge in np.linspace(low, high if high > low else low + 1, 31)]
    for values, colour, name in ((first, _GREY, "first tenth"), (last, _BLUE, "last tenth")):
        weights = np.full(len(values), 100 / len(values))
        axes.hist(values, edges, weights=weights, color=colour, alpha=0.55, label=f"{name}, {len(values):,} games")
    axes.set(xlabel="return", ylabel="% of the games")
    axes.legend(fontsize=8)
    return _png(figure, axes)


def staleness(lags: Floats) -> bytes:
    """How many versions old the policy was that played."""
    figure, axes = _blank(9, 2.4)
    longest = int(lags.max())
    edges = [float(edge) for edge in np.linspace(-0.5, longest + 0.5, min(longest + 2, 41))]
    axes.hist(lags, edges, weights=np.full(len(lags), 100 / len(lags)), rwidth=0.9, color=_ORANGE, alpha=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="versions between the policy that played and the one that was trained", ylabel="% of the games")
    return _png(figure, axes)


def comparison(groups: Sequence[tuple[str, Estimate]], what: str, *, is_share: bool) -> bytes:
    """One row per name: the value, and its 95 % interval; at most as many rows as fit a page."""
    figure, axes = _blank(9, 0.9 + 0.34 * len(groups))
    for row, (_, estimate) in enumerate(groups):
        axes.plot([estimate.low, estimate.high], [row, row], color=_BLUE, linewidth=6, alpha=0.3, solid_capstyle="butt")
        axes.plot([estimate.value], [row], "o", color=_BLUE)
    # Otherwise a dollar sign in a name would start a formula, and an invalid formula raises.
    labels = [f"{name} ({estimate.games:,})".replace("$", r"\$") for name, estimate in groups]
    axes.set_yticks(range(len(groups)), labels)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set(xlabel=what)
    if is_share:
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    return _png(figure, axes)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty picture, in inches. Not by way of pyplot, which takes longer to load and keeps all figures."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.grid(alpha=0.25)
    axes.spines[["right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()
