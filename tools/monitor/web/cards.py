"""Which cards the page has, in their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One card; kind: "chart", "table", "search" or "log". The view fills it by its name."""

    name: str
    title: str
    kind: str
    wide: bool = False


CARDS = (
    Card("fates", "What became of every episode", "table"),
    Card("reasons", "Set aside, and why", "table"),
    Card("search", "Look for an episode", "search", wide=True),
    Card("openings", "Build orders from replays", "table", wide=True),
    Card("log", "Training log", "log", wide=True),
)
