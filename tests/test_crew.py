"""Processes share a lesson: the same bits as one makes, also when some are killed, hang or grow; nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from commands import run_tool
from conftest import PATIENCE_SECONDS, wait_until

from local_training import episode, learning, shared_work, yield_point
from local_training.actions import Discrete
from local_training.episode import Episode
from local_training.objectives import CriticObjective
from local_training.paths import Paths
from local_training.settings import LearnerSettings, LearningSettings
from tools.learner import hands, seats
from tools.learner.crew import Crew

WIDTH, ACTIONS = 5, 3
SETTINGS = LearningSettings(hidden=32, epochs=3)
WIDE = LearningSettings(hidden=128, epochs=2)
"""Each minibatch of 256 steps is two parts, so that two processes can share a network."""


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
def a_crew(workers: int = 2, **settings: Any) -> Iterator[tuple[Crew, list[str]]]:
    said: list[str] = []
    crew = Crew(LearnerSettings(share_from=0, max_workers=workers, **settings), said.append)
    shared_work.share_with(crew)
    try:
        crew.tend(workers, 1)
        yield crew, said
    finally:
        shared_work.share_with(None)
        crew.close()


@pytest.mark.parametrize(
    ("workers", "settings"),
    [
        (2, SETTINGS),
        (2, LearningSettings(hidden=32, epochs=5, kl_limit=1e-9)),
        (3, LearningSettings(hidden=32, epochs=2, minibatch_steps=5000)),
        (2, WIDE),
        (3, WIDE),
        (4, LearningSettings(hidden=128, epochs=5, kl_limit=1e-9)),
        (4, WIDE),
    ],
    ids=["small", "stops after one epoch", "three, large minibatches", "wide", "three", "four, stop", "four"],
)
def test_processes_make_the_bits_of_one(workers: int, settings: LearningSettings) -> None:
    """Whoever trains the value network and makes the parts of gradients: the model is the same, to the last bit."""
    batches = 3 if workers == 2 else 1
    alone = trained(settings, batches)

    with a_crew(workers) as (crew, said):
        together = trained(settings, batches)

        assert (crew.size, crew.taken_over, crew.done_again) == (workers - 1, 3 * batches, 0)
        assert not said
    assert equal(alone, together)


def test_members_share_the_parts_of_both_networks() -> None:
    """With four processes, two work on each network: whoever leads asks its hand for half of every minibatch."""
    with a_crew(4) as (crew, _):
        trained(WIDE, batches=1)

        beats = crew._seats.flags[:, seats.BEAT].tolist()
    steps = sum(game.steps for game in games_of(1))
    minibatches = WIDE.epochs * -(-steps // WIDE.minibatch_steps)
    # A hand shows life at each part that it makes, and has no other reason to; who leads does while it waits, too.
    assert min(beats) >= minibatches


@pytest.mark.parametrize(("workers", "limit"), [(2, 0), (2, 1000), (4, 1000)])
def test_members_that_are_killed_change_nothing(workers: int, limit: int) -> None:
    """Their work is done again, and others take their places, as often as the budget allows."""
    settings, batches = (WIDE, 4) if workers > 2 else (SETTINGS, 12)
    alone = trained(settings, batches)
    over, rng = threading.Event(), np.random.default_rng(workers)

    with a_crew(workers, restart_limit=limit) as (crew, said):

        def kill_again_and_again() -> None:
            while not over.wait(0.01):
                members = list(crew._members.values())
                if members and max(member.lesson for member in members) >= 2:
                    members[rng.integers(len(members))].process.kill()

        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        try:
            state, history = learning.new_state(WIDTH, Discrete(ACTIONS), settings), []
            for version in range(1, batches + 1):
                crew.tend(workers, 1)
                games = games_of(version)
                state, _ = learning.learn(state, games, settings, version, history)
                history += games
        finally:
            over.set()
            killer.join()

        assert said
        assert ("goes on without it" in said[-1]) == (limit == 0)
    assert equal(alone, learning.to_arrays(state))


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
@pytest.mark.parametrize("seat", [0, 1, 2], ids=["leads", "policy's hand", "value network's hand"])
def test_a_member_that_hangs_is_replaced(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No life for a while, whatever its part is: killed, its work done again, and another takes its seat."""
    monkeypatch.setattr(hands, "HANG_SECONDS", 1.0)
    alone = trained(WIDE, batches=1)

    with a_crew(4) as (crew, said):
        hanging = crew._members[seat]
        wait_until(lambda: hanging.ready)
        os.kill(hanging.process.pid, signal.SIGSTOP)
        together = trained(WIDE, batches=1)
        while not hanging.gone:  # on a busy machine others may be taken to hang before it is asked for anything
            wait_until(lambda: crew.tend(4, 1) or crew.size == 3)
            assert equal(together, trained(WIDE, batches=1))
        wait_until(lambda: crew.tend(4, 1) or crew.size == 3)

        assert crew.done_again >= 1
        assert "hung" in said[0]
        assert crew._members[seat] is not hanging
        assert equal(together, trained(WIDE, batches=1))
    assert equal(alone, together)


def test_a_machine_that_stands_still_makes_nobody_hang() -> None:
    """Looks that come late count little, and a beat ends the silence."""
    moment = [0.0]
    silence, heard = hands.Silence(lambda: moment[0]), []
    for moment[0], beat in ((0.1, 1), (0.3, 1), (90.0, 1), (90.2, 1), (90.3, 2), (90.4, 2)):
        heard.append(round(silence.seconds(beat), 6))

    assert heard == [0.0, 0.2, 0.7, 0.9, 0.0, 0.1]


def test_a_member_that_takes_too_much_memory_is_replaced() -> None:
    """A leak ends with the process that has it."""
    with a_crew(worker_memory_bytes=10_000_000) as (crew, said):
        member = crew._members[0]
        wait_until(lambda: member.ready)
        former = member.process.pid

        crew.tend(2, 1)
        wait_until(lambda: crew.tend(2, 1) or crew.size)

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


def test_a_crew_grows_and_shrinks_in_the_middle_of_a_training() -> None:
    """As many processes as may work, and no more than a network has parts for; the bits stay those of one."""
    alone, sizes = trained(WIDE, batches=6), []
    with a_crew(4, batch_size=10) as (crew, _):
        crew._forced = False
        state, history = learning.new_state(WIDTH, Discrete(ACTIONS), WIDE), []
        for version, (allowed, waiting) in enumerate([(4, 99), (4, 99), (2, 99), (3, 99), (1, 99), (4, 99)], 1):
            crew.tend(allowed, waiting)
            sizes.append(1 + crew.size)
            for member in crew._members.values():
                assert member.wait_free(PATIENCE_SECONDS)
            games = games_of(version)
            state, _ = learning.learn(state, games, WIDE, version, history)
            history += games
        crew.tend(4, 99)
        learning.learn(learning.new_state(WIDTH, Discrete(ACTIONS), SETTINGS), games_of(1), SETTINGS, 1)
        crew.tend(4, 99)
        sizes.append(1 + crew.size)

    assert sizes == [2, 4, 2, 3, 1, 4, 2]
    assert equal(alone, learning.to_arrays(state))


@pytest.mark.parametrize("moment", [1, 6, 12])
def test_processes_for_which_there_is_no_room_any_more_go_in_the_middle_of_a_lesson(moment: int) -> None:
    """At any yield point: they are gone at once, nobody speaks of a death, and what they had begun is done by the worker."""
    alone, reached, left = trained(WIDE, batches=1), 0, list[int]()

    def rest() -> float:
        nonlocal reached
        reached += 1
        if reached == moment:
            members = [member.process for member in crew._members.values()]
            crew.limit(2)
            left.append(crew.size)
            crew.limit(1)
            left.extend(process.poll() is None for process in members)
        return 0.0

    with a_crew(4) as (crew, said):
        for member in crew._members.values():
            assert member.wait_free(30.0)
        assert sorted(crew.pids()) == sorted(member.process.pid for member in crew._members.values())
        yield_point.rest_with(rest)
        try:
            together = trained(WIDE, batches=1)
        finally:
            yield_point.rest_with(None)
        assert (left, crew.size, crew.pids(), said) == ([1, 0, 0, 0], 0, [], [])
    assert equal(alone, together)


def test_a_member_stands_still_with_the_worker() -> None:
    """While the worker gives way to the game, its second process does too, and shows that it lives."""
    with a_crew() as (crew, _):
        member = crew._members[0]
        wait_until(lambda: member.ready)
        big = learning.new_state(WIDTH, Discrete(ACTIONS), LearningSettings(hidden=256))
        states, objective = np.ones((4000, WIDTH + 1), np.float32), CriticObjective(np.ones(4000, np.float32))
        pace = shared_work.Pace(256, 0.001, 0.5)
        sizes = shared_work.Sizes(WIDTH, 256, 1)
        orders = [np.arange(4000)] * 200
        assert crew.begin(shared_work.CriticTask(big.critic, sizes, states, objective, orders, pace)) is not None
        wait_until(lambda: member.epochs)

        def done() -> int:
            """Epochs whose result lies on the desk; what the member says of them may be heard later."""
            return int(member._results.any(axis=(1, 2)).sum())

        crew.hold(True)
        flags = crew._seats.flags[0]
        before = int(flags[seats.BEAT])
        wait_until(lambda: int(flags[seats.BEAT]) > before + 3)
        epochs, before = done(), int(flags[seats.BEAT])
        wait_until(lambda: int(flags[seats.BEAT]) > before + 20)
        held = done()
        crew.hold(False)
        wait_until(lambda: len(member.epochs) > held)

    assert 0 < held == epochs


@pytest.mark.slow
def test_a_learner_whose_processes_are_killed_makes_what_one_process_makes(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker and second process are killed in the middle; both are gone, others go on, and the model is the same."""
    twin = Paths(tmp_path / "twin")
    twin.buffer.mkdir(parents=True)
    for number in range(15):
        for one in (paths, twin):
            log_probs = np.full(300, -np.log(episodes.ACTIONS), np.float32)
            episodes.write(one.buffer, f"game_{number:02d}.npz", number, steps=300, log_probs=log_probs)
    wide = {"epochs": 2, "hidden": 128}
    learner_runs.drain(twin.root, learning=wide, max_workers=1)

    killed = tmp_path / "killed.txt"
    monkeypatch.setenv("KILLED", str(killed))
    monkeypatch.setenv("MODEL", str(paths.model))
    learner_runs.worker_does_in_the_middle(KILL_TWICE, monkeypatch, at=1)
    with learner_runs.learner(paths.root, learning=wide, share_from=0, max_workers=4) as learner:
        wait_until(lambda: not any(paths.buffer.iterdir()))
        restarts = learner.get_stats()["worker_restarts"]
    families = [[int(pid) for pid in line.split()] for line in killed.read_text().splitlines()]

    assert restarts == 2
    assert [len(family) for family in families] == [4, 4], "a worker and three members"
    wait_until(lambda: not any(_lives(pid) for family in families for pid in family))
    assert not _members()
    assert paths.model.read_bytes() == twin.model.read_bytes()
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", paths.root)


KILL_TWICE = """
import pathlib, signal, psutil
from local_training import model_store
pids, model = pathlib.Path(os.environ["KILLED"]), pathlib.Path(os.environ["MODEL"])
deaths = pids.read_text().splitlines() if pids.exists() else []
if len(deaths) < 2 and model.exists() and model_store.read(model).version >= 1 + 2 * len(deaths):
    ripe = globals().get("ripe", 0) + 1
    if ripe == 8:
        members = psutil.Process().children()
        with pids.open("a") as file:
            print(os.getpid(), *(member.pid for member in members), file=file)
        members[0].kill()
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""In the middle of the second batch, and of the fourth: a batch that was trained on in vain twice would be taken apart."""


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _members() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "tools.learner.crew_member" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found
