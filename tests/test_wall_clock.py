"""A clock that somebody sets: no file becomes older than it is, so none is set aside or deleted before its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import episodes
import learner_runs
import pytest
from conftest import PATIENCE_SECONDS
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from background_training.learner import retention
from background_training.learner.training_log import TroubleLog
from background_training.learner.triage import Accepted, Excluded, Triage, WallClock
from background_training.paths import CHECKOUT, Paths
from background_training.records.ledger import Ledger
from background_training.settings import ReplaySettings
from background_training.starcraft.replays.replay_archive import ReplayArchive

HOUR, DAY = 3600.0, 86400.0


class Machine:
    """A machine's two clocks: one that can be set, and one that goes on."""

    def __init__(self) -> None:
        self.steady = FakeClock()
        self.ahead = 1.5e9
        self.clock = WallClock(self.now, self.steady)

    def now(self) -> float:
        return self.steady() + self.ahead

    def set_clock(self, by: float) -> None:
        self.ahead += by


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_clock_put_forward_makes_nothing_old(machine: Machine) -> None:
    """What was written before grows old from then on, as what is written after."""
    machine.steady.advance(100.0)
    before = machine.now()
    machine.steady.advance(60.0)
    machine.set_clock(10 * HOUR)
    after = machine.now()
    machine.steady.advance(30.0)

    assert machine.clock.age_seconds(before) == 90.0 and machine.clock.age_seconds(after) == 30.0
    machine.steady.advance(HOUR)
    assert machine.clock.age_seconds(before) == HOUR + 90.0 and machine.clock.age_seconds(after) == HOUR + 30.0


def test_a_clock_put_forward_and_back_again_leaves_no_trace(machine: Machine) -> None:
    """Somebody's mistake, mended after an hour, in two steps."""
    before = machine.now()
    machine.set_clock(10 * HOUR)
    machine.steady.advance(HOUR)
    assert machine.clock.age_seconds(before) == HOUR
    for by in (-4 * HOUR, -6 * HOUR):
        machine.set_clock(by)
        assert machine.clock.age_seconds(before) == HOUR
    after = machine.now()
    machine.steady.advance(HOUR)
    assert (machine.clock.age_seconds(before), machine.clock.age_seconds(after)) == (2 * HOUR, HOUR)


def test_a_clock_set_back_makes_files_new_but_not_for_ever(machine: Machine) -> None:
    """A file from the future is no old one, and grows old once that future is past; what is written now does at once."""
    machine.steady.advance(100.0)
    before = machine.now()
    machine.set_clock(-2 * HOUR)
    after = machine.now()

    assert machine.clock.age_seconds(before) == -2 * HOUR and machine.clock.age_seconds(after) == 0.0
    machine.steady.advance(4 * HOUR)
    assert machine.clock.age_seconds(before) == 2 * HOUR and machine.clock.age_seconds(after) == 4 * HOUR


@given(st.lists(st.tuples(st.floats(0.0, 3 * DAY), st.floats(-30 * DAY, 30 * DAY), st.booleans()), max_size=8))
def test_whatever_a_clock_does_no_file_is_older_than_it_is(steps: list[tuple[float, float, bool]]) -> None:
    """Time passes, files are written, the clock is set, the learner looks: ages may only be too small."""
    machine = Machine()
    written: list[tuple[float, float]] = []
    for seconds, by, writes in steps:
        machine.steady.advance(seconds)
        if writes:
            written.append((machine.now(), machine.steady()))
        machine.set_clock(by)
        machine.clock.look()
    for modified, since in written:
        # Below ten seconds a leap is not told from a clock that runs slow.
        assert machine.clock.age_seconds(modified) <= machine.steady() - since + 10.0 * (len(steps) + 1)


def test_intake_takes_what_waited_while_the_clock_was_put_forward(paths: Paths, machine: Machine) -> None:
    """And sets aside what is really too old, by the clock as it was or as it is."""
    settings = learner_runs.settings(paths.root, max_file_age=HOUR)
    triage = Triage(paths, settings, Ledger(paths.ledger, durable=False), patient=True, clock=machine.clock)

    def verdict(seed: int, modified: float) -> object:
        path = episodes.write(paths.buffer, f"game_{seed}.npz", seed)
        os.utime(path, (modified, modified))
        return triage.verdict_on(path.name, None)

    machine.steady.advance(2 * HOUR)
    fresh, old = machine.now() - 60.0, machine.now() - 1.5 * HOUR
    machine.set_clock(5 * HOUR)

    assert isinstance(verdict(1, fresh), Accepted) and isinstance(verdict(2, old), Excluded)
    assert isinstance(verdict(3, machine.now()), Accepted) and isinstance(verdict(4, machine.now() - 1.5 * HOUR), Excluded)
    machine.set_clock(-8 * HOUR)
    assert isinstance(verdict(5, fresh), Accepted) and isinstance(verdict(6, machine.now() - 1.5 * HOUR), Excluded)


LEAPING = """
import os, sys, time
from pathlib import Path
real, ahead = time.time, [0.0]
time.time = lambda: real() + ahead[0]
from background_training.settings import Settings
from background_training.learner.drain import drain
settings = Settings(root=Path(sys.argv[1])).with_values("test", learner={"max_file_age": 3600.0})
tell = lambda event, **facts: None
waits = settings.paths.buffer / "waits.npz"
drain(settings, tell)
os.rename(sys.argv[2], waits)
ahead[0] = 36000.0
print(drain(settings, tell)["files_skipped_old"])
"""


def test_whole_learner_trains_on_what_waited_while_the_clock_was_put_forward(paths: Paths) -> None:
    """In a process of its own whose clock leaps by ten hours: nothing is stale."""
    episodes.write(paths.buffer, "first.npz", 1)
    waits = episodes.write(paths.root, "waits.npz", 2)

    done = subprocess.run(
        [sys.executable, "-c", LEAPING, str(paths.root), str(waits)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.stdout == "0\n", done.stderr
    assert [name for name, _ in learner_runs.trained(paths)] == ["first.npz", "waits.npz"]


def test_retention_deletes_nothing_because_the_clock_was_put_forward(paths: Paths, machine: Machine) -> None:
    """Days are days; and one episode from the future keeps those after it for no longer than they are to be kept."""
    for number in range(6):
        episodes.write(paths.buffer, f"game_{number}.npz", number)
    plain = learner_runs.settings(paths.root, batch_size=1, history_size=1, learning={"replay_episodes": 0})
    learner_runs.drains.drain(plain, lambda event, **facts: None)
    (paths.rejected / "bad.npz").write_bytes(b"x")
    for path in (*paths.archive.glob("*.npz"), paths.rejected / "bad.npz"):
        os.utime(path, (machine.now(), machine.now()))
    future = machine.now() + 1000 * DAY
    os.utime(paths.archive / "game_1.npz", (future, future))
    bounded = plain.with_values("test", retention={"archive_days": 7.0, "aside_days": 7.0})
    ledger = Ledger(paths.ledger, durable=False)

    machine.set_clock(100 * DAY)
    retention.apply(paths, bounded, ledger, machine.clock)
    assert len(list(paths.archive.glob("*.npz"))) == 6 and (paths.rejected / "bad.npz").exists()

    machine.steady.advance(8 * DAY)
    retention.apply(paths, bounded, ledger, machine.clock)
    assert not (paths.archive / "game_1.npz").exists() and not (paths.rejected / "bad.npz").exists()


def test_the_length_of_a_trouble_is_that_of_the_steady_clock(paths: Paths, machine: Machine) -> None:
    """Whatever the clock on the wall says meanwhile."""
    troubles = TroubleLog(paths, 10_000, machine.now, machine.steady)
    troubles.failed("the disk\nis full")
    machine.steady.advance(5.0)
    machine.set_clock(-3 * HOUR)
    troubles.failed("it still is")
    troubles.recovered()
    troubles.recovered()

    lines = paths.training_log.read_text("utf-8").splitlines()
    assert len(lines) == 2 and lines[0].endswith("] Trouble Began: the disk is full")
    assert "] Trouble Over: after 5.0 s, since " in lines[1] and lines[1].endswith("(the disk is full)")


def test_a_replay_from_the_future_is_read(paths: Paths, tmp_path: Path) -> None:
    """Its time tells nothing of whether it is still being written; waiting for it might take years."""
    folder = tmp_path / "replays"
    folder.mkdir()
    archive = ReplayArchive(paths, ReplaySettings(folder=str(folder)), str(folder))
    archive.prepare()
    for name, modified in (("new", 999.0), ("old", 900.0), ("future", 1e6)):
        (folder / f"{name}.SC2Replay").write_bytes(b"x")
        os.utime(folder / f"{name}.SC2Replay", (modified, modified))

    assert [Path(path).stem for path in archive.look(settled_before=990.0)] == ["future", "old"]
