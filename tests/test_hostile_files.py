"""Hostile files are refused, each for its own reason, within time and memory; the good ones beside them are trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import episodes
import hostile_files
import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, wait_until
from hostile_files import MAX_MEMORY_BYTES, Hostile

from background_training import BackgroundParallelLearner
from background_training.episodes import episode_file
from background_training.errors import EpisodeError
from background_training.paths import CHECKOUT, Paths
from background_training.settings import LimitSettings
from background_training.storage import atomic_files

pytestmark = pytest.mark.slow  # real processes

LIMITS = LimitSettings(max_memory_bytes=MAX_MEMORY_BYTES)
KINDS = hostile_files.all_kinds()
WITH_BYTES = [kind for kind in KINDS if kind.make is None]
SPECIAL = [kind for kind in KINDS if kind.make is not None]


def named(kinds: list[Hostile]) -> list[object]:
    return [pytest.param(kind, id=kind.kind) for kind in kinds]


def test_the_generator_knows_many_kinds():
    """No kind stands twice, and there are more than enough of them."""
    assert len({kind.kind for kind in KINDS}) == len(KINDS) >= 330
    assert len({kind.file_name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", named(WITH_BYTES))
def test_each_is_refused_for_its_own_reason(kind: Hostile):
    """Whatever is wrong, it is an EpisodeError with the fitting word and a sentence of one line, and at once."""
    started = time.thread_time()

    with pytest.raises(EpisodeError) as caught:
        episode_file.read(kind.data, LIMITS)

    assert caught.value.reason in kind.reasons, str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert time.thread_time() - started < 2.0


@pytest.mark.parametrize("kind", named(SPECIAL))
def test_what_is_no_regular_file_is_never_opened(kind: Hostile, tmp_path: Path):
    """A pipe would hang the reader, a device never end, and a link lead out of the folder."""
    path = kind.place(tmp_path)

    with pytest.raises(atomic_files.NotARegularFileError):
        atomic_files.read_regular_file(path, MAX_MEMORY_BYTES)


def test_a_drain_trains_the_good_ones_and_explains_the_bad_ones(paths: Paths, root: Path):
    """In one run: each good file trained, each bad one in archive/rejected with its reason and a line in the ledger."""
    good = [episodes.write(paths.buffer, f"good {number:02}.npz", number).name for number in range(10)]
    for kind in KINDS:
        kind.place(paths.buffer)
    config = root / "settings.yaml"
    config.write_text(f"limits:\n  max_memory_bytes: {MAX_MEMORY_BYTES}\n", encoding="utf-8")

    result = subprocess.run(
        [sys.executable, "tools/background_parallel_learner.py", "--drain", "--root", str(root), "--config", str(config)],
        capture_output=True, cwd=CHECKOUT, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr.decode()
    assert not result.stderr
    lines = [json.loads(line) for line in paths.ledger.read_bytes().splitlines()]
    told = {line["name"]: line for line in lines}
    assert len(told) == len(lines) == len(good) + len(KINDS)
    assert sorted(name for name, line in told.items() if line["fate"] == "trained") == good
    for kind in KINDS:
        line = told[kind.file_name]
        stored = paths.rejected / line.get("archived_as", line["name"])
        note = stored.with_name(stored.name + ".reason.txt").read_text(encoding="utf-8")
        assert line["fate"] == "rejected" and os.path.lexists(stored), kind.kind
        assert line["reason"] in note and any(reason in line["reason"] for reason in kind.reasons), kind.kind
    assert os.listdir(paths.buffer) == []
    assert (root / "data" / "somebody else's episode.npz").read_bytes() == episodes.packed(2), "nothing was moved through a link"


def test_the_background_learner_trains_the_good_ones_and_goes_on(paths: Paths, root: Path):
    """Beside one of each hostile kind: all good episodes trained, every hostile file rejected, and the learner still at work."""
    good = [episodes.write(paths.buffer, f"good {number:02}.npz", number).name for number in range(10)]
    for kind in KINDS:
        kind.place(paths.buffer)

    settings = learner_runs.settings(root, settle_seconds=0.5).with_values("test", limits={"max_memory_bytes": MAX_MEMORY_BYTES})
    with BackgroundParallelLearner(settings=settings):
        wait_until(lambda: len(os.listdir(paths.buffer)) == 0)
        episodes.write(paths.buffer, "one more.npz", 99)
        wait_until(lambda: len(learner_runs.trained(paths)) == 11)

    lines = [json.loads(line) for line in paths.ledger.read_bytes().splitlines()]
    assert sorted(line["name"] for line in lines if line["fate"] == "trained") == [*good, "one more.npz"]
    assert {line["name"] for line in lines if line["fate"] == "rejected"} == {kind.file_name for kind in KINDS}


def test_the_acceptance_check_of_a_full_buffer(paths: Paths, root: Path):
    """500 old, 50 broken and 200 good files in one drain: the good ones trained once, all others in their places."""
    broken = [kind for kind in KINDS if kind.reason != "empty"][:: len(KINDS) // 50][:50]
    for number in range(500):
        episodes.write(paths.buffer, f"old_{number:03}.npz", number, age_seconds=7200)
    good = [episodes.write(paths.buffer, f"new_{number:03}.npz", 1000 + number).name for number in range(200)]
    for kind in broken:
        kind.place(paths.buffer)

    result = subprocess.run(
        [sys.executable, "tools/background_parallel_learner.py", "--drain", "--root", str(root)],
        capture_output=True, cwd=CHECKOUT, timeout=2 * PATIENCE_SECONDS, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr.decode()
    found = episodes.fates(paths)
    assert found["trained"] == good
    assert len(found["stale"]) == 500 and len(found["rejected"]) == 50
    assert len([name for name in os.listdir(paths.rejected) if name.endswith(".reason.txt")]) == 50
    assert found["buffer"] == found["duplicate"] == []
    trained = [json.loads(line)["name"] for line in paths.ledger.read_bytes().splitlines() if b'"trained"' in line]
    assert sorted(trained) == good, "each of them once"


READER = """
import json, resource, sys, tracemalloc
from background_training.storage import atomic_files; from background_training.episodes import episode_file
from background_training.errors import EpisodeError
from background_training.settings import LimitSettings
from background_training import BackgroundParallelLearner
limits = LimitSettings(max_memory_bytes=int(sys.argv[1]))
def peak_rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def read(name):
    try:
        episode_file.read(atomic_files.read_regular_file(name, limits.max_memory_bytes), limits)
        return "sound"
    except EpisodeError as error:
        return error.reason
    except OverflowError:
        return "too long"
names = json.load(sys.stdin)
for name in names[:3]:
    read(name)
resident = peak_rss()
rows = {}
for name in names:
    tracemalloc.start()
    reason = read(name)
    rows[name] = [reason, tracemalloc.get_traced_memory()[1]]
    tracemalloc.stop()
print(json.dumps({"rows": rows, "resident_growth": peak_rss() - resident}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured with resource, which Windows lacks")
@pytest.mark.parametrize("limit", [pytest.param(MAX_MEMORY_BYTES, marks=pytest.mark.slow), 2_000_000])
def test_no_file_takes_more_memory_than_the_limit(limit: int, root: Path):
    """The peak of a process that reads them all stays below limits.max_memory_bytes and what Python itself takes."""
    names = [str(kind.place(root)) for kind in WITH_BYTES] + [str(path) for path in large_but_honest(root, limit)]

    answer = subprocess.run(
        [sys.executable, "-c", READER, str(limit)],
        input=json.dumps(names), capture_output=True, text=True, cwd=CHECKOUT, timeout=PATIENCE_SECONDS, check=True,
    )  # fmt: skip

    found = json.loads(answer.stdout)
    assert {"sound", "too-large"} <= {reason for reason, _ in found["rows"].values()}, (
        "files on both sides of the limit are needed"
    )
    peaks = {name: peak for name, (_, peak) in found["rows"].items()}
    worst = max(peaks, key=lambda name: peaks[name])
    assert peaks[worst] < limit + 300_000, f"{worst}: {peaks[worst]}"
    assert found["resident_growth"] < limit + 8_000_000
    assert not answer.stderr


def large_but_honest(folder: Path, limit: int) -> list[Path]:
    """Sound episodes below and above the limit, of the types and orders whose conversion takes the most memory."""
    made = []
    for dtype, order in (("u1", "C"), ("u1", "F"), ("f8", "C"), ("f8", "F"), (">f8", "C"), ("f4", "F"), ("i8", "C"), ("f2", "C")):
        bytes_per_step = 300 * (np.dtype(dtype).itemsize * (2 if order == "F" else 1) + 4)
        for share in (0.5, 0.9, 0.98, 1.5):
            for three_axes in (False, True):
                path = folder / f"large {len(made)}.npz"
                steps = int(share * limit / bytes_per_step)
                path.write_bytes(hostile_files.large_episode(dtype, order, 300, steps, three_axes=three_axes))
                made.append(path)
    return made
