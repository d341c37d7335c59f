"""A file of records: true to the last whole one after a crash, followed by readers that lock nothing, thinned fairly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from local_training import record_file
from local_training.record_file import HEADER_BYTES, Place, Records
from tools.learner.thinning import thinned

SCHEMA = 1
LAYOUT = np.dtype([("version", "<u4"), ("weight", "<u4"), ("value", "<f8"), ("check", "<u4")])


def _records(first: int, count: int) -> Records:
    made = np.zeros(count, LAYOUT)
    made["version"], made["weight"] = np.arange(first, first + count), 1
    made["value"] = np.sin(made["version"])
    return made


def _versions(path: Path) -> list[int]:
    return [int(number) for number in record_file.read(path, LAYOUT, SCHEMA, Place())[0]["version"]]


@pytest.fixture
def path(root: Path) -> Path:
    return root / "series.bin"


def test_what_was_added_is_read_back(path: Path) -> None:
    """All records, in their order, with their values; a file that is not there has none."""
    assert _versions(path) == []
    record_file.append(path, _records(1, 3), SCHEMA)
    record_file.append(path, _records(4, 1), SCHEMA)

    found, _, _ = record_file.read(path, LAYOUT, SCHEMA, Place())

    assert found["version"].tolist() == [1, 2, 3, 4]
    assert found["value"].tolist() == np.sin([1, 2, 3, 4]).tolist()


def test_cut_at_any_byte_the_whole_records_before_it_stay(path: Path) -> None:
    """A writer may die in the middle of a write: what is torn is left out, and what comes after it is whole."""
    record_file.append(path, _records(1, 3), SCHEMA)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = max(0, size - HEADER_BYTES) // LAYOUT.itemsize
        assert _versions(path) == list(range(1, 1 + whole)), size
        if size < HEADER_BYTES:
            continue  # no file of ours: its writer sets it aside
        record_file.mend(path, LAYOUT, SCHEMA)
        record_file.append(path, _records(9, 1), SCHEMA)
        assert _versions(path) == [*range(1, 1 + whole), 9], size


@pytest.mark.parametrize("byte", [0, 5, LAYOUT.itemsize - 1])
def test_a_damaged_record_is_left_out_and_the_others_stay(path: Path, byte: int) -> None:
    """Each record has a check of its own."""
    record_file.append(path, _records(1, 3), SCHEMA)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + LAYOUT.itemsize + byte] ^= 0x10
    path.write_bytes(data)

    assert _versions(path) == [1, 3]


def test_zeros_are_no_record(path: Path) -> None:
    """A power cut may leave the file's length without its content."""
    record_file.append(path, _records(1, 1), SCHEMA)
    with open(path, "ab") as file:
        file.write(bytes(2 * LAYOUT.itemsize))

    assert _versions(path) == [1]


def test_a_reader_takes_in_each_record_once_however_the_writes_are_cut(path: Path) -> None:
    """It goes on after the last whole record, so that a half written one is read when it is whole."""
    record_file.append(path, _records(1, 1), SCHEMA)
    more = record_file.sealed(_records(2, 3))
    _, place, _ = record_file.read(path, LAYOUT, SCHEMA, Place())
    seen = [1]
    for start in range(0, len(more), 7):
        with open(path, "ab") as file:
            file.write(more[start : start + 7])
        found, place, anew = record_file.read(path, LAYOUT, SCHEMA, place)
        assert not anew
        seen += found["version"].tolist()

    assert seen == [1, 2, 3, 4]


def test_a_new_edition_is_known_as_one(path: Path) -> None:
    """After the records were replaced a reader gets all of them, and is told so."""
    record_file.append(path, _records(1, 5), SCHEMA)
    _, place, _ = record_file.read(path, LAYOUT, SCHEMA, Place())
    record_file.replace(path, _records(3, 3), SCHEMA)

    found, place, anew = record_file.read(path, LAYOUT, SCHEMA, place)
    again, _, anew_again = record_file.read(path, LAYOUT, SCHEMA, place)

    assert anew and found["version"].tolist() == [3, 4, 5]
    assert not anew_again and len(again) == 0


@pytest.mark.parametrize("content", [b"", b"short", b"PK\x03\x04" + bytes(500), b"BTrecord" + bytes(500)])
def test_another_programs_file_has_no_records(path: Path, content: bytes) -> None:
    """Whatever it holds; and so has a file of another schema."""
    path.write_bytes(content)
    assert _versions(path) == []

    record_file.replace(path, _records(1, 1), SCHEMA + 1)
    assert _versions(path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_nobody_waits_at_a_named_pipe(path: Path) -> None:
    """Opening one waits for its other end, which may never come."""
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        record_file.read(path, LAYOUT, SCHEMA, Place())


def test_thinning_keeps_the_newest_and_what_all_of_them_stand_for() -> None:
    """However often it is done: bounded, in order, the newest as they were, and means by weight stay near the truth."""
    most, kept = 1_000, _records(1, 0)
    for first in range(1, 200_001, 100):
        kept = np.concatenate([kept, _records(first, 100)])
        if len(kept) > most:
            kept = thinned(kept, most)
            assert len(kept) <= 0.75 * most
            assert kept["version"][-250:].tolist() == list(range(first + 100 - 250, first + 100))
            assert (kept["weight"][-250:] == 1).all()

    assert (np.diff(kept["version"].astype(int)) > 0).all()
    assert float(kept["weight"].sum()) == pytest.approx(200_000, rel=0.01)
    middle = np.average(kept["version"], weights=kept["weight"])
    assert middle == pytest.approx(100_000, rel=0.05)


def test_thinning_is_fair_to_opponents_that_take_turns() -> None:
    """To keep always the first of two neighbours would keep one opponent of two."""
    records = _records(0, 4_000)
    records["value"] = records["version"] % 2
    kept = thinned(records, 2_000)
    older = kept[:-500]

    assert np.average(older["value"], weights=older["weight"]) == pytest.approx(0.5, abs=0.1)
