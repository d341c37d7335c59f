"""What a card holds: a chart or a table, or the words in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chart:
    """One chart: ECharts' options, or None and the words that stand in its place; and a sentence below it."""

    options: Mapping[str, Any] | None
    empty: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts below heads; or the words in their place where there are none."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = ""
    note: str = ""
