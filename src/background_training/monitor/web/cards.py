"""Which cards the page has, in their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One card; kind: "curve", "chart", "table", "search" or "log". The view fills it by its name."""

    name: str
    title: str
    kind: str
    wide: bool = False


CARDS = (
    Card("curve", "Learning curve", "curve", wide=True),
    Card("opponents", "By opponent", "chart"),
    Card("maps", "By map", "chart"),
    Card("returns", "How the returns are spread", "chart"),
    Card("staleness", "How fresh the games are", "chart"),
    Card("throughput", "Throughput", "chart"),
    Card("waiting", "Backlog", "chart"),
    Card("resources", "Processor and memory", "chart"),
    Card("stages", "Where the time goes", "chart"),
    Card("losses", "Losses", "chart"),
    Card("policy", "Exploration, and size of the steps", "chart"),
    Card("fates", "What became of every episode", "table"),
    Card("reasons", "Set aside, and why", "table"),
    Card("search", "Look for an episode", "search", wide=True),
    Card("openings", "Build orders from replays", "table", wide=True),
    Card("log", "Training log", "log", wide=True),
)
