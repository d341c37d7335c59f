"""Killed between any two system calls, a move is finished by doing it again: every file in one place, whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import episodes
import pytest
from conftest import PATIENCE_SECONDS

from background_training.episodes import buffer
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED, Departure
from background_training.paths import CHECKOUT, Paths

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")]

FATES = {"a.npz": TRAINED, "b.npz": REJECTED, "c.npz": STALE, "d.npz": DUPLICATE}

MOVER = """
import os, signal, sys
from pathlib import Path
from background_training.storage import atomic_files; from background_training.episodes import buffer as buffer_folder
from background_training.episodes.buffer import Departure
from background_training.storage.atomic_files import signature_of
from background_training.paths import Paths
root, die_at, durable = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "durable"
fates = dict(pair.split("=") for pair in sys.argv[4:])
paths, calls = Paths(root), 0
departures = []
for name, fate in fates.items():
    signature = signature_of(os.lstat(paths.buffer / name))
    departures.append(Departure(name, fate, name, signature, note="" if fate == "trained" else "because"))

def dying(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

for name in ("link", "unlink", "rename", "replace", "fsync", "open", "lstat"):
    setattr(os, name, dying(getattr(os, name)))
buffer_folder.move_out(paths, departures, durable=durable)
print(calls)
"""


def run_mover(root: Path, die_at: int, durable: str) -> subprocess.CompletedProcess[bytes]:
    fates = [f"{name}={fate}" for name, fate in FATES.items()]
    command = [sys.executable, "-c", MOVER, str(root), str(die_at), durable, *fates]
    return subprocess.run(command, capture_output=True, cwd=CHECKOUT, timeout=PATIENCE_SECONDS, check=False)


def filled(root: Path) -> tuple[Paths, dict[str, bytes]]:
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(parents=True, exist_ok=True)
    return paths, {name: episodes.write(paths.buffer, name, number).read_bytes() for number, name in enumerate(FATES)}


@pytest.mark.slow
@pytest.mark.leaves_partials
@pytest.mark.parametrize("durable", ["durable", "fast"])
def test_a_move_killed_at_many_calls_is_finished_by_the_next(durable: str, root: Path):
    """At calls all over the list: no file is gone, and the repetition brings each to its place."""
    filled(root / "whole")
    calls = int(run_mover(root / "whole", 0, durable).stdout)
    assert calls > 10
    for die_at in range(1, calls + 1, 3):
        paths, contents = filled(root / str(die_at))
        departures = departures_of(paths)

        assert run_mover(paths.root, die_at, durable).returncode == -signal.SIGKILL

        for name, fate in FATES.items():
            places = [paths.buffer / name, buffer.folder_of(paths, fate) / name]
            places.append(paths.leaving / name)
            assert contents[name] in [place.read_bytes() for place in places if place.exists()], f"{name} lost at call {die_at}"
        buffer.put_all_back(paths)
        buffer.move_out(paths, departures, durable=durable == "durable")
        for name, fate in FATES.items():
            folder = buffer.folder_of(paths, fate)
            assert (folder / name).read_bytes() == contents[name]
            assert fate == TRAINED or (folder / f"{name}.reason.txt").read_text() == "because\n"
        assert episodes.fates(paths)["buffer"] == []


def departures_of(paths: Paths) -> list[Departure]:
    """Before the crash, as the learner would have them again from what it finds afterwards: without signature."""
    return [Departure(name, fate, name, note="" if fate == TRAINED else "because") for name, fate in FATES.items()]


DEPOSITOR = """
import os, signal, sys
from pathlib import Path
import numpy as np
from background_training.episodes import buffer as buffer_folder
from background_training.paths import Paths
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], die)
arrays = {"states": np.ones((5, 2)), "actions": np.zeros(5, int), "rewards": np.ones(5)}
buffer_folder.deposit(Paths(Path(sys.argv[1])), arrays, "Victory")
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_producer_killed_in_its_deposit_leaves_nothing_to_train_on(call: str, paths: Paths):
    """Only a partial file is left, which the next sweep takes away."""
    command = [sys.executable, "-c", DEPOSITOR, str(paths.root), call]
    assert subprocess.run(command, cwd=CHECKOUT, timeout=PATIENCE_SECONDS, check=False).returncode == -signal.SIGKILL
    assert buffer.waiting_names(paths) == [] and len(os.listdir(paths.buffer)) == 1

    assert len(buffer.sweep_partials(paths)) == 1

    assert os.listdir(paths.buffer) == []
