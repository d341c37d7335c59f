"""The index of the ledger says what a dict would say, in a fraction of its memory."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from pathlib import Path

from background_training.records.ledger import Ledger, LineIndex, key_of


def test_it_finds_all_places_of_a_key_oldest_first() -> None:
    """Also of keys that many lines share, and of those that were tidied away long ago."""
    rng, index, oracle = random.Random(0), LineIndex(), defaultdict(list)
    for place in range(30_000):
        key = rng.choice((rng.randrange(2**64), rng.randrange(50), 2**64 - 1))
        index.add(key, place)
        oracle[key].append(place)

    assert all(index.places(key) == oracle[key] for key in [*oracle, 50, 2**63])


def test_a_ledger_remembers_every_episode_by_hash_and_id(tmp_path: Path) -> None:
    """Ten thousand lines, appended and read again: each is known, and nothing else is."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, durable=False)
    lines = [
        {
            "seq": number + 1,
            "sha256": f"{number:064x}",
            "name": f"gäme_{number}.npz",
            "fate": "trained",
            "episode_id": f"ü{number}",
        }
        for number in range(10_000)
    ]
    for start in range(0, len(lines), 100):
        ledger.append(lines[start : start + 100])

    for known in (ledger, Ledger(path, durable=False)):
        for line in lines[::97]:
            assert known.trained_as(line["sha256"]) == (line["name"], line["seq"], line["name"])
            assert known.sha256_of_id(line["episode_id"]) == line["sha256"]
        assert known.trained_as("f" * 64) is None and known.sha256_of_id("ü") is None


def test_it_takes_few_bytes_a_line() -> None:
    """A learner that has trained on a million episodes must not carry them about."""
    index = LineIndex()
    for number in range(50_000):
        index.add(key_of(str(number)), number)
    loose = sys.getsizeof(index._loose) + len(index._loose) * 150

    assert (index._keys.nbytes + index._places.nbytes + loose) / 50_000 < 40
