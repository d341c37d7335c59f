"""ResilientAsyncVectorEnv beside Gymnasium's AsyncVectorEnv and SyncVectorEnv: the same calls give the same answers."""

from __future__ import annotations

import contextlib
import copy
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from vector_games import SpaceGame

from background_training.envs import ResilientAsyncVectorEnv

BOX = spaces.Box(-1, 1, (2, 3), np.float32)
PAIRS = {
    "cartpole": None,
    "box": (BOX, spaces.Discrete(4)),
    "float16": (spaces.Box(-1, 1, (3,), np.float16), spaces.Box(-1, 1, (1,), np.float32)),
    "discrete": (spaces.Discrete(5, start=-2), BOX),
    "multi": (spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)),
    "nested": (
        spaces.Dict(a=BOX, b=spaces.Dict(c=spaces.Discrete(2), d=spaces.Tuple((BOX, spaces.MultiBinary(2))))),
        spaces.Dict(x=spaces.Discrete(3), y=spaces.Tuple((BOX, spaces.Discrete(2)))),
    ),
}
MODES = list(AutoresetMode)
THEIRS = {"async": AsyncVectorEnv, "sync": SyncVectorEnv}


class Framed(SpaceGame):
    """A SpaceGame with frames, an attribute and a method."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, *pair):
        super().__init__(*pair)
        self.render_mode, self.colour = "rgb_array", "none"

    def render(self):
        return np.full((2, 2, 3), self.steps, np.uint8)

    def scaled(self, factor, *, plus=0):
        return factor * self.steps + plus


def maker(name):
    pair = PAIRS[name]
    return partial(gymnasium.make, "CartPole-v1", max_episode_steps=7) if pair is None else partial(Framed, *pair)


@contextlib.contextmanager
def side_by_side(name="box", theirs="async", count=2, **options):
    """Ours and one of Gymnasium's over the same envs; `shared_memory` is an option of both async ones."""
    makers = [maker(name)] * count
    ours = ResilientAsyncVectorEnv(makers, start_method="fork", num_workers=1, **options)
    kept = {key: value for key, value in options.items() if theirs == "async" or key != "shared_memory"}
    other = THEIRS[theirs](makers, **kept)
    try:
        yield ours, other
    finally:
        ours.close(terminate=True)
        other.close()


def plain(value):
    """Arrays of objects as lists: NumPy can't compare the former."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    return tuple(plain(part) for part in value) if isinstance(value, (tuple, list)) else value


def kinds(value):
    """The containers, and the types and shapes of the arrays."""
    if isinstance(value, dict):
        return {key: kinds(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(kinds(part) for part in value)
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)


def assert_same(ours, theirs):
    np.testing.assert_equal(plain(ours), plain(theirs))
    assert kinds(ours) == kinds(theirs)


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PAIRS)
def test_the_same_is_played(name, mode, theirs):
    """Spaces, metadata, resets with seeds and options, steps, infos and partial resets, in every autoreset mode."""
    with side_by_side(name, theirs, autoreset_mode=mode) as (ours, other):
        for attribute in ("num_envs", "metadata", "render_mode", "spec", "closed"):
            assert getattr(ours, attribute) == getattr(other, attribute), attribute
        for space in ("observation_space", "single_observation_space", "action_space", "single_action_space"):
            assert getattr(ours, space) == getattr(other, space), space
        assert_same(ours.reset(seed=5), other.reset(seed=5))
        assert_same(ours.reset(seed=[3, None], options={"a": 1}), other.reset(seed=[3, None], options={"a": 1}))
        assert ours.np_random_seed == other.np_random_seed
        ours.action_space.seed(1)
        for _ in range(18):
            actions = ours.action_space.sample()
            now = ours.step(actions)
            assert_same(now, other.step(actions))
            ended = now[2] | now[3]
            if mode is AutoresetMode.DISABLED and ended.any():
                options = {"reset_mask": ended}
                assert_same(ours.reset(seed=9, options=dict(options)), other.reset(seed=9, options=dict(options)))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("name", ["box", "nested"])
def test_shared_memory_and_copy(name, copied, shared):
    """The same observations either way; what was returned as a copy stays as it was."""
    with side_by_side(name, shared_memory=shared, copy=copied) as (ours, other):
        kept = [(ours.reset(seed=1)[0], other.reset(seed=1)[0])]
        before = copy.deepcopy(kept[0][0])
        for _ in range(3):
            actions = other.action_space.sample()
            kept.append((ours.step(actions)[0], other.step(actions)[0]))
            assert_same(*kept[-1])
        if copied:
            assert_same(kept[0][0], before)
            for one, another in kept:
                assert_same(one, another)


@pytest.mark.parametrize("theirs", THEIRS)
def test_calls_attributes_and_frames(theirs):
    """call, get_attr, set_attr, render: values, order and types."""
    with side_by_side("box", theirs) as (ours, other):
        for envs in (ours, other):
            envs.reset(seed=1)
            envs.step([0, 1])
            envs.set_attr("colour", ["red", "blue"])
            envs.set_attr("length", 9)
        assert_same(ours.call("scaled", 3, plus=1), other.call("scaled", 3, plus=1))
        for name in ("colour", "length", "steps", "render_mode"):
            assert_same(ours.get_attr(name), other.get_attr(name))
        assert_same(ours.render(), other.render())
        assert [generator.random() for generator in ours.np_random] == [generator.random() for generator in other.np_random]


def refused(call):
    """The error of a call."""
    with pytest.raises(Exception) as caught:  # which one it is, is what is compared
        call()
    return caught.value


BAD = {
    "one action": lambda envs: envs.step(0),
    "too few actions": lambda envs: envs.step(np.zeros(1, np.int64)),
    "too many actions": lambda envs: envs.step(np.zeros(3, np.int64)),
    "too few seeds": lambda envs: envs.reset(seed=[1]),
    "too few values": lambda envs: envs.set_attr("colour", ["red"]),
    "a mask that is a list": lambda envs: envs.reset(options={"reset_mask": [True, False]}),
    "a mask of numbers": lambda envs: envs.reset(options={"reset_mask": np.ones(2)}),
    "a mask of another length": lambda envs: envs.reset(options={"reset_mask": np.ones(3, bool)}),
    "an empty mask": lambda envs: envs.reset(options={"reset_mask": np.zeros(2, bool)}),
    "step_wait first": lambda envs: envs.step_wait(),
    "reset_wait first": lambda envs: envs.reset_wait(),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_refused_alike(name):
    """The same type of error, and for masks, seeds and order the same words; and the env can be used on."""
    with side_by_side() as (ours, _), side_by_side() as (_, other):
        for envs in (ours, other):
            envs.reset(seed=1)
        one, another = refused(lambda: BAD[name](ours)), refused(lambda: BAD[name](other))
        assert isinstance(one, type(another))
        if "action" not in name:
            assert str(one) == str(another)
        assert ours.step([0, 0])[1].tolist() == [0.5, 0.5]


PENDING = {
    "step_async": lambda envs: envs.step_async([0, 0]),
    "reset_async": lambda envs: envs.reset_async(),
    "set_attr": lambda envs: envs.set_attr("colour", "red"),
}


@pytest.mark.parametrize("pending", ["step", "reset"])
def test_calls_out_of_order_and_close(pending):
    """While a call is pending the same ones are refused, `close` warns, and afterwards all are refused."""
    with side_by_side() as (ours, other):
        for envs in (ours, other):
            envs.reset(seed=1)
            envs.step_async([0, 0]) if pending == "step" else envs.reset_async()
        for call in PENDING.values():
            one, another = (refused(lambda call=call, envs=envs: call(envs)) for envs in (ours, other))
            assert type(one) is type(another) is AlreadyPendingCallError and one.name == another.name == pending
        wrong = "reset_wait" if pending == "step" else "step_wait"
        assert type(refused(getattr(ours, wrong))) is type(refused(getattr(other, wrong))) is NoAsyncCallError
        for envs in (ours, other):
            with pytest.warns(UserWarning, match=f"Calling `close` while waiting for a pending call to `{pending}` to complete"):
                envs.close(terminate=True)
            assert envs.closed
            envs.close()
            for call in (envs.reset, lambda envs=envs: envs.step([0, 0]), lambda envs=envs: envs.call("render")):
                assert isinstance(refused(call), ClosedEnvironmentError)


def test_actions_reach_the_envs_in_the_type_they_have():
    """A wider type than the space's is not cast; the same type goes through shared memory."""

    class Remembers(SpaceGame):
        def step(self, action):
            return np.zeros(3, np.float16), 0.0, False, False, {"type": str(np.asarray(action).dtype)}

    makers = [partial(Remembers, *PAIRS["float16"])] * 2
    ours, other = ResilientAsyncVectorEnv(makers, start_method="fork"), SyncVectorEnv(makers)
    ours.reset(), other.reset()
    for actions in (np.array([[0.1], [0.2]]), np.array([[0.1], [0.2]], np.float32)):
        assert_same(ours.step(actions), other.step(actions))
    ours.close(), other.close()


def test_spaces_that_cannot_be_shared_or_batched_are_refused_alike():
    """At construction, with the same types of error."""
    text = partial(SpaceGame, spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))), spaces.Discrete(2))
    small, wide = (partial(SpaceGame, spaces.Box(0, high, (2,)), spaces.Discrete(2)) for high in (1, 9))
    cases = [([text], {"shared_memory": True}, (ValueError, TypeError)), ([small], {"observation_mode": "other"}, ValueError)]
    for makers, options, error in cases:
        for kind in (ResilientAsyncVectorEnv, AsyncVectorEnv):
            with pytest.raises(error):
                kind(makers, **options)
    for kind in (ResilientAsyncVectorEnv, SyncVectorEnv):
        with pytest.raises(RuntimeError, match="observation_mode='different'"):
            kind([small, wide])
