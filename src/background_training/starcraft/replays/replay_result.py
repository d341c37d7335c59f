"""What one replay has told us, as plain values that JSON can hold.

Made once per content of a file, kept by the results store, and all that summaries are ever made from.
"""

from __future__ import annotations

from typing import TypedDict

ANALYSIS = 1
"""Raised whenever the same replay would give another result; older results are then made anew."""


class TimingFacts(TypedDict):
    seconds: float
    supply: int


class PlayerFacts(TypedDict):
    """One learnable Zerg player; a build order's lines are (supply, start in seconds, item).

    opening: counts openings, "hatch-gas-pool"; opening_text: this player's, "17 hatch, 18 gas, 17 pool".
    """

    name: str
    race: str
    opponent_race: str
    result: str
    start_supply: int
    opening: str
    opening_text: str
    build_order: list[tuple[int, float, str]]
    timings: dict[str, TimingFacts]


class ReplayResult(TypedDict):
    """The verdict on one content, and what its players did.

    made_with: the analysis and the settings that made it; another value means that it is out of date.
    library: the reader's version; a failure is tried again when it changes.
    identity: the same for all recordings of one game; "" if unknown.
    """

    sha256: str
    made_with: str
    library: str
    verdict: str
    reason: str
    detail: str
    version: str
    map: str
    played_at: str
    seconds: float
    identity: str
    players: list[PlayerFacts]
