"""Every replay gets a verdict with a reason that a person understands."""

from __future__ import annotations

import dataclasses

import pytest

from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.game import Game, Player

SETTINGS = ReplaySettings()
ZERG = Player(1, "Dark", "Zerg", "Win", True, 1, start_supply=12)
TERRAN = Player(2, "Maru", "Terran", "Loss", True, 2, start_supply=12)
GAME = Game("5.0.15.1", 10_000, "Somewhere LE", "2026-01-25T14:32:05Z", "1", (ZERG, TERRAN))


def altered(player: Player, **changes: object) -> Player:
    return dataclasses.replace(player, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("players", "loops", "reason"),
    [
        ((ZERG, TERRAN), 10_000, ""),
        ((), 10_000, "no-players"),
        ((ZERG,), 10_000, "not-1v1"),
        ((ZERG, TERRAN, altered(TERRAN, team=3)), 10_000, "not-1v1"),
        ((ZERG, altered(TERRAN, team=1)), 10_000, "not-1v1"),
        ((ZERG, altered(TERRAN, is_human=False)), 10_000, "against-ai"),
        ((altered(ZERG, race="Protoss"), TERRAN), 10_000, "no-zerg"),
        ((ZERG, TERRAN), 2_600, "too-short"),
    ],
)
def test_a_game_is_judged_before_its_events_are_read(players: tuple[Player, ...], loops: int, reason: str):
    """What the players and the length tell is enough to skip most games cheaply."""
    found = analysis.judge_game(dataclasses.replace(GAME, players=players, loops=loops), SETTINGS)

    assert (found.word, found.reason) == ("skip" if reason else "learn", reason)


@pytest.mark.parametrize(
    ("supply", "reason"), [(6, ""), (8, ""), (12, ""), (0, "other-start-supply"), (200, "other-start-supply")]
)
def test_only_known_starts_are_learnt_from(supply: int, reason: str):
    """A mod that starts with 200 supply teaches nothing about the game."""
    game = dataclasses.replace(GAME, players=(altered(ZERG, start_supply=supply), TERRAN))

    assert analysis.judge_start(game).reason == reason


def test_random_that_became_no_zerg_is_skipped_late():
    """A file in an unknown language hides the race until the first town hall shows it."""
    assert analysis.judge_start(dataclasses.replace(GAME, players=(TERRAN, altered(TERRAN, number=1)))).reason == "no-zerg"


def test_every_reason_has_a_sentence_and_failures_are_reasons():
    """A table that says "xyz" without a sentence helps nobody."""
    assert all(len(sentence) > 10 for sentence in analysis.REASONS.values())
    assert set(analysis.FAILURES) | set(analysis.WITHOUT_CONTENT) <= set(analysis.REASONS)


def test_the_settings_decide_what_is_too_short():
    """Half a minute is enough for whoever says so."""
    short = dataclasses.replace(GAME, loops=900)

    assert analysis.judge_game(short, ReplaySettings(min_seconds=30.0)).word == "learn"
