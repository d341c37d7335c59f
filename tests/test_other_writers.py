"""Episode files of other programs and languages: what is harmless and unambiguous is read, the rest is refused by name."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from typing import Any

import episodes
import numpy as np
import pytest
from hostile_files import zip64_end
from hostile_zip import STORED, Member, archive, header, npy

from background_training import RLAgent
from background_training.algo import train_step
from background_training.episodes import episode, episode_file
from background_training.episodes.episode import Episode
from background_training.episodes.outbox import Outbox
from background_training.errors import EpisodeError
from background_training.paths import Paths
from background_training.settings import LearningSettings, LimitSettings
from background_training.spaces import Discrete

STEPS = 12
CORE = episodes.arrays(1, STEPS)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


MEMBERS = [Member(f"{name}.npy".encode(), saved(value)) for name, value in CORE.items()]
ONE = saved(np.ones(STEPS, "f4"))


def assert_is_the_episode(found: Episode) -> None:
    assert (found.states == CORE["states"]).all() and (found.actions == CORE["actions"]).all()
    assert (found.rewards == CORE["rewards"]).all()


@pytest.mark.parametrize(
    "extras",
    [
        {"frame time.npy": ONE},
        {"infos/lives.npy": ONE},
        {"info:lives.npy": ONE},
        {"zustände.npy": ONE},
        {"☃/états.npy": ONE},
        {"x" * 5000 + ".npy": ONE},
        {".npy": ONE},
        {"../../states.npy": ONE},
        {"/states.npy": ONE},
        {"C:\\states.npy": ONE},
        {"__MACOSX/._states.npy": bytes(20), ".DS_Store": b"x"},
        {"episode/": b"", "episode/inner/": b""},
        {"readme.txt": b"made by a bot", "meta.json": b"{}", "LICENSE": b""},
        {"broken.npy": b"no array", "pickled.npy": saved(np.array([{}], object))},
        {"states": b"no suffix", "STATES.npy": ONE, "states.npy.bak": b""},
        {f"info_{number}.npy": ONE for number in range(120)},
        {f"info {number}": b"" for number in range(9_000)},
    ],
    ids=lambda extras: ascii(next(iter(extras)))[:30],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_extra_members_of_any_name_and_content_are_ignored(extras: dict[str, bytes], method: int):
    """Wherever they lie: before, between and after the arrays of the format."""
    file = io.BytesIO()
    names = list(extras)
    with zipfile.ZipFile(file, "w", method) as made:
        for name in names[::2]:
            made.writestr(name, extras[name])
        for member in MEMBERS:
            made.writestr(member.name.decode(), member.content)
        for name in names[1::2]:
            made.writestr(name, extras[name])

    assert_is_the_episode(episode_file.read(file.getvalue()))


def test_an_extra_member_may_be_packed_or_encrypted_in_any_way():
    """It is not unpacked, so nothing of it is needed but its place."""
    extras = [
        Member(b"a.npy", b"xyz", method=12),
        Member(b"b.npy", b"xyz", flags=1),
        Member(b"c.npy", b"xyz", crc=1, declared_bytes=10**9),
        Member(b"d.npy", b"xyz", local_name=b"another.npy"),
        Member(b"\xff\xfe", b""),
        Member(b"e.npy", b""),
        Member(b"e.npy", b""),
    ]

    assert_is_the_episode(episode_file.read(archive([*extras, *MEMBERS])))


def test_extra_members_may_still_not_overlap_or_lie_outside():
    """Otherwise one archive could be read in two ways."""
    for wrong in (
        Member(b"notes", b"abc", packed_bytes=5000),
        Member(b"notes", b"abc", offset=10**8),
        Member(b"notes", b"", offset=0),
    ):
        with pytest.raises(EpisodeError):
            episode_file.read(archive([*MEMBERS, wrong]))


def python_2_npy(array: np.ndarray, text: str) -> bytes:
    sizes = "(" + ", ".join(f"{size}L" for size in array.shape) + ("," if array.ndim == 1 else "") + ")"
    return npy(text.format(descr=array.dtype.str, sizes=sizes), array.tobytes())


@pytest.mark.parametrize(
    "text",
    [
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': {sizes}, }}     \n",
        "{{'shape': {sizes}, 'descr': '{descr}', 'fortran_order': False}}",
        '{{"descr": "{descr}", "fortran_order": False, "shape": {sizes}}}\n',
        "{{'descr':'{descr}','fortran_order':False,'shape':{sizes},}}\n",
    ],
)
def test_sizes_of_python_2_are_read(text: str, recwarn: pytest.WarningsRecorder):
    """NumPy reads `(60L, 4L)` as well, with a warning that nobody can act on; there is none here."""
    made = [Member(f"{name}.npy".encode(), python_2_npy(value, text)) for name, value in CORE.items()]

    assert_is_the_episode(episode_file.read(archive(made)))
    assert not recwarn.list


@pytest.mark.parametrize("shape", ["(12LL, 4)", "(12l, 4)", "(12U, 4)", "(L12, 4)", "(12.0L, 4)", "(0x12L, 4)"])
def test_other_letters_behind_a_size_are_refused(shape: str):
    """Only Python 2's long integers had one."""
    with pytest.raises(EpisodeError, match=r"no sound \.npy header"):
        episode_file.read(archive([Member(b"states.npy", npy(header("'<f4'", shape), bytes(192))), *MEMBERS[1:]]))


@pytest.mark.parametrize(
    "descr", [b"'\xfff4'", b"'<f4\x80'", "'<f4\u00e9'".encode(), b"'<\xff\xfe\xfd'", "'<f\u0664'".encode(), b"'<f4\0'"]
)
@pytest.mark.parametrize(
    "spelling",
    [b"{'descr': %s, 'fortran_order': False, 'shape': (12, 4), }\n", b'{"shape": (12, 4), "descr": %s, "fortran_order": False}'],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_with_a_byte_beyond_ascii_is_refused_by_name(descr: bytes, spelling: bytes, version: int):
    """One such byte in a type ended every drain with UnicodeDecodeError."""
    content = npy(spelling % descr, CORE["states"].tobytes(), version)

    with pytest.raises(EpisodeError) as caught:
        episode_file.read(archive([Member(b"states.npy", content), *MEMBERS[1:]]))

    assert caught.value.reason in ("bad-header", "wrong-dtype") and str(caught.value).isascii()


def test_zip64_records_in_a_small_file_are_read():
    """With the plain end record filled in, and with 'look elsewhere' in every field of it."""
    data = zip64_end(archive(MEMBERS))
    elsewhere = data[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    sizes = [struct.pack("<HHQQQ", 1, 24, len(member.content), len(member.content), 0) for member in MEMBERS]
    fields = [Member(member.name, member.content, STORED, extra=extra) for member, extra in zip(MEMBERS, sizes, strict=True)]

    for made in (data, elsewhere, data + b"\0" * 100, zip64_end(archive(fields))):
        assert_is_the_episode(episode_file.read(made))
        if made is not elsewhere:
            assert np.load(io.BytesIO(made)).files == list(CORE)


@pytest.mark.parametrize(
    "wrong", [{"count": 4}, {"size": 7}, {"start": 1}, {"position": 0}, {"position": 2**63}, {"length": 45}, {"disks": 2}]
)
def test_zip64_records_that_contradict_the_file_are_refused(wrong: dict[str, int]):
    """The two ends must say the same."""
    with pytest.raises(EpisodeError):
        episode_file.read(zip64_end(archive(MEMBERS), **wrong))


@pytest.mark.parametrize("after", [b"\0", b"\0" * 512, b"\x1a", b"\r\n", b"trailing words of a mail program" * 100])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_some_bytes_after_the_end_of_the_archive_are_harmless(after: bytes, comment: bytes):
    """Transfers that fill up blocks leave them."""
    assert_is_the_episode(episode_file.read(archive(MEMBERS, comment=comment) + after))


def read(**more: Any) -> Episode:
    return episode_file.read(episodes.packed(1, **more))


@pytest.mark.parametrize("kind", ["f4", "f8", ">f8", "f2", "i1", ">u2"])
def test_a_column_is_a_vector_and_whole_floats_are_whole(kind: str):
    """Languages of matrices have no vectors, and some no integers."""
    column = {name: CORE[name][:, None] for name in ("rewards",)}

    assert_is_the_episode(read(actions=CORE["actions"].astype(kind), **column))
    assert_is_the_episode(read(actions=CORE["actions"].astype(kind)[:, None], **column))
    found = read(log_probs=np.full((STEPS, 1), -1.0), policy_version=np.array([[7]], kind), terminated=np.array([0], kind))
    assert found.log_probs is not None and found.log_probs.shape == (STEPS,)
    assert found.policy_version == 7 and found.terminated is False


def test_other_kinds_of_actions_may_be_columns_and_floats_too():
    """A real number a step is [T] or [T, 1]; whole floats are the numbers of a multi-discrete action."""
    box = np.array('{"action_space": {"kind": "box", "low": [-1], "high": [1]}}')
    pairs = np.array('{"action_space": {"kind": "multi_discrete", "sizes": [3.0, 2.0]}}')
    flags = np.array('{"action_space": {"kind": "multi_binary", "size": 2.0}}')

    assert read(actions=np.full(STEPS, 0.25), meta=box).actions.shape == (STEPS, 1)
    assert read(actions=np.ones((STEPS, 2)), meta=pairs).actions.dtype == np.int64
    assert read(actions=np.ones((STEPS, 2)), meta=flags).actions.sum() == 2 * STEPS
    assert read(meta=np.array('{"action_count": 5.0}')).action_space == Discrete(5)


@pytest.mark.parametrize("text", ['{"map": "Süd ☃"}', '{"map": "plain"}'])
def test_bytes_that_are_utf_8_are_text(text: str):
    """As a type of bytes, as a vector of single bytes, with an end as in C, or with a byte order mark."""
    raw = text.encode()
    forms = [
        np.array(raw),
        np.array([raw]),
        np.frombuffer(raw, np.uint8),
        np.frombuffer(raw, np.int8),
        np.frombuffer(raw, "S1"),
        np.frombuffer(raw + b"\0\0", np.uint8),
        np.frombuffer(b"\xef\xbb\xbf" + raw, np.uint8),
        np.array([text]),
    ]
    for form in forms:
        found = read(meta=form, episode_id=form)
        assert found.meta["map"] == text[9:-2] and found.episode_id == text


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"actions": np.full(STEPS, 0.5)}, "wrong-dtype"),
        ({"actions": np.full(STEPS, np.nan)}, "wrong-dtype"),
        ({"actions": np.full(STEPS, np.inf)}, "wrong-dtype"),
        ({"actions": np.full(STEPS, 1e300)}, "wrong-dtype"),
        ({"actions": np.full(STEPS, -1.0)}, "action-out-of-range"),
        ({"actions": np.zeros((STEPS, 2))}, "wrong-shape"),
        ({"rewards": np.zeros((1, STEPS))}, "wrong-shape"),
        ({"rewards": np.zeros((STEPS, 1, 1))}, "wrong-shape"),
        ({"policy_version": np.array([1, 2])}, "wrong-dtype"),
        ({"policy_version": np.array(1.5)}, "wrong-dtype"),
        ({"policy_version": np.array(np.nan)}, "wrong-dtype"),
        ({"policy_version": np.zeros(0)}, "wrong-dtype"),
        ({"terminated": np.array(0.5)}, "wrong-dtype"),
        ({"terminated": np.array(np.nan)}, "wrong-dtype"),
        ({"terminated": np.array([True, False])}, "wrong-dtype"),
        ({"terminated": np.array("1")}, "wrong-dtype"),
        ({"meta": np.array(b"\xff{}")}, "wrong-dtype"),
        ({"meta": np.array([b"{}", b"{}"])}, "wrong-dtype"),
        ({"meta": np.array([123, 125])}, "wrong-dtype"),
        ({"meta": np.zeros((1, 2), np.uint8)}, "wrong-dtype"),
        ({"meta": np.frombuffer(b" " * 400_001, np.uint8)}, "too-large"),
        ({"episode_id": np.array(65, np.uint8)}, "wrong-dtype"),
        ({"episode_id": np.array("x" * 201).astype("S")}, "too-large"),
        ({"action_mask": np.full((STEPS, 3), 0.5)}, "bad-mask"),
        ({"meta": np.array('{"action_count": 2.5}')}, "bad-meta"),
    ],
    ids=str,
)
def test_what_is_ambiguous_stays_refused(wrong: dict[str, Any], reason: str):
    """A guess would train on something that nobody meant."""
    with pytest.raises(EpisodeError) as caught:
        read(**wrong)

    assert caught.value.reason == reason


def test_pixels_stay_bytes_in_the_file_and_teach_the_same(tmp_path):
    """A quarter of the size; the weights trained on them are, bit for bit, those of the same states as float32."""
    pixels = np.random.default_rng(3).integers(0, 256, (30, 50), np.uint8)
    found, sizes = [], []
    for name, states in (("bytes", pixels), ("floats", pixels.astype(np.float32) / np.float32(255))):
        agent = RLAgent(root=tmp_path / name, action_names=["a", "b", "c"], seed=5)
        for state, reward in zip(states, pixels[:, 0], strict=True):
            agent.get_action(state)
            agent.update_reward(float(reward) / 255)
        agent.end_episode(1.0)
        (path,) = agent.buffer_path.glob("*.npz")
        with np.load(path) as file:
            assert file["states"].dtype == states.dtype
            sizes.append(file["states"].nbytes)
        found.append(episode_file.read(path.read_bytes()))
    settings = LearningSettings(hidden_size=8)
    trained = [
        train_step.to_arrays(train_step.learn(train_step.new_state(50, Discrete(3), settings), [one], settings, 1)[0])
        for one in found
    ]

    assert 4 * sizes[0] == sizes[1]
    assert found[0].states.tobytes() == found[1].states.tobytes() and (found[0].actions == found[1].actions).all()
    assert {name: value.tobytes() for name, value in trained[0].items()} == {
        name: value.tobytes() for name, value in trained[1].items()
    }


def test_states_of_both_types_in_one_episode_are_scaled_alike(tmp_path):
    """Each state means what it meant to the policy that saw it."""
    agent = RLAgent(root=tmp_path, action_names=["a", "b"], seed=5)
    for state in (np.array([0, 255], np.uint8), np.array([0.25, 3.0])):
        agent.get_action(state)
    agent.end_episode(1.0)

    (path,) = agent.buffer_path.glob("*.npz")
    assert episode_file.read(path.read_bytes()).states.tolist() == [[0.0, 1.0], [0.25, 3.0]]


LIMITS = LimitSettings(max_steps=100, max_memory_bytes=2_100_000)


@pytest.mark.parametrize("steps", [1, 99, 100, 101, 200, 250])
@pytest.mark.parametrize("width", [1, 40])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_an_episode_beyond_the_limits_is_split_into_parts_that_are_not(steps: int, width: int, kind: type):
    """Every step is in exactly one part, in order; each part but the last goes on where the next one begins."""
    arrays = episodes.full_arrays(1, steps, width)
    arrays |= {"states": (arrays["states"] * 50).astype(kind), "terminated": np.array(True)}

    parts = [episode_file.read(episode_file.pack(part), LIMITS) for part in episode_file.in_parts(arrays, LIMITS)]

    whole = episode.from_arrays(arrays)
    for name in ("states", "actions", "rewards", "log_probs", "action_mask"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all()
    for part, following in itertools.pairwise(parts):
        assert not part.terminated and part.final_state is not None and (part.final_state == following.states[0]).all()
    assert parts[-1].terminated and parts[-1].final_state is not None and (parts[-1].final_state == whole.final_state).all()
    assert len({part.episode_id for part in parts}) == len(parts) and parts[0].meta["map"] == "Süd"
    assert len(parts) > 1 or steps <= 100


def test_the_outbox_delivers_an_episode_beyond_the_limits_in_parts(paths: Paths):
    """A million and one steps: two files, which the learner's reader takes with its own defaults."""
    steps = LimitSettings().max_steps + 1
    outbox = Outbox(paths, durable=False)

    assert outbox.deposit(
        {"states": np.zeros((steps, 1), np.uint8), "actions": np.zeros(steps, np.int8), "rewards": np.zeros(steps, np.float32)},
        "x",
    )

    lengths = sorted(episode_file.read(path.read_bytes()).steps for path in paths.buffer.glob("*.npz"))
    assert lengths == [1, steps - 1]


def test_a_state_that_no_file_may_hold_is_refused_when_it_is_played(tmp_path):
    """By the name of the setting, and not hours later by the learner."""
    agent = RLAgent(root=tmp_path, action_names=["a", "b"])

    for kind in (np.uint8, np.float32, bool):
        with pytest.raises(EpisodeError, match=r"limits\.max_state_width"):
            agent.get_action(np.zeros(LimitSettings().max_state_width + 1, kind))
