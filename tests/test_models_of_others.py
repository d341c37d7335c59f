"""Models that anybody may have written: refused as a whole when they are read, and the game plays on with what it has."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from hostile_zip import DEFLATED, Member, archive, array, npy, zeros_crc, zeros_deflated

from background_training import RLAgent
from background_training.algo import manifest as manifests
from background_training.algo import train_step
from background_training.errors import ModelError
from background_training.learner import checkpoint
from background_training.learner import drain as drains
from background_training.paths import CHECKOUT, Paths
from background_training.settings import LearningSettings
from background_training.spaces import Box, Discrete
from background_training.storage import model_store, npz

pytestmark = pytest.mark.slow  # real processes

WIDTH, ACTIONS, HIDDEN = 4, 3, 8
SETTINGS = LearningSettings(hidden_size=HIDDEN)
NAMES = ["a", "b", "c"]


def sound(version: int = 3, **more: Any) -> dict[str, Any]:
    """The members of a model file that is sound but for `more`; None leaves one out."""
    state = train_step.new_state(WIDTH, Discrete(ACTIONS), SETTINGS)
    members = {**train_step.to_arrays(state), "version": np.int64(version)}
    members["manifest"] = np.array(json.dumps({**manifests.facts(state, SETTINGS), "action_names": NAMES}))
    return {name: value for name, value in (members | more).items() if value is not None}


def packed(**more: Any) -> bytes:
    return npz.write(sound(**more))


def raw_version(value: Any) -> bytes:
    return npz.write({**sound(), "version": value})


def says(**more: Any) -> bytes:
    """A model whose manifest says something else."""
    manifest = json.loads(str(sound()["manifest"]))
    return packed(manifest=np.array(json.dumps(manifest | more)))


def bomb(name: str, shape: tuple[int, ...], **more: Any) -> bytes:
    """A model of which one array is zeros that pack a thousand to one."""
    count = int(np.prod(shape)) * 4
    head = array("'<f4'", str(shape))
    large = Member(f"{name}.npy".encode(), b"", DEFLATED, declared_bytes=len(head) + count, crc=zeros_crc(head, count))
    large = Member(**(large.__dict__ | {"packed": zeros_deflated(count, head)}))
    others = []
    for other, value in sound(**more).items():
        if other != name:
            file = io.BytesIO()
            np.save(file, value)
            others.append(Member(f"{other}.npy".encode(), file.getvalue()))
    return archive([*others, large])


def commit(**more: Any) -> dict[str, Any]:
    return {"kind": "base", "seq": 3, "chain": "x", "previous_chain": "", "batch": []} | more


KEYS = ("W1", "b1", "W2", "b2", "W3", "b3")
SHAPES = {name: sound()[name].shape for name in KEYS}
POLICY = {
    "a name of true": says(action_names=True),
    "names of numbers": says(action_names=[1, 2, 3]),
    "a name of a text": says(action_names="abc"),
    "names of an object": says(action_names={"a": 1}),
    "a version of 2^63 - 1": packed(version=2**63 - 1),
    "no version": raw_version(np.zeros(0, int)),
    "a version beyond 63 bits": raw_version(np.uint64(2**64 - 1)),
    "a version of ten digits": packed(version=10**9),
    "a negative version": packed(version=-1),
    "two versions": raw_version(np.array([1, 2])),
    "a version of a float": raw_version(np.array(3.0)),
    "weights of 3e38": packed(W1=np.full(SHAPES["W1"], 3e38, "f4"), W3=np.full(SHAPES["W3"], 3e38, "f4")),
    "last weights of -1e25": packed(W3=np.full(SHAPES["W3"], -1e25, "f4")),
    "a bias of 1e30": packed(b2=np.full(HIDDEN, 1e30, "f4")),
    "float64 beyond float32": packed(W2=np.full(SHAPES["W2"], 1e300)),
    "NaN": packed(W2=np.full(SHAPES["W2"], np.nan, "f4")),
    "infinity in a bias": packed(b3=np.full(ACTIONS, np.inf, "f4")),
    "whole numbers": packed(W2=np.ones(SHAPES["W2"], int)),
    "texts": packed(b1=np.array(["a"] * HIDDEN)),
    "no hidden units": packed(W1=np.zeros((WIDTH, 0)), b1=np.zeros(0), W2=np.zeros((0, 0)), b2=np.zeros(0), W3=np.zeros((0, 3))),
    "no actions": packed(W3=np.zeros((HIDDEN, 0), "f4"), b3=np.zeros(0, "f4")),
    "more hidden units than there can be": packed(
        W1=np.zeros((4, 5000), "f4"),
        b1=np.zeros(5000, "f4"),
        W2=np.zeros((5000, 1), "f4"),
        b2=np.zeros(1, "f4"),
        W3=np.zeros((1, 3), "f4"),
    ),
    "counts of texts": says(episodes_trained="many"),
    "counts below nothing": says(steps_trained=-1),
    "counts beyond all": says(batches_trained=10**300),
    "counts of true": says(samples_trained=True),
    "a report of a text": says(last_batch="good"),
    "a report with a text for a return": says(last_batch={"mean_return": "x"}),
    "settings of a list": says(hyper_parameters=[1]),
    "a commit of a number": says(commit=5),
    "a fingerprint of a number": says(numeric_fingerprint=1),
    "a format of true": says(format=True),
    "an action space of words": says(action_space="box"),
    "an action space of another size": says(action_space={"kind": "multi_binary", "size": 2}),
    "a manifest of empty lists": packed(manifest=np.array('{"format": 1, "x": [' + "[]," * 300_000 + "[]]}")),
    "a manifest nested deep": packed(manifest=np.array('{"format": 1, "x": ' + "[" * 5000 + "]" * 5000 + "}")),
    "half a manifest": packed(manifest=np.array('{"format": 1,')),
    "a header with a byte beyond ASCII": archive(
        [Member(b"W1.npy", npy(b"{'descr': '\xfff4', 'fortran_order': False, 'shape': (4, 8), }\n", bytes(128)))]
    ),
    "a wide first layer": bomb("W1", (10_000_000, HIDDEN)),
}
STATE_ONLY = {
    "a first layer of another width": bomb("W1", (5, HIDDEN)),
    "an extra array of 400 MB": bomb("zz", (100_000_000,)),
    "a commit of no kind": says(commit=commit(kind="?")),
    "a commit without a chain": says(commit=commit(chain=None)),
    "a commit of another version": says(commit=commit(seq=7)),
    "a commit of a batch of numbers": says(commit=commit(batch=[1])),
    "a commit after a text": says(commit=commit(after="x")),
    "a batch of nothing": says(commit=commit(kind="batch"), last_batch={}),
    "negative squares": packed(observations_normaliser=np.full((5, WIDTH), -1.0)),
    "a normaliser beyond all": packed(returns_normaliser=np.full((5, 1), 1e300)),
    "negative second moments": packed(actor_second_moment=-np.ones(sound()["actor_weights"].shape, "f4")),
    "a second moment of another shape": packed(critic_second_moment=np.ones(3, "f4")),
    "steps of 2^63 - 1": packed(actor_optimizer_steps=np.int64(2**63 - 1)),
    "counters beyond all": packed(training_counters=np.full(4, 2**63 - 1)),
    "no counters": packed(training_counters=None),
}


def assert_plays(agent: RLAgent) -> None:
    for _ in range(3):
        agent.get_action(np.full(WIDTH, 1e6))
        agent.update_reward(1.0)
    agent.end_episode(1.0)


@pytest.mark.parametrize("data", POLICY.values(), ids=POLICY)
def test_the_game_plays_on_with_what_it_has(paths: Paths, data: bytes, caplog: pytest.LogCaptureFixture):
    """The version that it had stays, the refusal names the file, and nothing is raised."""
    paths.model.write_bytes(packed())
    agent = RLAgent(root=paths.root, seed=1)
    assert_plays(agent)
    before = agent.get_action(np.ones(WIDTH), training=False)
    (paths.models / "next").write_bytes(data)
    os.replace(paths.models / "next", paths.model)

    assert_plays(agent)

    assert agent.model_version == 3 and agent.get_action(np.ones(WIDTH), training=False) == before
    assert paths.model.name in caplog.text
    assert_plays(RLAgent(root=paths.root, action_names=NAMES))


@pytest.mark.parametrize("data", [*POLICY.values(), *STATE_ONLY.values()], ids=[*POLICY, *STATE_ONLY])
def test_training_never_goes_on_from_it(data: bytes):
    """One error of ours, which names the file in one line."""
    with pytest.raises(ModelError) as caught:
        checkpoint.load(data, "strange.npz")

    assert str(caught.value).startswith("strange.npz: ") and str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_model_without_faults_is_taken_in_every_form_that_means_the_same():
    """None of the checks above refuses a sound one: other float types, names left out or of another number."""
    assert checkpoint.load(packed(), "m").version == 3
    assert checkpoint.load(packed(version=999_999_999), "m").version == 999_999_999
    for kind in ("f2", "f8", ">f4"):
        model = model_store.unpack(packed(**{name: sound()[name].astype(kind) for name in KEYS}), "m", KEYS)
        assert model.arrays["W1"].dtype == kind
    assert model_store.unpack(says(action_names=["one"]), "m").action_names == ("action_0", "action_1", "action_2")
    assert model_store.unpack(says(action_names=None), "m").action_names[0] == "action_0"
    assert checkpoint.load(says(commit=commit()), "m").chain == "x"


@pytest.mark.parametrize("size", [1.0, 1e19, 1e30])
def test_weights_up_to_the_bound_play_with_any_state(paths: Paths, size: float):
    """The first layer holds the scaling of tiny states, so large weights are honest there, as long as nothing overflows."""
    weights = np.full(SHAPES["W1"], size, "f4")
    paths.model.write_bytes(packed(W1=weights, b1=weights[0], W3=np.full(SHAPES["W3"], min(size, 9e19), "f4")))
    agent = RLAgent(root=paths.root, seed=1)

    assert_plays(agent)

    assert agent.model_version == 3 and len(list(paths.buffer.glob("*.npz"))) == 1


@pytest.mark.parametrize("data", [POLICY["a name of true"], POLICY["a version of 2^63 - 1"], STATE_ONLY["a commit of no kind"]])
def test_the_learner_keeps_it_as_broken_and_goes_on(paths: Paths, data: bytes):
    """From the newest sound version of the history, or anew."""
    paths.model.write_bytes(data)
    episodes.write(paths.buffer, "game.npz", 1)

    drains.drain(learner_runs.settings(paths.root), lambda event, **facts: None)

    assert paths.model.with_name(paths.model.name + ".broken").read_bytes() == data
    assert model_store.read(paths.model).version == 1 and len(learner_runs.trained(paths)) == 1


MEASURED = """
import resource, sys
import numpy as np
from background_training.storage import model_store
from background_training.errors import ModelError
from background_training.learner import checkpoint as generation
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda: model_store.unpack(data, "m", model_store.POLICY_KEYS), lambda: generation.load(data, "m")):
    try:
        read()
    except ModelError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured with resource, which Windows lacks")
@pytest.mark.parametrize(
    "made",
    [
        lambda: bomb("W1", (50_000_000, HIDDEN)),
        lambda: bomb("zz", (400_000_000,)),
        lambda: bomb("actor_weights", (100_000_000,)),
        lambda: bomb("manifest", (100_000_000,)),
        lambda: says(action_names=["x" * 10] * 500_000),
    ],
    ids=["a first layer", "an array nobody reads", "weights of another size", "a manifest of numbers", "half a million names"],
)
def test_a_bomb_takes_no_memory(tmp_path: Path, made: Callable[[], bytes]):
    """Less than 1 % of what it declares; a text of names at most what the text takes."""
    data = made()
    (tmp_path / "m.npz").write_bytes(data)

    answer = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "m.npz")], capture_output=True, text=True, cwd=CHECKOUT, check=True
    )

    assert int(answer.stdout) < 10_000_000 + 2 * len(data)


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.write(packed()[:-1])
        file.truncate(size)


def _with_a_large_array(path: Path) -> None:
    np.savez(path, **sound(), junk=np.zeros(17_000_000, np.float32))


def _with_a_large_gap(path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(packed())) as small, zipfile.ZipFile(path, "w") as large:
        large.writestr("notes.txt", bytes(70_000_000))
        for name in small.namelist():
            large.writestr(name, small.read(name))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: _sparse(path, 1_900_000_000), "the end of the zip archive is missing"),
        (_with_a_large_array, "its arrays take 68"),
        (_with_a_large_gap, "the file is 70"),
    ],
    ids=["cut", "large array", "large gap"],
)
def test_a_large_file_that_is_no_model_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], found: str
):
    """By the headers of its arrays alone; the file can be removed at once, as nothing keeps it open or mapped."""
    path = tmp_path / "large.npz"
    make(path)
    monkeypatch.setattr(model_store.atomic_files, "read_regular_file", lambda *_: pytest.fail("it was read whole"))

    with pytest.raises(ModelError, match=found):
        model_store.read(path)
    path.unlink()


def test_a_large_model_is_read_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its headers are looked at first, and nothing else changes."""
    path = tmp_path / "model.npz"
    path.write_bytes(packed())
    monkeypatch.setattr(model_store, "_LARGE_FILE_BYTES", 0)

    assert model_store.read_bytes(path) == packed()


def test_a_model_of_another_kind_of_actions_with_large_outputs_plays(paths: Paths):
    """Real numbers have deviations of their own, which must not become infinite either."""
    state = train_step.new_state(WIDTH, Box((-1.0,), (1.0,)), SETTINGS)
    members = {**train_step.to_arrays(state), "version": np.int64(1), "W3": np.full((HIDDEN, 2), 9e19, "f4")}
    members["manifest"] = np.array(json.dumps(manifests.facts(state, SETTINGS)))
    paths.model.write_bytes(npz.write(members))

    agent = RLAgent(root=paths.root, action_space=Box((-1.0,), (1.0,)), seed=1)
    assert_plays(agent)
    assert agent.model_version == 1
