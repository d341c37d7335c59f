"""When a child counts as hung, and how often a dead one is started again: with clocks moved by hand."""

from __future__ import annotations

import threading

from background_training.ipc.supervision import ALIVE, HANG_SECONDS, LOOKS, Heartbeat, RestartBudget, Watchdog


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _looks(watchdog: Watchdog, clock: Clock, count: int, gap: float) -> list[bool]:
    """Whether it had expired at each of some looks, equally far apart."""
    found = []
    for _ in range(count):
        clock.now += gap
        found.append(watchdog.has_expired(HANG_SECONDS))
    return found


def test_a_silent_child_expires_after_its_limit_and_not_before() -> None:
    """Ten looks in 60 s are within the limit, the eleventh is not."""
    clock = Clock()

    assert _looks(Watchdog(clock), clock, 11, HANG_SECONDS / LOOKS) == [False] * 10 + [True]


def test_a_sign_of_life_starts_the_count_again() -> None:
    """What counts is how long it has been silent, not how long it lives."""
    clock = Clock()
    watchdog = Watchdog(clock)
    for _ in range(5):
        assert not any(_looks(watchdog, clock, 8, HANG_SECONDS / LOOKS))
        watchdog.feed()


def test_a_machine_that_stood_still_blames_no_child() -> None:
    """A night asleep counts as two looks: the child has time to be heard after it."""
    clock = Clock()
    watchdog = Watchdog(clock)

    assert _looks(watchdog, clock, 4, 36_000.0) == [False] * 4
    assert _looks(watchdog, clock, 3, HANG_SECONDS / LOOKS)[-1]


def test_heartbeats_are_a_second_apart_at_least() -> None:
    """A part of a gradient takes milliseconds; the parent need not hear of each."""
    clock = Clock()
    sent: list[tuple[float, str]] = []
    heartbeat = Heartbeat(lambda event, **facts: sent.append((clock.now, event)), clock)

    for clock.now in (0.0, 0.4, 0.9, 1.0, 1.7, 5.0):
        heartbeat.beat()

    assert sent == [(0.0, ALIVE), (1.0, ALIVE), (5.0, ALIVE)]


def test_a_wait_with_heartbeats_ends_with_its_event_or_its_time() -> None:
    """It is Event.wait, but the parent hears the child meanwhile."""
    clock = Clock()
    sent: list[str] = []
    heartbeat = Heartbeat(lambda event, **facts: sent.append(event), clock)
    event = threading.Event()

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now += timeout or 0.0
            return event.is_set()

    heartbeat.wait(Waits(), 30.0)
    assert (clock.now, len(sent)) == (1030.0, 5)
    event.set()
    heartbeat.wait(Waits(), 30.0)
    assert clock.now < 1040.0


def test_the_budget_lets_a_child_die_a_few_times_and_not_more() -> None:
    """Each start is waited for twice as long as the one before; after the last one the budget is spent."""
    budget = RestartBudget(limit=3)

    assert [budget.back_off(moment) for moment in (0.0, 1.0, 2.0, 3.0)] == [0.2, 0.4, 0.8, None]


def test_the_budget_forgets_what_is_long_ago() -> None:
    """A worker that dies once a day is started for ever."""
    budget = RestartBudget(limit=2)

    assert [budget.back_off(86_400.0 * day) for day in range(50)] == [0.2] * 50


def test_the_wait_before_a_start_is_bounded() -> None:
    """However often it has died, the next start is at most ten seconds away."""
    budget = RestartBudget(limit=5000)

    assert max(budget.back_off(moment / 10) or 0.0 for moment in range(3000)) == 10.0


def test_a_budget_of_none_gives_up_at_once() -> None:
    """restart_limit 0 means: never start it again."""
    assert RestartBudget(limit=0).back_off(0.0) is None
