"""Charts as ECharts takes them: plain dicts, readable in light and dark, and without a word of JavaScript.

Foreign texts stand in values only: keys that begin with a colon would be run by the library, and tooltips are drawn, not HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, GREY = "#3b82d6", "#d9822b", "#2f9e68", "#8a93a3"
COLOURS = (BLUE, ORANGE, GREEN, GREY)
_INK, _LINE = "#555b66", "rgba(128,138,155,0.28)"
_DIGITS = 5

_GAP = 12
"""Between an axis's end and its name, or the label of what is marked: nearer, they would touch the outermost numbers."""
_TOP = 62
_FEW = 3
"""Fewer points than these are no line."""
_LABEL_PIXELS = 6.2
"""Width of a sign of a label, in the mean."""

# The greatest place is no round number, and its label would be cut off at the edge.
_PLACES = {"color": _INK, "fontSize": 11, "hideOverlap": True, "showMaxLabel": False}


@dataclass(frozen=True)
class Trace:
    """One series over the chart's x; right: on the axis at the right."""

    name: str
    values: Sequence[float]
    right: bool = False


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, short; None where there is none."""
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in map(float, values)]


def frame(*, legend: bool = True) -> dict[str, Any]:
    """What all charts share."""
    return {
        "animation": False,
        "color": list(COLOURS),
        "grid": {"left": 8, "right": 26, "top": 42 if legend else 14, "bottom": 6, "containLabel": True},
        "legend": {"show": legend, "top": 2, "left": 0, "itemWidth": 16, "itemHeight": 9, "textStyle": {"color": _INK}},
        "tooltip": {
            "trigger": "axis",
            "renderMode": "richText",
            "confine": True,
            "backgroundColor": "#2b303b",
            "borderWidth": 0,
            "textStyle": {"color": "#ffffff", "fontSize": 12},
        },
    }


def axis(name: str = "", *, kind: str = "value", **more: Any) -> dict[str, Any]:
    """An axis; its name stands at its end."""
    return {
        "type": kind,
        "name": name,
        "nameGap": _GAP,
        "scale": True,
        "nameTextStyle": {"color": _INK, "fontSize": 11},
        "axisLabel": {"color": _INK, "fontSize": 11, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": _LINE}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": _LINE}},
        **more,
    }


def lines(x: Sequence[float], series: Sequence[Trace], *, left: str, right: str = "", whole: bool = False) -> dict[str, Any]:
    """Lines over the versions of the model, on one axis or two; whole: the left one counts things."""
    drawn = frame()
    drawn["grid"]["bottom"] = 20
    drawn["xAxis"] = _places("version", x)
    drawn["yAxis"] = [axis(left, minInterval=int(whole))]
    if right:
        drawn["yAxis"].append(axis(right, splitLine={"show": False}))
    drawn["grid"]["top"] = _TOP
    places = plain(x)
    drawn["series"] = [
        {
            "name": line.name,
            "type": "line",
            "data": [list(pair) for pair in zip(places, plain(line.values), strict=True)],
            "yAxisIndex": int(line.right),
            "showSymbol": len(places) < _FEW,
            "symbolSize": 6,
            "lineStyle": {"width": 1.8},
        }
        for line in series
    ]
    return drawn


def curve(
    dots: tuple[Sequence[float], Sequence[float]],
    smooth: tuple[Sequence[float], Sequence[float]],
    window: int,
    marks: Sequence[tuple[float, int]],
) -> dict[str, Any]:
    """The learning curve: one dot a game, the mean of the last games, and where versions of the model began."""
    drawn = frame()
    drawn["grid"] |= {"bottom": 20, "top": _TOP}
    drawn["xAxis"] = _places("game", smooth[0], min=0)
    drawn["yAxis"] = axis()
    versions = {
        "silent": True,
        "symbol": "none",
        "lineStyle": {"color": _LINE, "type": "dashed"},
        "label": {"color": _INK, "fontSize": 11, "position": "end", "distance": _GAP},
        "data": [{"xAxis": place, "label": {"formatter": f"v{version}"}} for place, version in marks],
    }
    drawn["series"] = [
        {
            "name": "one game",
            "type": "scatter",
            "data": _pairs(dots),
            "symbolSize": 4,
            "color": GREY,
            "itemStyle": {"opacity": 0.45},
        },
        {
            "name": f"mean of the last {window} games",
            "type": "line",
            "data": _pairs(smooth),
            "color": BLUE,
            "showSymbol": len(smooth[0]) < _FEW,
            "lineStyle": {"width": 2.4},
            "markLine": versions,
        },
    ]
    return drawn


def bars(names: Sequence[str], series: Sequence[Trace], *, left: str, right: str = "", stacked: bool = False) -> dict[str, Any]:
    """Upright bars side by side or stacked; a series on the right axis is a line."""
    drawn = frame()
    drawn["grid"] |= {"top": _TOP}
    drawn["xAxis"] = axis(kind="category", data=list(names), splitLine={"show": False})
    drawn["yAxis"] = [axis(left, scale=False)]
    if right:
        drawn["yAxis"].append(axis(right, scale=False, splitLine={"show": False}))
    drawn["series"] = [
        {
            "name": line.name,
            "type": "line" if line.right else "bar",
            "data": plain(line.values),
            "yAxisIndex": int(line.right),
            "showSymbol": False,
            **({"stack": "all"} if stacked else {"barGap": "0%"}),
        }
        for line in series
    ]
    return drawn


def shares(names: Sequence[str], values: Sequence[float], labels: Sequence[str], *, percent: bool) -> dict[str, Any]:
    """Lying bars, the first on top, each with its label."""
    drawn = frame(legend=False)
    drawn["tooltip"]["trigger"] = "item"
    drawn["grid"]["right"] = 12 + _LABEL_PIXELS * max(map(len, labels), default=0)
    bounds: dict[str, Any] = {"min": 0, "max": 100, "interval": 50} if percent else {"scale": False, "splitNumber": 3}
    drawn["xAxis"] = axis(**bounds, splitLine={"show": False})
    texts = {"color": _INK, "fontSize": 11, "width": 120, "overflow": "truncate"}
    drawn["yAxis"] = axis(kind="category", data=list(names), inverse=True, axisLabel=texts, splitLine={"show": False})
    drawn["yAxis"]["axisLine"] |= {"onZero": False}  # names stay at the left of bars below zero
    bars_shown = [
        {"value": value, "label": {"show": True, "position": "right", "color": _INK, "fontSize": 11, "formatter": label}}
        for value, label in zip(plain(values), labels, strict=True)
    ]
    drawn["series"] = [{"type": "bar", "data": bars_shown, "color": BLUE, "barMaxWidth": 20}]
    return drawn


def _places(name: str, x: Sequence[float], **more: Any) -> dict[str, Any]:
    """The axis of versions or games: to the last one, or beyond where so few would stand on the edge."""
    ends = {"min": x[0] - 1, "max": x[-1] + 1} if 0 < len(x) < _FEW else {"max": "dataMax"}
    label = {"nameLocation": "middle", "nameGap": 24, "axisLabel": _PLACES, "splitLine": {"show": False}}
    return axis(name, **{"minInterval": 1, **ends, **label, **more})


def _pairs(points: tuple[Sequence[float], Sequence[float]]) -> list[list[float | None]]:
    return [[x, y] for x, y in zip(plain(points[0]), plain(points[1]), strict=True) if y is not None]
