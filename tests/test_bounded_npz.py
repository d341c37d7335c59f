"""The bounded reader agrees with NumPy on every sound archive, and takes nothing on an archive's word."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hostile_zip import DEFLATED, Member, archive, array, npy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from background_training.errors import NpzError
from background_training.storage import npz

LIMIT = 50_000_000
TYPES = ["?", "i1", "u1", "<i2", ">i4", "<u8", "<f2", "<f4", ">f8", "<U5", ">U3"]


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_reads_what_numpy_writes(data: st.DataObject):
    """Any of the allowed types, any shape of up to four axes, either order, stored or deflated."""
    dtype = np.dtype(data.draw(st.sampled_from(TYPES)))
    shape = data.draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    elements = st.text("aü☃", max_size=dtype.itemsize // 4) if dtype.kind == "U" else None
    value = np.array(data.draw(arrays_of.arrays(dtype, shape, elements=elements)), order=data.draw(st.sampled_from("CF")))
    file = io.BytesIO()
    data.draw(st.sampled_from([np.savez, np.savez_compressed]))(file, value=value, other=np.arange(3))

    found = npz.read(file.getvalue(), LIMIT)

    assert set(found) == {"value", "other"}
    assert found["value"].dtype == value.dtype and found["value"].shape == value.shape
    assert found["value"].tobytes() == value.tobytes()
    assert found["value"].flags.aligned and not found["value"].flags.writeable


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" + " " * 50 + "\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n",
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
        "{'shape':(2,3),'fortran_order':False,'descr':'<f4'}\n",
        "  {'descr': '<f4',\n 'fortran_order': False, 'shape': (2, 3,)}  ",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_may_be_spelt_in_other_ways(header: str, version: int):
    """Other languages' writers have their own habits; NumPy reads them, and so do we."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)

    found = npz.read(archive([Member(b"x.npy", npy(header, values.tobytes(), version))]), LIMIT)

    assert (found["x"] == values).all()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, 600_000, 2_000_003])
@pytest.mark.parametrize("random", [True, False])
def test_a_deflated_member_of_any_size_is_unpacked_whole(size: int, random: bool):
    """Around the borders of the pieces, for content that packs well and content that does not."""
    content = np.random.default_rng(size).bytes(size) if random else bytes(size)
    member = Member(b"x.npy", array("'|u1'", f"({size},)", content), DEFLATED)

    assert npz.read(archive([member]), LIMIT)["x"].tobytes() == content


@pytest.mark.parametrize("wrong", [-1, 1, 100_000])
def test_a_large_member_that_lies_about_its_size_is_refused(wrong: int):
    """One byte is enough."""
    content = array("'|u1'", "(600000,)", bytes(600_000))
    member = Member(b"x.npy", content, DEFLATED, declared_bytes=len(content) + wrong)

    with pytest.raises(NpzError) as caught:
        npz.read(archive([member]), LIMIT)

    assert caught.value.reason == "lying-header"


def test_an_archive_for_more_than_4_gb_is_called_so():
    """Its usual end record holds 65,535 for "look elsewhere"; nobody is told that there are so many members."""
    elsewhere = b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(16)
    data = archive([Member(b"states.npy", array("'<f4'", "()", bytes(4)))], after_directory=elsewhere, count=65535)

    with pytest.raises(NpzError, match="zip64 end record"):
        npz.read(data, LIMIT)


def test_unwanted_members_are_not_unpacked():
    """What nobody asks for may be anything; its zip entry is checked all the same."""
    data = archive([Member(b"x.npy", array("'<f4'", "(1,)", bytes(4))), Member(b"junk.npy", b"junk", crc=1)])

    assert set(npz.read(data, LIMIT, {"x"})) == {"x"}
    with pytest.raises(NpzError):
        npz.read(data, LIMIT)


def test_the_same_arrays_are_the_same_bytes_and_objects_are_none():
    """The model's bits depend on it; a pickle is never written either."""
    values: dict[str, Any] = {"a": np.arange(5), "b": np.array("ü")}

    assert npz.write(values) == npz.write(dict(values))
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        npz.write({"a": np.array([{}], object)})


def test_the_limit_counts_everything():
    """The file, its numbers where they are aligned, and the copy as float32: just enough is enough, one byte less is not."""
    data = npz.write({"x": np.zeros(10_000)})
    needed = len(data) + 8 * 10_000 + 4 * 10_000

    assert npz.read(data, needed)["x"].size == 10_000
    with pytest.raises(NpzError, match=r"limits\.max_memory_bytes"):
        npz.read(data, needed - 1)


def test_float32_is_copied_once_wherever_it_lies():
    """What an episode and a model are made of; the copy that aligns it is the one as float32."""
    data = npz.write({"x": np.zeros(10_000, np.float32)})

    assert npz.read(data, len(data) + 4 * 10_000)["x"].flags.aligned


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"one": np.float32(1.5)},
        {"states": np.arange(12, dtype=np.float32).reshape(3, 4), "actions": np.arange(3), "terminated": np.array(True)},
        {"backwards": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "strided": np.arange(20)[::3]},
        {"text": np.array("Zürich"), "empty": np.zeros((0, 3), ">f8"), "nothing": np.array("")},
    ],
    ids=["none", "a scalar", "an episode", "other orders", "texts and empty arrays"],
)
def test_what_is_written_is_what_numpy_writes(arrays):
    """Byte for byte, so models and episodes are the same whoever packs them."""
    file = io.BytesIO()
    np.savez(file, **arrays)

    assert npz.write(arrays) == file.getvalue()
