"""Whether a replay teaches something, and if not, why not.

Pure. A reason is a short fixed word, for counting; the sentence beside it is for people.
"""

from __future__ import annotations

from typing import NamedTuple

from background_training.settings import ReplaySettings
from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.game_facts import Game, Player

LEARN = "learn"
SKIP = "skip"

REASONS = {
    "not-a-file": "a folder, pipe or device bears the name of a replay",
    "no-access": "the machine refused to open the file; it is tried again at the next run",
    "empty-file": "the file holds 0 bytes",
    "too-large": "the file is larger than the settings allow",
    "unreadable": "the file is no replay, cut off, or of a kind the library can't read; kept for a retry after a library upgrade",
    "damaged": "a part of the file can't be unpacked; kept for a retry after a library upgrade",
    "timeout": "reading took longer than the settings allow; kept for a retry after a library upgrade",
    "crashed": "the process that read it died twice; kept for a retry after a library upgrade",
    "no-players": "the file names no players",
    "not-1v1": "not a game of one against one",
    "against-ai": "one of the players is the computer",
    "no-zerg": "nobody plays Zerg",
    "too-short": "the game ended before there was anything to learn",
    "no-tracker-events": "the game was played before 2.0.8, or was resumed; it records no units",
    "other-start-supply": "the game did not start with 6, 8 or 12 supply",
    "no-build-order": "no Zerg player ordered enough to learn from",
    "duplicate": "another file holds the same game",
}

FAILURES = ("unreadable", "damaged", "timeout", "crashed")
"""Reasons that say something about the reader rather than the game: a better library might read the file."""

WITHOUT_CONTENT = ("not-a-file", "no-access", "too-large")
"""Reasons found before a byte was read: there is no content to keep a result for."""


class Verdict(NamedTuple):
    """`word` is "learn" or "skip"; `reason` is one of REASONS, or "" for "learn"; `detail` is what was found."""

    word: str
    reason: str = ""
    detail: str = ""


def judge_game(game: Game, settings: ReplaySettings) -> Verdict:
    """What can be said before the events are read; "learn" means that nothing speaks against the game so far."""
    players = game.players
    found = ", ".join(f"{player.name} ({player.race})" for player in players)
    if not players:
        return Verdict(SKIP, "no-players")
    if len(players) != 2 or players[0].team == players[1].team:
        return Verdict(SKIP, "not-1v1", f"{len(players)} players in {len({player.team for player in players})} teams")
    if not all(player.is_human for player in players):
        return Verdict(SKIP, "against-ai", found)
    if not zerg_players(game):
        return Verdict(SKIP, "no-zerg", found)
    if game.seconds < settings.min_seconds:
        return Verdict(SKIP, "too-short", f"{game.seconds:.0f} s, {settings.min_seconds:.0f} s are needed")
    return Verdict(LEARN)


def judge_start(game: Game) -> Verdict:
    """What the first events add: races the file's language hid, and the supply the game starts with."""
    zerg = zerg_players(game)
    if not zerg:
        return Verdict(SKIP, "no-zerg")
    supplies = [player.start_supply for player in zerg]
    if any(supply not in unit_facts.START_SUPPLIES for supply in supplies):
        return Verdict(SKIP, "other-start-supply", f"found {supplies[0] or 'none'}")
    return Verdict(LEARN)


def zerg_players(game: Game) -> list[Player]:
    return [player for player in game.players if player.race == "Zerg"]
