"""Two processes share a lesson: the same bits as one makes, also when the second is killed, hangs or grows; nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from conftest import wait_until

from local_training import episode, learning, shared_work
from local_training.actions import Discrete
from local_training.episode import Episode
from local_training.paths import Paths
from local_training.settings import LearnerSettings, LearningSettings
from tools.learner import crew as crews
from tools.learner.crew import Crew

WIDTH, ACTIONS = 5, 3
SETTINGS = LearningSettings(hidden=32, epochs=3)


def game(steps: int, seed: int, *, recorded: bool = True, masked: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "states": rng.normal(size=(steps, WIDTH)).astype(np.float32),
        "actions": rng.integers(0, ACTIONS, steps),
        "rewards": rng.normal(size=steps).astype(np.float32),
    }
    if recorded:
        arrays["log_probs"] = np.full(steps, -np.log(ACTIONS), np.float32)
    if masked:
        arrays["action_mask"] = np.ones((steps, ACTIONS), bool)
    return episode.from_arrays(arrays)


def games_of(version: int) -> list[Episode]:
    """One batch, with games of every kind."""
    return [game(150 * version, version), game(700, 10 + version, masked=True), game(90, 20 + version, recorded=False)]


def trained(settings: LearningSettings = SETTINGS, batches: int = 3) -> dict[str, Any]:
    """The arrays after some batches of games of every kind."""
    state, history = learning.new_state(WIDTH, Discrete(ACTIONS), settings), []
    for version in range(1, batches + 1):
        games = games_of(version)
        state, _ = learning.learn(state, games, settings, version, history)
        history += games
    return learning.to_arrays(state)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@contextmanager
def a_crew(**settings: Any) -> Iterator[tuple[Crew, list[str]]]:
    said: list[str] = []
    crew = Crew(LearnerSettings(share_from=0, **settings), said.append)
    shared_work.share_with(crew)
    try:
        crew.tend(2, 1)
        yield crew, said
    finally:
        shared_work.share_with(None)
        crew.close()


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        LearningSettings(hidden=32, epochs=5, kl_limit=1e-9),
        LearningSettings(hidden=32, epochs=2, minibatch_steps=5000),
    ],
    ids=["usual", "stops after one epoch", "several parts in each minibatch"],
)
def test_two_processes_make_the_bits_of_one(settings: LearningSettings) -> None:
    """Whoever trains the value network: the model is the same, to the last bit."""
    alone = trained(settings)

    with a_crew() as (crew, _):
        together = trained(settings)

        assert crew.taken_over == 9
    assert equal(alone, together)


@pytest.mark.parametrize("limit", [0, 1000])
def test_members_that_are_killed_change_nothing(limit: int) -> None:
    """Its work is done again, and another takes its place, as often as the budget allows."""
    alone = trained(batches=12)
    over = threading.Event()

    with a_crew(restart_limit=limit) as (crew, said):

        def kill_again_and_again() -> None:
            while not over.wait(0.01):
                member = crew._member
                if member is not None and member.lesson >= 2:
                    member.process.kill()

        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        try:
            state, history = learning.new_state(WIDTH, Discrete(ACTIONS), SETTINGS), []
            for version in range(1, 13):
                crew.tend(2, 1)
                games = [
                    game(150 * version, version),
                    game(700, 10 + version, masked=True),
                    game(90, 20 + version, recorded=False),
                ]
                state, _ = learning.learn(state, games, SETTINGS, version, history)
                history += games
        finally:
            over.set()
            killer.join()

        assert crew.size <= 1
        assert said
        assert ("goes on without it" in said[-1]) == (limit == 0)
    assert equal(alone, learning.to_arrays(state))


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
def test_a_member_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No life on the desk for a while: killed, and its work done again."""
    monkeypatch.setattr(crews, "HANG_SECONDS", 0.3)
    alone = trained(batches=1)

    with a_crew() as (crew, said):
        assert crew._member is not None
        wait_until(lambda: crew._member.ready)
        os.kill(crew._member.process.pid, signal.SIGSTOP)
        together = trained(batches=1)

        assert crew.done_again == 1
        assert "hung" in said[0]
    assert equal(alone, together)


def test_a_member_that_takes_too_much_memory_is_replaced() -> None:
    """A leak ends with the process that has it."""
    with a_crew(worker_memory_bytes=10_000_000) as (crew, said):
        assert crew._member is not None
        wait_until(lambda: crew._member.ready)
        former = crew._member.process.pid

        crew.tend(2, 1)
        time_out = time.monotonic() + 10.0
        while crew.size == 0 and time.monotonic() < time_out:
            crew.tend(2, 1)

        assert "memory" in said[0]
        assert not psutil.pid_exists(former)
        assert crew.size == 1


def test_a_crew_follows_load_and_backlog() -> None:
    """One batch alone starts nobody; more files do, if more than one process may work; an idle member goes home."""
    moment = [0.0]
    crew = Crew(LearnerSettings(batch_size=10), lambda sentence: None, lambda: moment[0])
    sizes = []
    for moment[0], allowed, waiting in [
        (1, 2, 10),
        (2, 1, 11),
        (3, 2, 11),
        (4, 2, 0),
        (32, 2, 0),
        (34, 2, 0),
        (35, 2, 11),
        (36, 1, 11),
    ]:
        crew.tend(allowed, waiting)
        sizes.append(crew.size)
    crew.close()

    assert sizes == [0, 0, 1, 1, 1, 0, 1, 0]


def test_a_member_stands_still_with_the_worker() -> None:
    """While the worker gives way to the game, its second process does too, and shows that it lives."""
    with a_crew() as (crew, _):
        member = crew._member
        assert member is not None
        wait_until(lambda: member.ready)
        big = learning.new_state(WIDTH, Discrete(ACTIONS), LearningSettings(hidden=256))
        states, targets = np.ones((4000, WIDTH + 1), np.float32), np.ones(4000, np.float32)
        pace = shared_work.Pace(256, 0.001, 0.5)
        sizes = shared_work.Sizes(WIDTH, 256, 1)
        orders = [np.arange(4000)] * 200
        assert crew.begin(shared_work.CriticTask(big.critic, sizes, states, targets, orders, pace)) is not None
        wait_until(lambda: member.epochs)

        crew.hold(True)
        flags = member._desk.flags
        before = int(flags[crews.BEAT])
        wait_until(lambda: int(flags[crews.BEAT]) > before + 3)
        epochs, before = len(member.epochs), int(flags[crews.BEAT])
        wait_until(lambda: int(flags[crews.BEAT]) > before + 20)
        held = len(member.epochs)
        crew.hold(False)
        wait_until(lambda: len(member.epochs) > held)

    assert held <= epochs + 1


@pytest.mark.slow
def test_a_learner_whose_processes_are_killed_makes_what_one_process_makes(paths: Paths, tmp_path: Path) -> None:
    """Worker and second process are killed in the middle; both are gone, others go on, and the model is the same."""
    twin = Paths(tmp_path / "twin")
    twin.buffer.mkdir(parents=True)
    for number in range(30):
        for one in (paths, twin):
            log_probs = np.full(300, -np.log(episodes.ACTIONS), np.float32)
            episodes.write(one.buffer, f"game_{number:02d}.npz", number, steps=300, log_probs=log_probs)
    learner_runs.drain(twin.root, learning={"epochs": 4, "hidden": 64}, max_workers=1)

    with learner_runs.learner(paths.root, learning={"epochs": 4, "hidden": 64}, share_from=0, max_workers=2):
        for _ in range(2):
            wait_until(lambda: _members(), 60.0)
            (worker,) = learner_runs.workers_of(os.getpid())
            (member,) = _members()
            member.kill()
            worker.kill()
            wait_until(lambda worker=worker, member=member: not worker.is_running() and not member.is_running())
        wait_until(lambda: not any(paths.buffer.iterdir()), 120.0)

    assert not _members()
    assert paths.model.read_bytes() == twin.model.read_bytes()


def _members() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "tools.learner.crew_member" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found
