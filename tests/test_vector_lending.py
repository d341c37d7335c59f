"""Large observations are lent, not copied: what the caller still holds never changes, whatever view of it that is."""

from __future__ import annotations

import gc
import threading
from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from vector_fixtures import is_back, nothing_left_behind, step_until  # noqa: F401
from vector_games import FAULTS, NORMAL, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv
from background_training.envs.shared_arrays import (
    FIRST_OBSERVATIONS,
    SPARE_BATCHES,
    WORTH_LENDING_BYTES,
    ObservationBatches,
    spare_batches,
)

pytestmark = pytest.mark.slow  # real processes


class Frames(FaultyGame):
    """FaultyGame as frames that are large enough to be lent: every pixel is the step."""

    def __init__(self, number: int = 0, length: int = 10**6, *, nested: bool = False) -> None:
        super().__init__(number, length)
        self.nested = nested
        frame = spaces.Box(0, 255, (WORTH_LENDING_BYTES // 2,), np.uint8)
        self.observation_space = spaces.Dict(frame=frame, step=spaces.Box(0, 1e9, (1,))) if nested else frame

    def _observation(self):
        frame = np.full(WORTH_LENDING_BYTES // 2, self.steps % 256, np.uint8)
        return {"frame": frame, "step": np.array([self.steps], np.float32)} if self.nested else frame


def make(count=2, *, nested=False, **options):
    makers = [partial(Frames, number, nested=nested) for number in range(count)]
    return ResilientAsyncVectorEnv(makers, num_workers=1, start_method="fork", reduce_after=0, close_seconds=0, **options)


def is_lent(envs, array):
    return any(np.shares_memory(array, batch) for batch in envs._block.observations)


KEEPERS = {
    "array": lambda frames: frames,
    "row": lambda frames: frames[1],
    "view of a view": lambda frames: frames.reshape(-1)[::2][5:],
    "memoryview": lambda frames: memoryview(frames),
    "transposed": lambda frames: np.asarray(frames).T,
}


@pytest.mark.parametrize("name", KEEPERS)
def test_what_is_kept_never_changes(name):
    """Any view keeps its batch; the next steps go elsewhere."""
    envs = make()
    kept = [KEEPERS[name](envs.reset()[0])]
    for _ in range(12):
        kept.append(KEEPERS[name](envs.step([0, 0])[0]))
    for step, frames in enumerate(kept):
        assert (np.asarray(frames) == step).all()
    envs.close()
    assert (np.asarray(kept[0]) == 0).all(), "after the end too"


def test_who_lets_go_is_lent_to_for_ever():
    """As a loop that holds the present and the next observations; nothing is ever copied."""
    envs = make()
    observations = envs.reset()[0]
    for step in range(1, 20):
        following = envs.step([0, 0])[0]
        assert is_lent(envs, following) and (observations == step - 1).all() and (following == step).all()
        observations = following
    envs.close()


def test_who_keeps_all_gets_copies():
    """The number of batches is bounded; the rest are arrays of the caller's own."""
    envs = make()
    kept = [envs.reset()[0], *(envs.step([0, 0])[0] for _ in range(9))]
    assert sum(is_lent(envs, frames) for frames in kept) == SPARE_BATCHES
    kept.clear()
    gc.collect()
    assert is_lent(envs, envs.step([0, 0])[0])
    envs.close()


def test_nested_spaces_are_lent_as_a_whole():
    """One leaf that is kept keeps the batch."""
    envs = make(nested=True)
    kept = [envs.reset()[0]["step"]]
    for _ in range(8):
        observations = envs.step([0, 0])[0]
        kept.append(observations["step"])
        assert is_lent_nested(envs, observations) or len(kept) > SPARE_BATCHES
    assert [steps[0, 0] for steps in kept] == list(range(9))
    envs.close()


def is_lent_nested(envs, observations):
    return any(np.shares_memory(observations["frame"], batch["frame"]) for batch in envs._block.observations)


def test_small_observations_are_copied_and_without_copies_nothing_is_lent():
    """A copy of little is cheap; `copy=False` means what it means elsewhere."""
    assert spare_batches(WORTH_LENDING_BYTES - 1, copy=True) == spare_batches(WORTH_LENDING_BYTES, copy=False) == 0
    envs = make(copy=False)
    first = envs.reset()[0]
    envs.step([0, 0])
    envs.step([0, 0])
    assert (first == 2).all()
    envs.close()


@pytest.mark.parametrize("fault", ["kill", "raise", "garbage"])
def test_a_fault_costs_a_lent_batch_nothing(fault):
    """The last good observation is in the row, the caller's stay as they are, and the env comes back."""
    envs = make()
    kept = [envs.reset()[0], *(envs.step([0, 0])[0] for _ in range(2))]
    faulty = envs.step([NORMAL, FAULTS[fault]])
    assert faulty[3][1] and (faulty[0][1] == 2).all()
    step_until(envs, is_back(), [0, 0])
    assert [int(frames[1, 0]) for frames in kept] == [0, 1, 2]
    envs.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_a_step_never_goes_to_what_the_caller_holds(moves):
    """Whatever the caller keeps and drops, and when: there is always a free batch, and it is another than the last."""
    rows = tuple(np.full((2, 3), -1) for _ in range(3 + SPARE_BATCHES))
    batches = ObservationBatches(rows, copy=True)
    held: list[tuple[int, np.ndarray]] = []
    for step, (keeps, drop) in enumerate(moves):
        number = batches.advance()
        assert number not in (batches.previous, FIRST_OBSERVATIONS)
        rows[number][...] = step
        handed = batches.hand_out()
        assert (handed == step).all()
        if keeps:
            held.append((step, handed[:1]))
        del handed
        if held and drop < len(held):
            held.pop(drop)
        assert all((array == stamp).all() for stamp, array in held)


def test_another_thread_may_let_go_last():
    """As a logger or a replay buffer would; only who still holds it counts."""
    envs = make()
    kept, may_go = [envs.reset()[0]], threading.Event()
    thread = threading.Thread(target=lambda frames: (may_go.wait(), frames.sum()), args=(kept.pop(),))
    thread.start()
    for step in range(1, 10):
        assert (envs.step([0, 0])[0] == step).all()
    may_go.set()
    thread.join()
    assert is_lent(envs, envs.step([0, 0])[0])
    envs.close()
