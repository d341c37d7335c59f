"""The parts of the vector envs that need no process: framing, budget, health, layout, presets, platform differences."""

from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest
from conftest import wait_until
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from hypothesis import given
from hypothesis import strategies as st

from background_training import envs
from background_training.envs import shared_arrays, vector_settings, worker_handle, worker_link
from background_training.envs.health import EnvRestarts, Failure, HealthTracker
from background_training.envs.resilient_game import ResilientGame
from background_training.envs.vector_settings import VectorSettings
from background_training.envs.worker_link import RING, FrameReader, pack
from background_training.errors import EnvCallError, GameError, GarbledMessageError, RestartBudgetError, SettingsError


@given(st.lists(st.one_of(st.none(), st.text(), st.lists(st.integers()))), st.integers(1, 50))
def test_messages_survive_any_cut_of_the_stream(messages, size):
    """However the bytes arrive, the same messages come out; rings between them are dropped."""
    stream = b"".join(RING if message is None else pack(message) for message in messages)
    reader, items = FrameReader(), []
    for start in range(0, len(stream), size):
        items += reader.feed(stream[start : start + size])
    assert items == [message for message in messages if message is not None]


@given(st.binary(min_size=1, max_size=40))
def test_a_damaged_frame_is_never_taken_for_a_message(garbage):
    """A byte that no frame begins with, or a wrong checksum, is an error, never a value."""
    frame = bytearray(pack(("step", "x" * 50)))
    frame[12 : 12 + len(garbage)] = garbage
    if bytes(frame) == pack(("step", "x" * 50)):
        return
    with pytest.raises(GarbledMessageError):
        FrameReader().feed(bytes(frame))


def test_a_print_into_the_pipe_is_found_out():
    """Plain text is neither token nor frame."""
    with pytest.raises(GarbledMessageError):
        FrameReader().feed(b"hello")


def budget(**values):
    numbers = {"per_env": 3, "in_all": 5, "window_seconds": 10, "backoff_seconds": 1.0, "backoff_limit_seconds": 3.0}
    return EnvRestarts(**{**numbers, **values})


def test_an_env_gets_its_share_of_restarts_and_no_more():
    """The fourth restart within the window is refused; once the window has passed there are new ones."""
    spending = budget()
    assert [spending.spend(0, now, had_progress=True) for now in (0, 1, 2, 3)] == [True, True, True, False]
    assert spending.spend(0, 10.5, had_progress=True)


def test_all_envs_together_have_a_budget_too():
    """Five restarts of five envs spend what there is for all."""
    spending = budget()
    assert all(spending.spend(env, 0, had_progress=True) for env in range(5))
    assert not spending.spend(5, 1, had_progress=True)


def test_back_off_doubles_without_progress_and_ends_with_it():
    """The first restart is at once; each further one without progress waits twice as long, up to the limit."""
    spending = budget(per_env=100, in_all=100)
    waits = []
    for _ in range(5):
        spending.spend(0, 0, had_progress=False)
        waits.append(spending.wait_seconds(0))
    assert waits == [0.0, 1.0, 2.0, 3.0, 3.0]
    spending.spend(0, 0, had_progress=True)
    assert spending.wait_seconds(0) == 0.0


def test_three_failures_in_the_window_ask_for_fewer_envs_and_calm_brings_them_back():
    """Two are bad luck, three within the window are a pattern; one env comes back per calm stretch."""
    tracker = HealthTracker(reduce_after=3, reduce_window_seconds=10, calm_seconds=5)
    for moment in (0, 1):
        tracker.failed(Failure(moment, 0, "died", ""))
    assert not tracker.should_reduce(2)
    tracker.failed(Failure(2, 0, "died", ""))
    assert tracker.should_reduce(2)
    assert not tracker.should_reduce(12)
    assert not tracker.may_bring_back(6.9)
    assert tracker.may_bring_back(7)
    tracker.brought_back(7)
    assert not tracker.may_bring_back(11)


NESTED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (3, 2), np.uint8),
        "pair": spaces.Tuple((spaces.Discrete(5), spaces.MultiBinary(3))),
        "many": spaces.MultiDiscrete([3, 4]),
    }
)


@pytest.mark.parametrize("space", [NESTED, *NESTED.values(), spaces.Discrete(3, start=-1), spaces.Box(-1, 1, (1,))])
def test_samples_come_back_from_their_rows_as_they_were(space):
    """Every shareable space keeps its values, types and structure, and rows don't touch each other."""
    rows = shared_arrays.rows_in(space, memoryview(bytearray(shared_arrays.byte_count(space, 4))), 4)
    write, read = shared_arrays.row_writer(rows), shared_arrays.row_reader(rows)
    samples = [space.sample() for _ in range(4)]
    for index, sample in enumerate(samples):
        write(index, sample)
    for index, sample in enumerate(samples):
        assert space.contains(read(index))
        np.testing.assert_equal(read(index), sample)
    empty = create_empty_array(space, 4)
    np.testing.assert_equal(type(shared_arrays.copy_batch(rows)), type(empty))


def test_an_observation_of_another_size_is_refused_and_not_spread_over_the_row():
    """NumPy would fill a whole row with one number; that would hide a game's mistake."""
    rows = shared_arrays.rows_in(spaces.Box(0, 1, (4,)), memoryview(bytearray(64)), 1)
    with pytest.raises(ValueError, match="reshape"):
        shared_arrays.row_writer(rows)(0, 0.5)


def test_actions_that_do_not_fit_are_refused():
    """One action too few would otherwise be played by every env, and half an action rounded down."""
    rows = shared_arrays.rows_in(spaces.Discrete(4), memoryview(bytearray(64)), 3)
    with pytest.raises(ValueError, match="one action per env"):
        shared_arrays.write_batch(rows, [1])
    with pytest.raises(TypeError):
        shared_arrays.write_batch(rows, np.array([0.5, 1.0, 1.0]))


def test_spaces_without_a_fixed_size_are_not_shared():
    """One text among numbers, and the whole observation travels as a message."""
    assert shared_arrays.is_shareable(NESTED)
    assert not shared_arrays.is_shareable(spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Text(5)}))


@pytest.mark.parametrize("name", vector_settings.NAMES)
@pytest.mark.parametrize(("cores", "free"), [(1, 1 << 28), (2, 8 << 30), (64, 512 << 30)])
def test_a_preset_fits_the_machine(name, cores, free):
    """No preset asks for more memory than is free, unless the machine is below the smallest useful limit."""
    settings = vector_settings.preset(name, 16, vector_settings.Machine(cores, free))
    assert 1 <= settings.num_workers <= 16
    assert settings.memory_limit_bytes * settings.num_workers <= max(free, (512 << 20) * settings.num_workers)


def test_bolder_presets_start_more_workers():
    """Conservative, balanced, aggressive: in this order."""
    workers = [
        vector_settings.preset(name, 100, vector_settings.Machine(8, 64 << 30)).num_workers for name in vector_settings.NAMES
    ]
    assert workers == [4, 8, 16]


def test_a_wrong_setting_is_named():
    """The key, the value and what is allowed."""
    with pytest.raises(SettingsError, match=r"step_second.*known settings are"):
        VectorSettings().with_options(step_second=3)
    with pytest.raises(SettingsError, match="step_seconds is 0"):
        VectorSettings().with_options(step_seconds=0)


@pytest.mark.parametrize(
    "error",
    [RestartBudgetError(3, 5, "died: killed by SIGKILL", "trace"), EnvCallError("render", 1, "hung"), GameError("reset", 3, "x")],
)
def test_errors_survive_pickling(error):
    """They may have to cross a process border."""
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_names_are_there_and_cost_nothing_until_used():
    """`background_training.envs` has these names, and no other."""
    assert [getattr(envs, name).__name__ for name in envs.__all__] == envs.__all__
    with pytest.raises(AttributeError):
        envs.ResilientSyncVectorEnv  # noqa: B018


def test_an_exit_status_is_said_in_words():
    """Signals by name, codes by number."""
    assert worker_handle.describe_exit(-9) == "killed by SIGKILL"
    assert worker_handle.describe_exit(-63).startswith("killed by")
    assert worker_handle.describe_exit(3) == "exit code 3"


class FakeWindows:
    """The two calls of _winapi that the watcher needs."""

    INFINITE = -1

    def __init__(self):
        self.calls = []

    def OpenProcess(self, access, inherit, process):  # noqa: N802
        self.calls.append(("open", access, process))
        return "handle"

    def WaitForSingleObject(self, handle, how_long):  # noqa: N802
        self.calls.append(("wait", handle, how_long))


def test_on_windows_a_worker_ends_with_its_parents_process(monkeypatch):
    """The watcher waits for the parent's handle without a limit, then leaves."""
    left = []
    monkeypatch.setattr(worker_link, "exit_now", left.append)
    system = FakeWindows()
    thread = worker_link.start_watcher(lambda: None, lambda: None)
    wait_until(lambda: not thread.is_alive())
    worker_link.die_with_process(77, system)
    wait_until(lambda: left)
    assert left == [1]
    assert system.calls == [("open", 0x00100000, 77), ("wait", "handle", -1)]


def test_on_windows_the_memory_is_a_mapping_with_a_name():
    """Parent and worker open the same tag; closing lets go of it."""
    opened = []
    mapping = shared_arrays.NamedMapping("tag", lambda *numbers, tagname: opened.append((*numbers, tagname)) or bytearray(8))
    mapping.resize(8)
    mapping.map(8)
    mapping.close()
    assert opened == [(-1, 8, "tag")] * 2


def test_on_windows_a_link_is_a_pipe_connection():
    """Whole messages go through; a closed end is empty bytes; the parent's patience ends in BlockingIOError."""
    import multiprocessing

    one, other = multiprocessing.Pipe()
    parent, worker = worker_link.PipeLink(one, 0.01), worker_link.PipeLink(other)
    assert parent.receive_now() is None
    with pytest.raises(BlockingIOError):
        parent.receiver()()
    parent.send(b"abc")
    assert worker.receiver()() == b"abc"
    worker.send(b"def")
    assert parent.receive_now() == b"def"
    worker.close()
    assert parent.receive_now() == b""
    parent.close()


class Moody(gymnasium.Env):
    """Raises in chosen calls."""

    observation_space, action_space = spaces.Box(0, 100, (1,)), spaces.Discrete(2)

    def __init__(self, bad_resets=0, bad_step=-1):
        self.bad_resets, self.bad_step, self.steps = bad_resets, bad_step, 0

    def reset(self, *, seed=None, options=None):
        self.bad_resets -= 1
        if self.bad_resets >= 0:
            raise RuntimeError("bad reset")
        self.steps = 0
        return np.array([0.0], np.float32), {}

    def step(self, action):
        if self.steps == self.bad_step:
            raise ValueError("bad step")
        self.steps += 1
        return np.array([self.steps], np.float32), 1.0, False, False, {}


def test_a_step_that_raises_ends_the_episode_with_the_last_good_observation():
    """Nothing is invented: no reward, the observation before, and the info says why."""
    game = ResilientGame(Moody(bad_step=1))
    game.reset()
    good = game.step(0)[0]
    observation, reward, terminated, truncated, info = game.step(0)
    assert (observation == good).all()
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["worker_restarted"] and info["game_error"] == "ValueError: bad step"
    with pytest.raises(gymnasium.error.ResetNeeded):
        game.step(0)
    game.reset()
    assert game.errors == 1


def test_reset_is_tried_again_and_then_names_the_cause():
    """Two bad resets are forgiven, three are an error with the exception as its cause."""
    assert ResilientGame(Moody(bad_resets=2)).reset()[0][0] == 0
    with pytest.raises(GameError, match=r"reset failed 3 times.*bad reset") as caught:
        ResilientGame(Moody(bad_resets=3)).reset()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_broken_game_is_rebuilt_where_there_is_a_way():
    """`rebuild` makes the next reset start from a fresh game."""
    game = ResilientGame(Moody(bad_step=0), rebuild=Moody)
    game.reset()
    game.step(0)
    game.reset()
    assert game.step(0)[1] == 1.0
