"""Producers, a mover and a listing in a loop, all in processes of their own: nothing is lost, nothing is torn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import episodes
import pytest
from conftest import wait_until

from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import TRAINED, Departure
from background_training.errors import EpisodeError
from background_training.paths import CHECKOUT, Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import signature_of

pytestmark = pytest.mark.slow  # real processes

PRODUCER = """
import sys
from pathlib import Path
import numpy as np
from background_training.episodes import buffer as buffer_folder
from background_training.paths import Paths
paths, first, count = Paths(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    rewards = np.full(5, number, np.float32)
    arrays = {"states": np.zeros((5, 2)), "actions": np.zeros(5, int), "rewards": rewards}
    buffer_folder.deposit(paths, arrays, "Victory", durable=False)
"""

OVERWRITER = """
import os, sys
from pathlib import Path
from background_training.storage import atomic_files
path = Path(sys.argv[1])
number, enough = 0, Path(sys.argv[2])
while not enough.exists():
    number += 1
    partial = path.with_name(".mine.part")
    partial.write_bytes(b"%d" % number)
    atomic_files.retry_while_shared(lambda: os.replace(partial, path))
"""


def test_all_that_four_producers_deposit_is_found_whole(paths: Paths):
    """Each file is complete the moment it is listed, and each episode arrives once."""
    producers = [
        subprocess.Popen([sys.executable, "-c", PRODUCER, str(paths.root), str(100 * number), "40"], cwd=CHECKOUT)
        for number in range(4)
    ]
    seen: dict[str, float] = {}

    def look() -> bool:
        ended = all(producer.poll() is not None for producer in producers)
        for name in buffer.waiting_names(paths):
            if name not in seen:
                seen[name] = episode_file.read(atomic_files.read_regular_file(paths.buffer / name)).episode_return
        return ended

    wait_until(look)

    assert [producer.returncode for producer in producers] == [0] * 4
    assert sorted(seen.values()) == sorted(5.0 * (100 * number + step) for number in range(4) for step in range(40))
    assert not [name for name in os.listdir(paths.buffer) if name not in seen], "no partial file is left"


def test_moving_out_while_others_bring_in_loses_nothing(paths: Paths):
    """Whatever is listed is moved at once, durable, while two producers go on."""
    producers = [
        subprocess.Popen([sys.executable, "-c", PRODUCER, str(paths.root), str(100 * number), "40"], cwd=CHECKOUT)
        for number in range(2)
    ]

    def move() -> bool:
        ended = all(producer.poll() is not None for producer in producers)
        departures = []
        for name in buffer.waiting_names(paths):
            signature = signature_of(os.lstat(paths.buffer / name))
            departures.append(Departure(name, TRAINED, name, signature))
        buffer.move_out(paths, departures, durable=True)
        return ended

    wait_until(move)

    assert [producer.returncode for producer in producers] == [0, 0]
    found = [episode_file.read(path.read_bytes()).episode_return for path in paths.archive.glob("*.npz")]
    assert sorted(found) == sorted(5.0 * (100 * number + step) for number in range(2) for step in range(40))
    assert os.listdir(paths.buffer) == []


def test_what_was_read_reaches_the_archive_although_the_name_is_rewritten_all_the_time(paths: Paths):
    """A writer replaces one name again and again; each content that was decided over is archived once, and is that very one."""
    path, enough = paths.buffer / "x.npz", paths.root / "enough"
    path.write_bytes(b"first")
    writer = subprocess.Popen([sys.executable, "-c", OVERWRITER, str(path), str(enough)], cwd=CHECKOUT)
    taken: dict[str, bytes] = {}

    def take() -> bool:
        ended = writer.poll() is not None
        try:
            status = os.lstat(path)
            data = atomic_files.read_regular_file(path)
            sure = signature_of(os.lstat(path)) == signature_of(status)
        except FileNotFoundError:
            return ended
        if sure and data not in taken.values():
            stored_as = f"{len(taken)}.npz"
            taken[stored_as] = data
            departure = Departure("x.npz", TRAINED, stored_as, signature_of(status), data)
            buffer.move_out(paths, [departure], durable=len(taken) % 2 == 0)
        if len(taken) == 50:
            enough.touch()
        return ended

    wait_until(take)

    assert writer.returncode == 0 and len(taken) >= 50
    assert {name: (paths.archive / name).read_bytes() for name in taken} == taken


def test_a_sweep_never_takes_a_living_writers_file(paths: Paths):
    """Swept all the time, all its episodes arrive."""
    producer = subprocess.Popen([sys.executable, "-c", PRODUCER, str(paths.root), "0", "60"], cwd=CHECKOUT)

    def sweep() -> bool:
        ended = producer.poll() is not None
        buffer.sweep_partials(paths)
        return ended

    wait_until(sweep)

    assert producer.returncode == 0
    assert len(list(paths.buffer.glob("*.npz"))) == 60


def test_a_foreign_writer_in_place_is_seen_unfinished_then_whole(paths: Paths):
    """np.savez straight under the final name: every cut of it is "unfinished" or "empty", never "broken"."""
    data = episodes.write(paths.root, "whole.npz", 1).read_bytes()
    path: Path = paths.buffer / "x.npz"
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        try:
            episode_file.read(path.read_bytes())
            raise AssertionError("it is not whole yet")
        except EpisodeError as error:
            assert error.reason in ("empty", "unfinished")
    path.write_bytes(data)
    assert episode_file.read(path.read_bytes()).steps == 12
