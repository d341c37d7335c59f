"""The ledger: one line for the fate of every file, appended, read back by the next process, checked by its hash chain."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import pytest
from fakes import Failing

from background_training.errors import LedgerError
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.storage import atomic_files


def _line(name: str, seq: int = 1, fate: str = "trained", **more: Any) -> dict[str, Any]:
    return {"seq": seq, "sha256": f"hash of {name}", "name": name, "fate": fate, **more}


def _ledger(path: Path, **options: Any) -> Ledger:
    return Ledger(path, durable=False, **options)


@pytest.fixture
def path(root: Path) -> Path:
    return root / "ledger.jsonl"


def test_what_was_appended_is_read_back(path: Path) -> None:
    """The next process knows what this one has recorded, in the same order."""
    lines = [_line("ä ☃\n.npz"), _line("b.npz"), _line("c.npz", fate="stale", reason="too old")]
    _ledger(path).append(lines)

    read = _ledger(path)

    assert list(ledger_lines.read_lines(path)) == lines
    assert read.counts == {"trained": 2, "stale": 1}
    assert read.trained_as("hash of b.npz") == ("b.npz", 1, "b.npz")
    assert read.trained_as("hash of c.npz") is None
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.skipif(os.name != "posix", reason="names of files are text on this system")
def test_a_name_that_is_no_text_survives(path: Path) -> None:
    """Names of files are bytes on some systems; the ledger gives back the very same ones."""
    name = os.fsdecode(b"g\xe4me\xff.npz")
    _ledger(path).append([_line(name)])

    assert [os.fsencode(line["name"]) for line in ledger_lines.read_lines(path)] == [os.fsencode(name)]


def test_the_name_in_the_archive_is_known(path: Path) -> None:
    """Where an episode is archived under another name, the ledger tells which."""
    _ledger(path).append([_line("odd name.npz", archived_as="abc.npz")])

    assert _ledger(path).trained_as("hash of odd name.npz") == ("odd name.npz", 1, "abc.npz")


def test_an_episode_id_is_known_once_it_was_trained(path: Path) -> None:
    """Ids of episodes that were set aside don't count: their episode may still come."""
    _ledger(path).append([_line("a.npz", episode_id="17"), _line("b.npz", fate="rejected", episode_id="18")])

    read = _ledger(path)

    assert (read.sha256_of_id("17"), read.sha256_of_id("18")) == ("hash of a.npz", None)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_is_cut_off(path: Path, cut: int) -> None:
    """What a crash has left of the last line is removed, and the file goes on as if it had never been there."""
    ledger = _ledger(path)
    ledger.append([_line("a.npz")])
    whole = path.read_bytes()
    ledger.append([_line("b.npz")])
    path.write_bytes(path.read_bytes()[:-cut])

    again = _ledger(path)

    assert path.read_bytes() == whole
    again.append([_line("c.npz")])
    assert [line["name"] for line in ledger_lines.read_lines(path)] == ["a.npz", "c.npz"]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\0" * 4096,
        b"\xff\xfe garbage",
        b"[1, 2]\n",
        b'{"seq": 1}\n',
        b"[" * 100_000,
        b'{"seq": "x", "sha256": 5, "name": [], "fate": "trained"}\n',
        b'{"seq": 1, "sha256": "", "name": "", "fate": "summary", "counts": 5}\n',
        b'{"seq": 1, "sha256": "", "name": "a.npz", "fate": "deleted"}\n',
    ],
)
def test_rubbish_at_the_end_is_cut_off(path: Path, rubbish: bytes) -> None:
    """A power cut may leave zeros or old disk content behind the last flush."""
    _ledger(path).append([_line("a.npz")])
    whole = path.read_bytes()
    path.write_bytes(whole + rubbish)

    assert _ledger(path).counts["trained"] == 1
    assert path.read_bytes() == whole


def test_damage_between_sound_lines_is_refused(path: Path) -> None:
    """That is no crash's doing: nothing is cut off, and the message says which line, and what to do."""
    ledger = _ledger(path)
    for name in ("a.npz", "b.npz", "c.npz"):
        ledger.append([_line(name)])
    damaged = path.read_bytes().replace(b'"name": "b', b'"name: "b')
    path.write_bytes(damaged)

    with pytest.raises(LedgerError, match=r"line 2 is damaged, with sound lines after it\. Restore the file"):
        _ledger(path)

    assert path.read_bytes() == damaged


def test_nothing_is_remembered_of_an_append_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory never runs ahead of the disk."""
    ledger = _ledger(path)
    monkeypatch.setattr(atomic_files, "append_whole", Failing(atomic_files.append_whole, OSError(28, "disk full")))

    with pytest.raises(OSError, match="disk full"):
        ledger.append([_line("a.npz")])

    assert ledger.trained_as("hash of a.npz") is None and ledger.counts["trained"] == 0
    ledger.append([_line("a.npz")])
    assert ledger.counts["trained"] == 1


def test_the_batches_are_told_apart(path: Path) -> None:
    """Trained lines of one version are one batch, whatever lies between them."""
    lines = [_line("a.npz", 1), _line("x.npz", 1, "stale"), _line("b.npz", 1), _line("c.npz", 2)]

    found = [(seq, [line["name"] for line in group]) for seq, group in ledger_lines.groups(lines)]

    assert found == [(1, ["a.npz", "b.npz"]), (2, ["c.npz"])]


@pytest.mark.parametrize("change", ["name", "sha256"])
def test_the_chain_tells_every_change_of_the_past(path: Path, change: str) -> None:
    """Another name or hash in any line gives another end of the chain."""
    lines = [_line(f"{number}.npz", 1 + number // 2) for number in range(6)]
    _ledger(path).append(lines)
    chain = _ledger(path).chain
    for number in range(6):
        forged = [dict(line) for line in lines]
        forged[number][change] += "x"
        path.write_bytes(ledger_lines.encode(forged))

        assert _ledger(path).chain != chain


def test_the_chain_begins_anew_at_a_base(path: Path) -> None:
    """What came before a model that was published by hand plays no part any more."""
    base = {"version": 4, "chain": "the base"}
    after = [_line("b.npz", 5, base=base)]
    chains = []
    for before in ([_line("a.npz", 4)], [_line("z.npz", 4)]):
        path.write_bytes(ledger_lines.encode([*before, *after]))
        chains.append(_ledger(path).chain)

    assert chains[0] == chains[1] == ledger_lines.next_chain("the base", 5, after)


def test_a_verdict_is_recorded_once_and_each_delivery_is_one(paths: Paths) -> None:
    """The same broken file delivered three times has three lines; a drain that finds nothing new adds none."""
    for _ in range(3):
        (paths.buffer / "broken.npz").write_bytes(b"no archive")
        for _ in range(2):
            learner_runs.drain(paths.root)

    lines = [line for line in ledger_lines.read_lines(paths.ledger) if line["name"] == "broken.npz"]
    assert len(lines) == 3
    stored = [line.get("archived_as", line["name"]) for line in lines]
    assert len(set(stored)) == 3 and all((paths.rejected / name).exists() for name in stored)


def test_a_verdict_whose_move_was_cut_short_is_not_recorded_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded, then killed before the move: the next start moves the file and adds no second line."""
    (paths.buffer / "odd name.npz").write_bytes(b"no archive")
    with monkeypatch.context() as patch:
        patch.setattr(
            "background_training.episodes.buffer.move_out", Failing(lambda *args, **more: None, OSError(5, "cut short"))
        )
        with pytest.raises(OSError, match="cut short"):
            learner_runs.drain(paths.root)

    learner_runs.drain(paths.root)

    assert len(list(ledger_lines.read_lines(paths.ledger))) == 1
    assert episodes.fates(paths)["buffer"] == []


@pytest.mark.skipif(os.name != "posix", reason="needs names with control characters")
def test_every_line_is_one_json_object_of_plain_ascii(paths: Paths) -> None:
    """Any program can read it line by line, and no terminal is harmed by showing it."""
    episodes.write(paths.buffer, "\x1b[31m ü.npz", episode_id="☃\n")
    (paths.buffer / "broken\n.npz").write_bytes(b"no archive")
    learner_runs.drain(paths.root)

    raw = paths.ledger.read_bytes()

    assert raw.isascii() and all(byte >= 32 or byte == 10 for byte in raw)
    assert [set(json.loads(line)) >= {"seq", "sha256", "name", "fate"} for line in raw.splitlines()] == [True, True]


# Reading line by line


def _long(path: Path, lines: int) -> list[dict[str, Any]]:
    found = [_line(f"{number}.npz", 1 + number, steps=number) for number in range(lines)]
    path.write_bytes(ledger_lines.encode(found))
    return found


def test_a_long_ledger_is_read_in_little_memory(path: Path) -> None:
    """However long it is, one line of it is held; that of two megabytes takes less than a tenth."""
    _long(path, 20_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in ledger_lines.read_lines(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000 and peak < path.stat().st_size / 10


def test_what_is_appended_meanwhile_is_not_taken_for_damage(path: Path) -> None:
    """A reader beside a learner sees the lines of the moment at which it began, also if half a line was there then."""
    lines = _long(path, 5)
    with open(path, "ab") as file:
        file.write(b'{"seq": 6, "sha256": "", "na')
    reader = ledger_lines.read_lines(path)
    first = next(reader)
    with open(path, "ab") as file:
        file.write(b'me": "6.npz", "fate": "trained"}\n' + ledger_lines.encode([_line("7.npz", 7)]))
    assert [first, *reader] == lines
    assert len(list(ledger_lines.read_lines(path))) == 7


@pytest.mark.skipif(os.name == "nt", reason="an open file is not replaced there")
def test_a_ledger_that_is_replaced_meanwhile_is_read_to_its_end(path: Path) -> None:
    """The lines are those of the file that was opened."""
    lines = _long(path, 1000)
    reader = ledger_lines.read_lines(path)
    first = next(reader)
    atomic_files.write_atomically(path, b"", durable=False)
    assert [first, *reader] == lines and not list(ledger_lines.read_lines(path))


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_after_damage_is_seen_with_or_without_its_line_feed(path: Path, end: str) -> None:
    """Nothing that may be an episode's only record is cut off."""
    lines = _long(path, 3)
    path.write_bytes(ledger_lines.encode(lines[:2]) + b"damaged\n" + ledger_lines.encode(lines[2:]).rstrip() + end.encode())
    with pytest.raises(LedgerError, match="line 3 is damaged"):
        list(ledger_lines.read_lines(path))


def test_a_line_of_endless_length_is_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in pieces, none of which counts as a line, whatever stands in it."""
    monkeypatch.setattr(ledger_lines, "_LONGEST_LINE", 200)
    lines = _long(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b" " * 200 + ledger_lines.encode([_line("a.npz")]))
    assert list(ledger_lines.read_lines(path)) == lines
    assert _ledger(path).size == 2 and path.read_bytes() == whole
