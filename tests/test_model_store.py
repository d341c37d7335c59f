"""A model is read whole or refused by name, committed by one rename, and kept in a bounded history."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from background_training.errors import ModelError, ModelMissingError
from background_training.paths import Paths
from background_training.spaces import Discrete
from background_training.storage import model_store, npz
from background_training.storage.atomic_files import signature

MANIFEST = {"format": 1, "action_names": ["left", "right"], "note": "ü"}


def arrays(width: int = 4, hidden: int = 3, actions: int = 2, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {
        "W1": (width, hidden),
        "b1": (hidden,),
        "W2": (hidden, hidden),
        "b2": (hidden,),
        "W3": (hidden, actions),
        "b3": (actions,),
    }
    made: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | more
    return {name: value for name, value in made.items() if value is not None}


def raw(**more: Any) -> bytes:
    """A model file of which single members may be wrong; None leaves one out."""
    members = {"version": np.int64(3), "manifest": np.array(json.dumps(MANIFEST)), **arrays()} | more
    return npz.write({name: value for name, value in members.items() if value is not None})


def test_a_model_comes_back_as_it_was(paths: Paths):
    """Arrays, version and manifest; the same model is always the same bytes."""
    extra = {"optimizer_m": np.arange(5.0)}
    data = model_store.pack(arrays(**extra), 7, MANIFEST)
    model_store.commit(paths, data, durable=True)

    model = model_store.read(paths.model)

    assert (model.version, model.state_width, model.actions, model.action_names) == (7, 4, Discrete(2), ("left", "right"))
    assert dict(model.manifest) == MANIFEST
    assert {name: value.tobytes() for name, value in model.arrays.items()} == {
        name: value.tobytes() for name, value in arrays(**extra).items()
    }
    assert model_store.pack(arrays(**extra), 7, MANIFEST) == data == model_store.read_bytes(paths.model)


def test_a_reader_takes_only_what_it_wants():
    """A game needs the policy, not the optimiser's moments."""
    model = model_store.unpack(raw(moments=np.zeros(1000)), "m", model_store.POLICY_KEYS)

    assert set(model.arrays) == set(model_store.POLICY_KEYS)


def test_plain_numpy_reads_a_model(tmp_path: Path):
    """No import of ours is needed to look at it."""
    (tmp_path / "m.npz").write_bytes(model_store.pack(arrays(), 2, MANIFEST))

    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert int(file["version"]) == 2 and json.loads(str(file["manifest"])) == MANIFEST


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (raw()[:300], "the end of the zip archive is missing"),
        (raw(version=None), "no usable version"),
        (raw(version=np.int64(-1)), "no usable version"),
        (raw(version=np.float64(1)), "no usable version"),
        (raw(manifest=None), "no usable manifest"),
        (raw(manifest=np.array("[]")), "no usable manifest"),
        (raw(manifest=np.array("{" * 5000)), "no usable manifest"),
        (raw(manifest=np.zeros(3)), "no usable manifest"),
        (raw(manifest=np.array('{"format": 99}')), "its format is 99"),
        (raw(W2=None, b3=None), "W2, b3 is missing"),
        (raw(W2=np.zeros((9, 9), np.float32)), "the policy's shapes are"),
        (raw(b1=np.zeros((3, 1), np.float32)), "the policy's shapes are"),
        (raw(W3=np.full((3, 2), np.nan, np.float32)), "not finite"),
        (raw(W3=np.zeros((3, 2), int)), "not finite"),
    ],
)
def test_a_broken_model_is_refused_by_name(data: bytes, sentence: str):
    """Never half a model, never another kind of error."""
    with pytest.raises(ModelError, match=r"my\.npz: .*" + sentence):
        model_store.unpack(data, "my.npz")


def test_a_missing_model_is_not_a_broken_one(paths: Paths):
    """The first game of all has none."""
    assert signature(paths.model) is None
    with pytest.raises(ModelMissingError, match="no model is there yet"):
        model_store.read(paths.model)
    paths.model.mkdir()
    with pytest.raises(ModelError, match="it is a folder"):
        model_store.read(paths.model)


def test_the_signature_changes_with_every_commit(paths: Paths):
    """That is all a game looks at between episodes."""
    seen = set()
    for version in range(20):
        model_store.commit(paths, model_store.pack(arrays(), version, MANIFEST), durable=False)
        seen.add(signature(paths.model))

    assert len(seen) == 20


def test_the_history_is_bounded_and_in_order(paths: Paths):
    """The newest stay; other files in the folder are none of ours."""
    (paths.history / "notes.txt").write_text("mine")
    for version in (3, 20, 100, 1, 50):
        model_store.keep_in_history(paths, version, model_store.pack(arrays(), version, MANIFEST), durable=False)
    assert model_store.history_versions(paths) == [1, 3, 20, 50, 100]

    model_store.prune_history(paths, 2)

    assert model_store.history_versions(paths) == [50, 100] and (paths.history / "notes.txt").exists()
    assert model_store.read(model_store.history_path(paths, 50)).version == 50


def test_a_torn_copy_in_the_history_is_written_again(paths: Paths):
    """A power cut may have left half of one; a whole one is left alone."""
    data = model_store.pack(arrays(), 5, MANIFEST)
    path = model_store.history_path(paths, 5)
    path.write_bytes(data[:100])
    model_store.keep_in_history(paths, 5, data, durable=False)
    assert path.read_bytes() == data
    before = os.stat(path).st_ino

    model_store.keep_in_history(paths, 5, data, durable=False)

    assert os.stat(path).st_ino == before
