"""The governor: readings in, a decision and its reason out; time is moved by hand and nothing is measured."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from background_training.commands import common
from background_training.learner import throttle_policy
from background_training.learner.throttle_policy import GIVING_WAY, PAUSED, Decision, LoadSample
from background_training.settings import GovernorSettings

SETTINGS = GovernorSettings(rest_factor=1000.0, free_disk_bytes=100_000_000)
"""With long rests, so that giving way is standing still."""


class Run:
    """A governor with its readings, a second apart."""

    def __init__(self, settings: GovernorSettings = SETTINGS, max_workers: int = 2) -> None:
        self.settings, self.max_workers = settings, max_workers
        self.decision = throttle_policy.first(settings, max_workers)
        self.moment, self.number = 0.0, 0
        self.batch: dict[str, Any] = {"last_batch_seconds": 1.0, "last_batch_ended": 0.0}

    def reads(self, *, after: float = 1.0, **seen: Any) -> Decision:
        """One more reading of the machine."""
        self.number += 1
        return self.hears(after=after, **seen)

    def hears(self, *, after: float = 0.03, **seen: Any) -> Decision:
        """One more look at the game only."""
        self.moment += after
        sample = LoadSample(number=self.number, **{**self.batch, **seen})
        self.decision = throttle_policy.decide(sample, self.settings, self.decision, self.max_workers, self.moment)
        return self.decision

    def trains(self, seconds: float) -> None:
        self.moment += seconds
        self.batch = {"last_batch_seconds": seconds, "last_batch_ended": self.moment}

    def states(self, values: Iterable[float]) -> list[str]:
        return [self.reads(others_cpu_percent=value).state for value in values]


def test_a_quiet_machine_lets_all_work() -> None:
    """Nothing is above its limit: every worker may work, and there is nothing to explain."""
    decision = Run().reads(others_cpu_percent=79.0, memory_percent=84.0, gpu_memory_percent=89.0, free_disk_bytes=1e12)

    assert (decision.state, decision.workers_allowed, decision.reason) == ("free", 2, "")


def test_what_is_not_known_stops_nothing() -> None:
    """A machine that can't be read is no reason to stand still."""
    run = Run()

    assert [run.reads().workers_allowed for _ in range(5)] == [2] * 5


def test_the_processor_has_to_be_busy_for_three_readings() -> None:
    """A short peak stops nothing; a load that lasts does, and the reason names figure and limit."""
    run = Run()

    assert run.states([95, 95, 20, 95, 95]) == ["free"] * 5
    decision = run.reads(others_cpu_percent=96.0)

    assert (decision.state, decision.workers_allowed, decision.at_once) == (PAUSED, 0, False)
    assert "other programs use 96 % of the processor (limit 80 %: governor.cpu_percent, or --overnight)" in decision.reason


def test_a_load_about_the_limit_does_not_make_it_flap() -> None:
    """Once passed, the limit stays passed until readings are clearly below it, three in a row."""
    run = Run()

    assert run.states([81, 81, 81, 79, 81, 79, 75, 73, 79, 73]) == ["free"] * 2 + [PAUSED] * 8
    assert run.states([71, 71, 71]) == [PAUSED, PAUSED, "free"]


@given(st.lists(st.floats(72.5, 100.0), max_size=60))
def test_within_the_margin_it_changes_its_mind_once_at_most(loads: list[float]) -> None:
    """Whatever the load does above nine tenths of the limit, training stops at most once and does not go on."""
    states = Run().states(loads)

    assert sum(former != later for former, later in itertools.pairwise(states)) <= 1


def test_a_look_at_the_game_is_no_reading() -> None:
    """The game is asked thirty times a second; one busy second of the machine counts once all the same."""
    run = Run()
    run.reads(others_cpu_percent=99.0)

    assert {run.hears(others_cpu_percent=99.0).state for _ in range(100)} == {"free"}


def test_memory_and_gpu_memory_count_as_the_processor_does() -> None:
    """Each has its limit; what is passed is named, also when it is several at a time."""
    run = Run()
    for _ in range(3):
        decision = run.reads(memory_percent=91.0, gpu_memory_percent=97.0, others_cpu_percent=10.0)

    assert decision.workers_allowed == 0
    assert "91 % of the memory (limit 85 %: governor.memory_percent" in decision.reason
    assert "97 % of the GPU memory (limit 90 %: governor.gpu_memory_percent" in decision.reason
    assert decision.causes == ("memory", "GPU memory")


def test_a_rest_is_so_many_times_the_batch() -> None:
    """Under load the learner takes one part of the time in four: a batch of 2 s, a rest of 6 s, a batch."""
    run = Run(GovernorSettings())
    run.states([99, 99])
    run.trains(2.0)
    run.reads(others_cpu_percent=99.0, after=0.0)
    states = [run.reads(others_cpu_percent=99.0).state for _ in range(7)]

    assert states == [PAUSED] * 5 + [GIVING_WAY] * 2
    assert run.decision.workers_allowed == 1 and "with rests between them" in run.decision.reason
    run.trains(2.0)
    assert run.hears(others_cpu_percent=99.0).state == PAUSED


def test_learning_never_stops_for_good() -> None:
    """However long the machine is busy, a batch is trained a minute after the last one."""
    run = Run()
    run.states([99] * 3)

    allowed = []
    for _ in range(200):
        if run.reads(others_cpu_percent=99.0).workers_allowed:
            allowed.append(run.moment)
            run.trains(1.0)

    assert len(allowed) == 3
    assert all(59.0 <= later - former <= 63.0 for former, later in itertools.pairwise(allowed))


@pytest.mark.parametrize("batch_seconds", [0.1, 1.0, 10.0, 30.0, 59.0])
@pytest.mark.parametrize("factor", [0.0, 3.0, 1000.0])
def test_under_full_load_a_batch_starts_every_minute(batch_seconds: float, factor: float) -> None:
    """However long a batch takes beside the other programs, and whatever the rest factor: never more than a minute apart."""
    run = Run(GovernorSettings(rest_factor=factor))
    run.states([99] * 3)
    run.trains(batch_seconds)

    starts = []
    while run.moment < 600.0:
        if run.hears(others_cpu_percent=99.0, after=0.1).workers_allowed:
            starts.append(run.moment)
            run.trains(batch_seconds)

    assert all(later - former <= 60.2 for former, later in itertools.pairwise(starts)) and len(starts) >= 9


def test_frames_that_get_slow_again_and_again_hold_a_batch_up_for_a_minute_in_all() -> None:
    """A batch of 10 s that is interrupted after each half second ends all the same, and the next one is as far."""
    run = Run(GovernorSettings())
    run.batch = {"last_batch_seconds": 10.0, "last_batch_ended": 0.0}
    ends, worked, slow_until = [], 0.0, 0.0
    while run.moment < 600.0:
        word = "slow" if run.moment < slow_until else "steady"
        decision = run.hears(game=word, after=0.1)
        worked += 0.1 if decision.workers_allowed else 0.0
        if word == "steady" and decision.workers_allowed and round(worked * 10) % 5 == 0:
            slow_until = run.moment + 0.3
        if worked >= 10.0:
            ends.append(run.moment)
            run.batch, worked = {"last_batch_seconds": 10.0, "last_batch_ended": run.moment}, 0.0

    assert len(ends) >= 8 and all(later - former <= 72.0 for former, later in itertools.pairwise([0.0, *ends]))


def test_overnight_other_programs_do_not_limit_training() -> None:
    """Processor and GPU memory count no more, the memory above 95 % only; the game, disk and battery count as before."""
    settings = GovernorSettings(profile="overnight", rest_factor=1000.0, free_disk_bytes=100_000_000)
    run = Run(settings)
    decisions = [run.reads(others_cpu_percent=99.0, memory_percent=94.0, gpu_memory_percent=100.0) for _ in range(10)]

    assert {(decision.state, decision.workers_allowed) for decision in decisions} == {("free", 2)}
    assert "slow, as other programs use 99 %" in decisions[-1].reason and "governor.profile is overnight" in decisions[-1].reason
    for seen in (
        {"memory_percent": 97.0},
        {"free_disk_bytes": 5e6},
        {"battery_percent": 8.0},
        {"game": "busy"},
        {"game": "slow"},
    ):
        run = Run(settings)
        assert [run.reads(**seen).state for _ in range(3)][-1] == PAUSED


@pytest.mark.parametrize("verb", ["run", "learn"])
def test_the_flag_overnight_sets_the_profile(verb: str, tmp_path: Path) -> None:
    """With --overnight the profile is overnight; without it, that of the settings."""
    command = importlib.import_module(f"background_training.commands.{verb}")
    profiles = []
    for flags in ([], ["--overnight"]):
        options = command._parser().parse_args(["--root", str(tmp_path), *flags])
        profiles.append(common.settings_of(options, governor=common.governor_flags(options)).governor.profile)

    assert profiles == ["shared", "overnight"]


def test_a_full_disk_and_an_empty_battery_pause_for_as_long_as_they_last() -> None:
    """There is no batch now and then: it could not be written, or would end the game."""
    for seen, words in (({"free_disk_bytes": 5e6}, "5 MB of disk are free"), ({"battery_percent": 8.0}, "the battery is at 8 %")):
        run = Run()
        decisions = [run.reads(**seen) for _ in range(300)]

        assert [decision.workers_allowed for decision in decisions] == [2, 2] + [0] * 298
        assert words in decisions[-1].reason
        assert [run.reads(free_disk_bytes=1e12).workers_allowed for _ in range(3)][-1] == 2


def test_a_busy_game_stops_a_batch_in_its_middle_at_once() -> None:
    """The game's own word needs no second reading, holds while it is said, and no longer."""
    run = Run()
    decision = run.hears(game="busy", game_remark="boss fight")

    assert (decision.state, decision.workers_allowed, decision.at_once) == (PAUSED, 0, True)
    assert decision.reason == "the game is busy: boss fight (to ignore it: governor.enabled: false)"
    assert {run.hears(game="busy", after=10.0).workers_allowed for _ in range(100)} == {0}
    assert run.hears().workers_allowed == 2


def test_a_game_that_speaks_knows_better_than_the_processor() -> None:
    """Frames as usual, or a loading screen: the processor's load alone says nothing then. Memory still counts."""
    for word in ("steady", "free"):
        run = Run()
        decisions = [run.reads(others_cpu_percent=100.0, game=word) for _ in range(10)]
        assert {(decision.state, decision.workers_allowed) for decision in decisions} == {("free", 2)}
        assert "slow, as other programs use 100 % of the processor" in decisions[-1].reason and "the game" in decisions[-1].reason
        assert run.reads(others_cpu_percent=100.0).state == PAUSED
        assert [run.reads(memory_percent=99.0, game=word).state for _ in range(3)][-1] == PAUSED


def test_slow_frames_stop_at_once_and_training_waits_for_them_to_be_usual_for_a_while() -> None:
    """A second of usual frames has to pass before training goes on."""
    run = Run()
    decision = run.hears(game="slow", game_remark="33.0 ms, usually 16.7 ms")

    assert decision.at_once and "the game's frames are slower than usual: 33.0 ms, usually 16.7 ms" in decision.reason
    assert "governor.longest_rest_seconds" in decision.reason
    assert run.hears(game="steady").workers_allowed == 0
    assert run.hears(game="slow", after=0.9).workers_allowed == 0
    assert run.hears(game="steady").workers_allowed == 0
    assert run.hears(game="steady", after=0.5).workers_allowed == 0
    assert run.hears(game="steady", after=0.6).workers_allowed == 2


def test_who_disturbs_again_and_again_waits_longer_each_time() -> None:
    """When frames get slow soon after training went on, it was us: the rest doubles, up to sixteen seconds."""
    run = Run()
    rests = []
    for _ in range(7):
        run.hears(game="slow", after=0.5)
        begun = run.moment
        while not run.hears(game="steady", after=0.1).workers_allowed:
            pass
        rests.append(round(run.moment - begun))
        run.trains(0.1)
    run.hears(game="steady", after=60.0)
    run.hears(game="slow")

    assert rests == [1, 2, 4, 8, 16, 16, 16]
    assert run.decision.frames.rest_seconds == 1.0


def test_slow_frames_without_end_let_a_batch_through_now_and_then() -> None:
    """A game whose frames are slow whatever we do is not a reason to learn nothing."""
    run = Run()
    allowed = 0
    for _ in range(1810):
        decision = run.hears(game="slow", after=0.1)
        if decision.workers_allowed:
            assert not decision.at_once and "one batch all the same" in decision.reason
            allowed += 1
            run.trains(0.1)

    assert allowed == 3


def test_the_word_free_ends_the_wait_after_slow_frames() -> None:
    """A loading screen right after a fight is not waited away."""
    run = Run()
    run.hears(game="slow")

    assert run.hears(game="free").workers_allowed == 2


def test_switched_off_it_allows_everything() -> None:
    """Nothing is weighed, and the state says so."""
    run = Run(GovernorSettings(enabled=False))

    decision = run.reads(game="busy", others_cpu_percent=100.0, free_disk_bytes=0.0)

    assert (decision.state, decision.workers_allowed, throttle_policy.text(decision)) == ("off", 2, "off")


def test_the_users_pause_comes_before_everything_else() -> None:
    """Whatever game and machine say, and also where the governor is switched off: all stand still, and know how to go on."""
    for settings in (SETTINGS, GovernorSettings(enabled=False)):
        run = Run(settings)
        for game in ("", "free", "steady", "busy", "slow"):
            decision = run.reads(game=game, user_pause="by ann since 2026-03-01 14:05:09", free_disk_bytes=5.0)

            assert (decision.state, decision.workers_allowed, decision.at_once) == (PAUSED, 0, True)
            assert decision.causes == (throttle_policy.BY_THE_USER,)
            assert "by ann since 2026-03-01 14:05:09" in decision.reason and "--resume" in decision.reason
        assert {run.hears(user_pause="since ...", after=100.0).workers_allowed for _ in range(100)} == {0}
        after = [run.reads(game="free", free_disk_bytes=1e12).state for _ in range(throttle_policy.READINGS_IN_A_ROW)]
        assert after[-1] == ("free" if settings.enabled else "off")


def test_what_was_seen_during_a_pause_counts_after_it() -> None:
    """A machine that was overloaded all the while is so when the user lets training go on."""
    run = Run()
    for _ in range(3):
        run.reads(user_pause="since ...", memory_percent=99.0)

    assert run.hears(memory_percent=99.0).causes == ("memory",)


SAMPLES = st.builds(
    LoadSample,
    number=st.integers(0, 3),
    others_cpu_percent=st.none() | st.floats(0, 100),
    memory_percent=st.none() | st.floats(0, 100),
    gpu_memory_percent=st.none() | st.floats(0, 100),
    free_disk_bytes=st.none() | st.floats(0, 1e9),
    battery_percent=st.none() | st.floats(0, 100),
    game=st.sampled_from(["", "busy", "slow", "steady", "free"]),
    user_pause=st.sampled_from(["", "", "since 2026-03-01 14:05:09"]),
    last_batch_seconds=st.floats(0, 100),
)


@given(st.lists(st.tuples(SAMPLES, st.floats(0, 100)), max_size=30), st.integers(1, 8))
def test_every_decision_is_within_bounds_and_explains_itself(steps: list[tuple[LoadSample, float]], max_workers: int) -> None:
    """Between none and all workers; fewer than all only with a reason and a cause; standing still at once only with none."""
    decision, moment = throttle_policy.first(SETTINGS, max_workers), 0.0
    for sample, seconds in steps:
        moment += seconds
        again = throttle_policy.decide(sample, SETTINGS, decision, max_workers, moment)
        decision = throttle_policy.decide(sample, SETTINGS, decision, max_workers, moment)

        assert decision == again
        assert 0 <= decision.workers_allowed <= max_workers
        assert bool(decision.reason) == bool(decision.causes)
        assert (decision.state == "free") == (
            decision.workers_allowed == max_workers and decision.causes in ((), ("low priority",))
        )
        assert not decision.reason or "governor." in decision.reason or "--resume" in decision.reason
        assert not (decision.at_once and decision.workers_allowed)
        assert (decision.state == PAUSED) == (decision.workers_allowed == 0)


def test_the_limits_are_those_of_the_guides() -> None:
    """What users know: processor 80 %, memory 85 %, GPU memory 90 %, a check every second."""
    settings = GovernorSettings()

    assert settings.enabled
    assert (settings.cpu_percent, settings.memory_percent, settings.gpu_memory_percent) == (80.0, 85.0, 90.0)
    assert settings.check_seconds == 1.0


def test_facts_are_what_a_monitor_needs() -> None:
    """State, reason, workers and every reading by name, in plain values."""
    sample = LoadSample(1, 12.34, memory_percent=50.0, free_disk_bytes=1e9, game="steady")
    facts = throttle_policy.facts(throttle_policy.first(SETTINGS, 2), sample)

    assert set(facts) == {"state", "reason", "workers_allowed", "readings"}
    assert facts["readings"]["others_cpu_percent"] == 12.3 and facts["readings"]["game"] == "steady"
    assert set(facts["readings"]) < {field.name for field in dataclasses.fields(LoadSample)}
