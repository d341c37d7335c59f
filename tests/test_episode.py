"""What is an episode and what is not, and that a file gives back exactly what was put into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from background_training.episodes import episode, episode_file
from background_training.errors import EpisodeError
from background_training.paths import CHECKOUT
from background_training.settings import LimitSettings
from background_training.spaces import Discrete

NUMBERS = st.floats(-1e6, 1e6, width=32)


@st.composite
def any_episode(draw: st.DrawFn) -> dict[str, Any]:
    """The arrays of any valid episode, of any size and with any optional ones."""
    steps, width, actions = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    taken = draw(arrays_of.arrays(np.int64, steps, elements=st.integers(0, actions - 1)))
    made = {
        "states": draw(arrays_of.arrays(np.float32, (steps, width), elements=NUMBERS)),
        "actions": taken.astype(draw(st.sampled_from(["i1", "u1", "<i2", ">i4", "u8"]))),
        "rewards": draw(arrays_of.arrays(draw(st.sampled_from(["<f4", ">f4", "<f8"])), steps, elements=NUMBERS)),
    }
    mask = np.zeros((steps, actions), bool)
    mask[np.arange(steps), taken] = True
    optional = {
        "log_probs": arrays_of.arrays(np.float32, steps, elements=st.floats(-50, 0, width=32)),
        "policy_version": st.integers(0, 2**61).map(np.int64),
        "action_mask": arrays_of.arrays(bool, (steps, actions)).map(lambda legal: legal | mask),
        "terminated": st.booleans().map(np.array),
        "final_state": arrays_of.arrays(np.float32, width, elements=NUMBERS),
        "episode_id": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40).map(np.array),
        "meta": st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=3).map(
            lambda meta: {key: value for key, value in meta.items() if key != "action_count"}
        ),
    }
    return made | {name: draw(values) for name, values in optional.items() if draw(st.booleans())}


@hypothesis_settings(max_examples=80, deadline=None)
@given(any_episode())
def test_a_file_gives_back_what_was_put_into_it(arrays: dict[str, Any]):
    """Every array, bit for bit, whichever of the optional ones are there; the same episode is the same bytes."""
    data = episode_file.pack(arrays)

    found = episode_file.read(data)

    assert found.states.tobytes() == arrays["states"].tobytes()
    assert (found.actions == arrays["actions"]).all() and found.actions.dtype == np.int64
    assert (found.rewards == arrays["rewards"].astype(np.float32)).all()
    for name in ("log_probs", "action_mask", "final_state"):
        assert (getattr(found, name) is None) == (name not in arrays)
        assert name not in arrays or (getattr(found, name) == arrays[name]).all()
    assert found.policy_version == (int(arrays["policy_version"]) if "policy_version" in arrays else None)
    assert found.terminated == bool(arrays.get("terminated", True))
    assert found.episode_id == str(arrays.get("episode_id", ""))
    assert found.meta == arrays.get("meta", {})
    assert episode_file.pack(arrays) == data


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_but_never_anything_else(data: st.DataObject):
    """Bytes changed, cut out or put in anywhere: an episode or an EpisodeError, no other exception."""
    whole = bytearray(episode_file.pack(episodes.full_arrays(3)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        end = place + data.draw(st.sampled_from([0, 1, 1, 2, 4, 50]))
        whole[place:end] = data.draw(st.binary(max_size=6))
    try:
        episode_file.read(bytes(whole), LimitSettings(max_memory_bytes=5_000_000))
    except EpisodeError as error:
        assert str(error).isprintable()


def test_another_program_reads_what_we_write_and_we_read_what_it_writes(root: Path):
    """Plain numpy in another process, both ways, compressed or not."""
    episode_file.write(root / "ours.npz", episodes.full_arrays(1))
    code = (
        "import sys, numpy as np\n"
        "with np.load('ours.npz', allow_pickle=False) as file: arrays = dict(file)\n"
        "assert arrays['states'].shape == (12, 4) and str(arrays['episode_id']) == 'episode 1 ✓'\n"
        "np.savez('plain.npz', **arrays); np.savez_compressed('packed.npz', **arrays)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=PATIENCE_SECONDS)

    ours, *theirs = (episode_file.read((root / name).read_bytes()) for name in ("ours.npz", "plain.npz", "packed.npz"))

    for other in theirs:
        assert (other.states == ours.states).all() and other.episode_id == ours.episode_id and other.meta == ours.meta
    assert CHECKOUT not in root.parents


def test_three_arrays_are_enough():
    """What a foreign writer leaves out has a sensible default."""
    found = episode.from_arrays({"states": [[1, 2], [3, 4]], "actions": [0, 1], "rewards": [0, 1]})

    assert (found.steps, found.state_width, found.episode_return, found.action_space) == (2, 2, 1.0, None)
    assert found.terminated and found.log_probs is None and found.episode_id == "" and found.meta == {}


def test_pictures_are_scaled_and_flattened():
    """uint8 becomes 0..1; further axes of a state become one; the caller's array stays as it was."""
    pictures = np.full((3, 2, 2), 255, np.uint8)

    found = episode.from_arrays(episodes.arrays(1, 3, states=pictures, final_state=pictures[0]))

    assert found.states.shape == (3, 4) and (found.states == 1.0).all() and found.states.dtype == np.float32
    assert found.final_state is not None and (found.final_state == 1.0).all()
    assert (pictures == 255).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_of_an_array_in_memory_does_not_matter(order: Any):
    """Fortran's order is another way to write the same numbers."""
    states = np.arange(24.0).reshape(4, 3, 2)

    found = episode_file.read(episode_file.pack(episodes.arrays(1, 4, states=np.array(states, order=order))))

    assert (found.states == states.reshape(4, 6)).all()


def test_states_of_one_number_each():
    """[T] is [T, 1]."""
    assert episode.from_arrays(episodes.arrays(1, 5, states=np.arange(5.0))).states.shape == (5, 1)


def test_log_probs_of_certainty_may_be_a_little_above_nothing():
    """Rounding of float32; what is clearly above 0 is no logarithm of a probability."""
    found = episode.from_arrays(episodes.arrays(1, 3, log_probs=[1e-7, -1.0, 0.0]))

    assert found.log_probs is not None and found.log_probs.max() == 0.0


@pytest.mark.parametrize(
    ("arrays", "limit", "name"),
    [
        (episodes.arrays(1, 11), {"max_steps": 10}, "limits.max_steps"),
        (episodes.arrays(1, width=11), {"max_state_width": 10}, "limits.max_state_width"),
        (episodes.arrays(1, 2, actions=[0, 10]), {"max_actions": 10}, "limits.max_actions"),
        (episodes.arrays(1, 2, rewards=[0, -10.5]), {"max_magnitude": 10.0}, "limits.max_magnitude"),
    ],
)
def test_a_refusal_over_a_limit_names_the_setting(arrays: dict[str, Any], limit: dict[str, Any], name: str):
    """An author of a large game knows at once what to change; with room for it, the same episode is taken."""
    with pytest.raises(EpisodeError, match=name):
        episode.from_arrays(arrays, LimitSettings(**limit))

    assert episode.from_arrays(arrays).steps


def test_an_unknown_array_is_refused_by_our_writer_and_overlooked_by_our_reader(root: Path):
    """A slip of the pen is found here; a foreign writer may keep notes of its own."""
    with pytest.raises(EpisodeError, match="there is an array log_prob;"):
        episode_file.pack(episodes.arrays(1, log_prob=np.zeros(12)))

    path = episodes.write(root, "x.npz", 1, my_notes=np.zeros(3), objects_of_mine=np.array([{}], object))
    assert episode_file.read(path.read_bytes()).steps == 12


def test_the_declared_number_of_actions_comes_from_mask_or_meta():
    """The mask, being checked against every step, has the last word."""
    assert episode.from_arrays(episodes.arrays(1, meta=np.array('{"action_count": 7}'))).action_space == Discrete(7)
    assert episode.from_arrays(episodes.full_arrays(1)).action_space == Discrete(3)


def test_a_failed_write_leaves_no_file(root: Path):
    """What is no episode is never begun."""
    with pytest.raises(EpisodeError):
        episode_file.write(root / "x.npz", episodes.arrays(1, actions=np.zeros(3, int)))

    assert list(root.iterdir()) == []
