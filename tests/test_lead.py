"""How far games may be ahead of the learner: they wait for one that works, also slowly, and not for one that does nothing."""

from __future__ import annotations

from typing import Any

import pytest

from background_training.learner.back_pressure import LONGEST_STALLED_SECONDS, STALLED_SECONDS, BackPressure


class _Learner:
    """Knows what became of so many episodes."""

    running = True

    def __init__(self) -> None:
        self.trained = 0

    def get_stats(self) -> dict[str, Any]:
        counts = {"files_processed": self.trained, "files_skipped_old": 0, "files_rejected": 0, "files_duplicate": 0}
        return {**counts, "active_workers": 1}


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def learner() -> _Learner:
    return _Learner()


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def lead(learner: _Learner, clock: _Clock) -> BackPressure:
    lead = BackPressure(learner, 6, lambda: None, clock)
    lead.start()
    assert lead.next_game_may_start()
    return lead


def test_games_wait_while_too_many_files_do(lead: BackPressure, learner: _Learner) -> None:
    """As many as were asked for, and no more; they go on when one is trained on."""
    lead.deposited = 5
    assert lead.next_game_may_start()
    lead.deposited = 6
    assert not lead.next_game_may_start()
    learner.trained = 1
    assert lead.next_game_may_start()


def test_learner_that_does_nothing_holds_games_up_for_seconds(lead: BackPressure, clock: _Clock) -> None:
    """Paused, or broken: the bot plays on."""
    lead.deposited = 6
    assert not lead.next_game_may_start()
    clock.now += STALLED_SECONDS + 1
    assert lead.next_game_may_start() and lead.next_game_may_start()


def test_slow_learner_is_waited_for(lead: BackPressure, learner: _Learner, clock: _Clock) -> None:
    """It has needed twenty seconds for a batch, and may need twice as long for the next; but nobody waits for ever."""
    lead.deposited = 40
    assert not lead.next_game_may_start()
    clock.now += 20
    learner.trained = 10
    assert not lead.next_game_may_start()
    clock.now += 39
    assert not lead.next_game_may_start()
    clock.now += 2
    assert lead.next_game_may_start()
    clock.now += 600
    learner.trained = 20
    assert not lead.next_game_may_start()
    clock.now += LONGEST_STALLED_SECONDS + 1
    assert lead.next_game_may_start()
