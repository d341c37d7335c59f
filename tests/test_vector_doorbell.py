"""Steps asked for and answered in shared memory: none is lost, none is done twice, and looking ends where it does not pay."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from vector_fixtures import nothing_left_behind  # noqa: F401
from vector_games import CLOSE_PIPE, GARBAGE, KILL, RAISE, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv, doorbell, slots
from background_training.envs.doorbell import LINE_WORDS, ParentsBell, Patience, WorkersBell

pytestmark = pytest.mark.slow  # real processes


def line() -> memoryview:
    return memoryview(np.zeros(LINE_WORDS, np.int64))


def pair(look_seconds: float = 0.0, generation: int = 3) -> tuple[ParentsBell, WorkersBell]:
    words = line()
    return ParentsBell(words, generation, look_seconds, lambda: None), WorkersBell(words, generation)


@pytest.mark.parametrize("generation", [1, 2**17 - 2, 2**17 - 1, 2**17, 2**40])
def test_a_step_is_asked_for_once_and_answered_once(generation):
    """A sleeping worker has to be rung; a ring too many finds nothing to do. However many workers there were before."""
    parent, worker = pair(generation=generation)
    assert worker.question() == -1
    assert parent.ask(1, 1), "it sleeps"
    assert (worker.question(), worker.question()) == (1, -1)
    assert not parent.answered()
    assert worker.answer(with_news=False), "the parent sleeps too"
    assert parent.answered()
    assert parent.ask(2, 0) and not parent.answered()
    assert worker.question() == 0


def test_news_are_no_quiet_answer():
    """What has gone through the link must be read there; it has rung by itself."""
    parent, worker = pair(look_seconds=60.0)
    parent.ask(1, 0)
    worker.question()
    assert not worker.answer(with_news=True)
    assert parent.look_for_answer() and not parent.answered()


def test_who_looks_need_not_be_rung():
    """The parent looks from the question on; the answer is there before it would sleep."""
    parent, worker = pair(look_seconds=60.0)
    parent.ask(1, 0)
    worker.question()
    assert not worker.answer(with_news=False)
    assert parent.look_for_answer() and parent.answered()


def test_only_who_is_waited_for_first_wakes_the_parent():
    """The others' answers are found when it comes to them; where one is not there yet, it sleeps and is rung."""
    parent, worker = pair()
    parent.ask(1, 0, wait_first=False)
    worker.question()
    assert not worker.answer(with_news=False)
    assert parent.look_for_answer() and parent.answered()
    parent.ask(2, 0, wait_first=False)
    assert not parent.look_for_answer()
    worker.question()
    assert worker.answer(with_news=False)


def test_who_has_stopped_looking_must_be_rung():
    """After a look in vain, and after `sleep`, as before any look."""
    parent, worker = pair(look_seconds=1e-4)
    parent.ask(1, 0)
    worker.question()
    assert not parent.look_for_answer() and parent.looked_in_vain
    assert worker.answer(with_news=False)
    parent.ask(2, 0)
    worker.question()
    parent.sleep()
    assert worker.answer(with_news=False)


def test_a_replaced_worker_takes_no_step_of_its_successor():
    """Both may use the same line for a moment."""
    words = line()
    former = WorkersBell(words, 3)
    successor, parent = WorkersBell(words, 4), ParentsBell(words, 4, 0.0, lambda: None)
    parent.ask(1, 0)
    assert former.question() == -1
    former.answer(with_news=False)
    assert not parent.answered()
    assert successor.question() == 0


def test_a_message_ends_the_look_of_a_worker():
    """It must look into its link then, and have the next step rung for."""
    parent, worker = pair(look_seconds=60.0)
    parent.ask(1, 0)
    worker.question()
    worker.answer(with_news=False)
    parent.point_to_link()
    assert worker.question() == -1, "at once, not after a minute"
    assert parent.ask(2, 1) and worker.question() == 1


def test_looking_ends_where_it_does_not_pay():
    """Each failure doubles the steps that go without; a hundred looks that pay begin anew, fewer do not."""
    patience = Patience()

    def skipped() -> int:
        count = 0
        while not patience.looks():
            count += 1
        return count

    for expected in (16, 32, 64):
        patience.failed()
        assert skipped() == expected
    for paid, expected in ((99, 128), (100, 16), (30, 32)):
        for _ in range(paid):
            patience.paid()
        patience.failed()
        assert skipped() == expected
    for _ in range(20):
        patience.failed()
    assert skipped() == 8192


def _serve(words, steps, gate):
    worker = WorkersBell(words, 1)
    gate.set()
    done = 0
    while done < steps:
        if worker.question() >= 0:
            done += 1
            worker.answer(with_news=False)
        os.sched_yield()  # there may be one core only


def test_two_processes_lose_no_step():
    """Ten thousand questions through real shared memory, each answered before the next."""
    context = multiprocessing.get_context("fork")
    words, gate = memoryview(mmap.mmap(-1, 8 * LINE_WORDS)).cast("q"), context.Event()
    process = context.Process(target=_serve, args=(words, 10_000, gate))
    process.start()
    gate.wait()
    parent = ParentsBell(words, 1, 200e-6, lambda: None)
    for step in range(10_000):
        parent.ask(step, step & 1)
        while not parent.answered():
            os.sched_yield()
    process.join()
    assert process.exitcode == 0


@pytest.fixture
def many_cores(monkeypatch):
    """As if each worker had a core to itself."""
    monkeypatch.setattr(slots, "usable_cores", lambda: 64)
    monkeypatch.setattr(doorbell, "memory_is_ordered", lambda: True)


@pytest.mark.parametrize("look", [0, 1000])
@pytest.mark.parametrize("workers", [1, 2])
def test_steps_are_the_same_however_they_are_asked_for(many_cores, look, workers):
    """Looking or sleeping, every row is the one that Gymnasium's SyncVectorEnv has."""
    makers = [partial(gymnasium.make, "CartPole-v1")] * 4
    envs = ResilientAsyncVectorEnv(makers, num_workers=workers, spin_microseconds=look, start_method="fork")
    peer = SyncVectorEnv(makers)
    for results in zip(envs.reset(seed=1), peer.reset(seed=1), strict=True):
        np.testing.assert_equal(*results)
    actions = np.random.default_rng(0).integers(0, 2, (300, 4))
    for number, row in enumerate(actions):
        for results in zip(envs.step(row), peer.step(row), strict=True):
            np.testing.assert_equal(*results)
        if number == 150:
            assert envs.call("get_wrapper_attr", "spec") == peer.call("get_wrapper_attr", "spec")
            np.testing.assert_equal(envs.reset(seed=2)[0], peer.reset(seed=2)[0])
    envs.close()
    peer.close()


@pytest.mark.parametrize("fault", [KILL, RAISE, GARBAGE, CLOSE_PIPE])
def test_who_looks_sees_faults_too(many_cores, fault):
    """In the very step, as by the link."""
    makers = [partial(FaultyGame, number, 10**6) for number in range(2)]
    envs = ResilientAsyncVectorEnv(makers, start_method="fork", reduce_after=0, spin_microseconds=1000, close_seconds=0)
    envs.reset()
    for _ in range(20):
        assert not envs.step([0, 0])[3].any()
    rows = envs.step([0, fault])
    assert rows[3].tolist() == [False, True] and rows[1].tolist() == [21, 0]
    envs.close()
