"""The ledger's index: who believes it knows what reading all lines would tell, and it is never believed wrongly."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest

from background_training.errors import LedgerError
from background_training.paths import Paths
from background_training.records import ledger, ledger_lines
from background_training.records.ledger import Ledger
from background_training.storage import atomic_files

NEWEST = 7


@pytest.fixture(autouse=True)
def _worth_a_file_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FEWEST_LINES", 20)


@pytest.fixture
def path(root: Path) -> Path:
    return root / "ledger.jsonl"


def _index(path: Path) -> Path:
    return path.with_name("index")


def _opened(path: Path, newest: int = NEWEST) -> Ledger:
    return Ledger(path, durable=False, remember_newest=newest, index=_index(path))


def _batch(rng: random.Random, seq: int) -> list[dict[str, Any]]:
    """The lines of one version: trained episodes, now and then a base; what was set aside, deleted, published."""
    lines: list[dict[str, Any]] = []
    for number in range(rng.randrange(1, 6)):
        name = f"gäme\udcff {seq} {number}.npz"
        line = {"seq": seq, "sha256": f"{rng.random()}", "name": name, "fate": "trained"}
        lines.append(line | ({"episode_id": f"id {name}"} if rng.random() < 0.5 else {}))
    if rng.random() < 0.1:
        lines[0]["base"] = {"version": seq - 1, "chain": f"{rng.random()}"}
    aside = {"seq": seq, "sha256": f"{rng.random()}", "name": f"{seq}.npz"}
    lines += [aside | {"fate": fate, "reason": "why"} for fate in ("stale", "rejected") if rng.random() < 0.3]
    lines += [aside | {"fate": "deleted", "was": "trained"}] if rng.random() < 0.2 else []
    lines += [aside | {"fate": "published", "reason": "r", "chain": "c"}] if rng.random() < 0.1 else []
    return lines


def _knows(ledger: Ledger, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that a ledger can be asked."""
    return {
        "numbers": (ledger.size, ledger.last_seq, ledger.newest_seq, ledger.archived, ledger._end, dict(ledger.counts)),
        "chain": (ledger.chain, ledger.former_chain, ledger.last_group),
        "newest": (list(ledger.newest), ledger.newest.maxlen, ledger.newest_published),
        "trained": [ledger.trained_as(line["sha256"]) for line in lines],
        "ids": [ledger.sha256_of_id(line.get("episode_id", "none")) for line in lines],
        "marks": [ledger.has(line) for line in lines],
    }


def _all_lines(path: Path) -> list[dict[str, Any]]:
    return list(ledger_lines.read_lines(path))


def _parsed_when(path: Path, monkeypatch: pytest.MonkeyPatch, newest: int = NEWEST) -> tuple[Ledger, int]:
    """Open it, and count the lines that were read one by one."""
    count, parse = 0, ledger_lines.parse

    def counting(text: bytes) -> dict[str, Any] | None:
        nonlocal count
        count += 1
        return parse(text)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_lines, "parse", counting)
        return _opened(path, newest), count


@pytest.mark.parametrize("seed", range(5))
def test_with_the_index_it_knows_what_it_knows_without(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every few batches, whoever opens it anew: all answers are the same, and only new lines are read."""
    rng, ledger = random.Random(seed), _opened(path)
    for seq in range(1, 80):
        ledger.append(_batch(rng, seq))
        if rng.random() < 0.15:
            ledger, parsed = _parsed_when(path, monkeypatch)
            lines = _all_lines(path)
            assert _knows(ledger, lines) == _knows(Ledger(path, durable=False, remember_newest=NEWEST), lines)
            assert parsed <= 40

    assert ledger.size > 150 and ledger.has({**lines[-1], "fate": "never"}) is False


def _grown(path: Path) -> list[dict[str, Any]]:
    rng, ledger = random.Random(3), _opened(path)
    for seq in range(1, 40):
        ledger.append(_batch(rng, seq))
    return _all_lines(path)


def _changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"0.") + 3] ^= 1  # a digit of the first hash, so that the line stays sound
    path.write_bytes(data)


def _cut_short(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))


def _torn(path: Path) -> None:
    _index(path).write_bytes(_index(path).read_bytes()[:-9])


def _flipped(path: Path) -> None:
    data = bytearray(_index(path).read_bytes())
    data[-3] ^= 64
    _index(path).write_bytes(data)


def _garbage(path: Path) -> None:
    _index(path).write_bytes(b"garbage")


def _former(path: Path) -> None:
    """An older index of this very ledger, whole as it was written."""
    data = _index(path).read_bytes()
    _opened(path).append([line for seq in range(100, 130) for line in _batch(random.Random(seq), seq)])
    assert _index(path).read_bytes() != data
    _index(path).write_bytes(data)


def _of_another_ledger(path: Path) -> None:
    other = path.with_name("other.jsonl")
    ledger = Ledger(other, durable=False, remember_newest=NEWEST, index=path.with_name("other index"))
    for seq in range(1, 40):
        ledger.append(_batch(random.Random(7 * seq), seq))
    path.with_name("other index").replace(_index(path))


def _forged(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """An index as our own code writes it, with right checksums of its own, that says something else."""
    with np.load(_index(path)) as found:
        arrays: dict[str, Any] = {name: found[name].copy() for name in found.files}
    said = json.loads(arrays["facts"].tobytes())
    change(arrays, said)
    arrays["facts"] = np.frombuffer(json.dumps(said).encode("ascii"), np.uint8)
    with open(_index(path), "wb") as file:
        np.savez(file, **arrays)


def _forget_everything(path: Path) -> None:
    _forged(path, lambda arrays, said: arrays.update({name: arrays[name][:0] for name in arrays if name != "facts"}))


def _zeroed(path: Path) -> None:
    _forged(path, lambda arrays, said: arrays.update(keys_0=np.zeros_like(arrays["keys_0"])))


def _places_that_lie(path: Path) -> None:
    _forged(path, lambda arrays, said: arrays["places_0"].fill(10**15))


def _counts_that_lie(path: Path) -> None:
    _forged(path, lambda arrays, said: said["facts"].update(counts={"trained": 3}, last_group=[], former_chain="x"))


def _an_end_that_lies(path: Path) -> None:
    _forged(path, lambda arrays, said: said.update(end=said["end"] - 1))


def _a_folder(path: Path) -> None:
    _index(path).unlink()
    _index(path).mkdir()


def _missing(path: Path) -> None:
    _index(path).unlink()


FORGERIES = [_forget_everything, _zeroed, _places_that_lie, _counts_that_lie, _an_end_that_lies]
HARM = [_changed, _cut_short, _torn, _flipped, _garbage, _former, _of_another_ledger, _a_folder, _missing, *FORGERIES]


@pytest.mark.parametrize("harm", HARM)
def test_what_does_not_fit_is_as_if_it_were_not_there(path: Path, harm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ledger, a damaged or a forged index: every line is read, and what they say is known."""
    _grown(path)
    harm(path)
    ledger, parsed = _parsed_when(path, monkeypatch)
    lines = _all_lines(path)

    assert len(lines) - 1 <= parsed <= len(lines)  # a new checkpoint line, if one was due
    assert _knows(ledger, lines) == _knows(Ledger(path, durable=False, remember_newest=NEWEST), lines)


def test_an_index_of_other_code_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older version of the code made of the lines may be something else."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_code", lambda: "of another version")
        lines = _grown(path)
    assert _parsed_when(path, monkeypatch)[1] == len(lines)


def test_a_sealed_index_is_used_whatever_a_name_looks_like(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes by which a checkpoint line is found can't stand in a name or a reason."""
    lines = _grown(path)
    name = '"fate": "checkpoint", "end": 5'
    _opened(path).append([{"seq": 40, "sha256": "", "name": name, "fate": "rejected", "reason": "\\" + name}])
    assert _parsed_when(path, monkeypatch)[1] < len(lines)


@pytest.mark.parametrize("harm", FORGERIES)
def test_a_forged_index_has_no_episode_trained_twice(paths: Paths, harm: Callable[[Path], None]) -> None:
    """From outside: an episode that was trained comes again after the forgery, and is a duplicate."""
    for number in range(24):
        episodes.write(paths.buffer, f"{number:02d}.npz", number)
    learner_runs.drain(paths.root)
    assert paths.ledger_index.exists()
    paths.ledger_index.replace(_index(paths.ledger))
    harm(paths.ledger)
    _index(paths.ledger).replace(paths.ledger_index)
    shutil.copy(paths.archive / "03.npz", paths.buffer / "again.npz")

    learner_runs.drain(paths.root)

    counts = ledger_lines.counts_of(ledger_lines.read_lines(paths.ledger))
    assert counts["trained"] == 24 and counts["duplicate"] == 1


def test_a_torn_end_is_cut_off_and_damage_after_it_refused(path: Path) -> None:
    """As without an index; the number of the line is that in the file."""
    lines = _grown(path)
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"seq": 9')

    assert _opened(path).size == len(lines)
    assert path.read_bytes() == sound
    path.write_bytes(sound + b"damaged\n" + sound)
    with pytest.raises(LedgerError, match=f"line {len(lines) + 1} is damaged"):
        _opened(path)


def test_who_wants_more_of_the_newest_lines_reads_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index holds as many as were wanted when it was made; fewer are a part of them."""
    lines = _grown(path)

    assert len(_opened(path).newest) == NEWEST
    assert _parsed_when(path, monkeypatch, 3)[1] < len(lines)
    assert list(_opened(path, 3).newest) == list(Ledger(path, durable=False, remember_newest=3).newest)
    more, parsed = _parsed_when(path, monkeypatch, NEWEST + 1)
    assert parsed == len(lines) and len(more.newest) == NEWEST + 1


def test_a_disk_that_does_not_take_it_is_no_harm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's training stops for want of something that only saves time."""

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(atomic_files, "write_atomically", full)
    assert _opened(path).size == 0
    assert _grown(path) and not _index(path).exists()
