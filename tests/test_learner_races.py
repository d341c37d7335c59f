"""Producers, a reader, and a learner that is killed again and again: nothing lost, nothing trained twice, no torn model seen.

LEARNER_KILLS sets how many times it is killed; a thousand take about a quarter of an hour.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import episodes
import learner_runs
import psutil
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.learner import replay_log
from background_training.paths import Paths
from background_training.records import episode_fate, ledger_lines, metrics
from background_training.storage import model_store
from background_training.storage.atomic_files import signature

pytestmark = pytest.mark.slow  # real processes

KILLS = int(os.environ.get("LEARNER_KILLS", "16"))
PRODUCERS = 4
_TESTS = str(Path(__file__).parent)

PRODUCER = """
import pathlib, sys, threading
sys.path.insert(0, sys.argv[1])
import episodes
from background_training.episodes import buffer as buffer_folder
from background_training.paths import Paths
paths, seed, stopping = Paths(pathlib.Path(sys.argv[2])), int(sys.argv[3]), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
while not stopping.wait(0.2):
    seed += 1
    make = episodes.arrays if seed % 4 else episodes.full_arrays
    episode = make(seed, steps=1 + seed % 12)
    # The highest action is in every episode. The games declare no number of actions, so the first batch, which is of any
    # size under load, sets it; a first batch without that action once had all later episodes with it rejected.
    episode["actions"][0] = episodes.ACTIONS - 1
    print(buffer_folder.deposit(paths, episode, durable=seed % 2 == 0).name, flush=True)
"""

READER = """
import pathlib, sys, threading
from background_training.storage import model_store
from background_training.errors import ModelError, ModelMissingError
path, stopping = pathlib.Path(sys.argv[1]), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()
reads = torn = backwards = newest = 0
while not stopping.wait(0.005):
    try:
        version = model_store.read(path).version
    except ModelMissingError:
        backwards += newest > 0
        continue
    except ModelError as error:
        torn += 1
        print(error, file=sys.stderr)
        continue
    reads += 1
    backwards += version < newest
    newest = version
print(reads, torn, backwards)
"""

LEARNER = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import learner_runs
learner = learner_runs.learner(pathlib.Path(sys.argv[2]), durability=sys.argv[3], restart_limit=1000, rescan_seconds=0.2)
assert learner.start()
print("started", flush=True)
sys.stdin.read()
learner.stop()
"""


@contextmanager
def _running(code: str, *arguments: str, output: Path) -> Iterator[subprocess.Popen[str]]:
    """A program whose output goes into a file; it ends when its stdin does."""
    command = [sys.executable, "-c", code, *arguments]
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, text=True, env=learner_runs.environment())
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=PATIENCE_SECONDS)


def _kill(process: psutil.Process | subprocess.Popen[str]) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _let_it_come_far(paths: Paths, learner: subprocess.Popen[str], rng: random.Random) -> bool:
    """Wait until there is somebody to kill; now and then until a batch has been committed, and return whether; then for a moment.

    A learner that has ended for a reason of its own is waited for in vain, and fails the test.
    """
    former = signature(paths.model)
    patient = rng.random() < 0.5
    wait_until(lambda: learner_runs.workers_of(learner.pid))
    if patient:
        wait_until(lambda: signature(paths.model) != former)
    time.sleep(rng.uniform(0.0, 0.02 if patient else 0.5))  # the moment is the point of the test: nothing is waited for
    return patient


def _kill_again_and_again(paths: Paths, rng: random.Random, folder: Path) -> tuple[Counter[str], int]:
    """Kill learner, worker, or both at once, each time at a random moment after the start.

    Returns:
        How often each was killed, and how often a commit was waited for before.
    """
    done: Counter[str] = Counter()
    commits = 0
    while sum(done.values()) < KILLS:
        arguments = (_TESTS, str(paths.root), rng.choice(("full", "fast")))
        with _running(LEARNER, *arguments, output=folder / "learner.txt") as learner:
            victim = "worker"
            while victim == "worker" and sum(done.values()) < KILLS:
                commits += _let_it_come_far(paths, learner, rng)
                victim = rng.choice(("learner", "worker", "both"))
                workers = learner_runs.workers_of(learner.pid)
                if victim != "worker":
                    _kill(learner)
                if victim != "learner":
                    for worker in workers:
                        _kill(worker)
                done[victim] += 1
            learner.kill()
    return done, commits


def _not_trained(paths: Paths) -> list[str]:
    """What became of the files that were not trained, with the reasons."""
    lines = ledger_lines.read_lines(paths.ledger)
    return [episode_fate.sentence(fate) for fate in episode_fate.fates_of(paths, lines, None) if fate["fate"] != "trained"]


def test_killed_again_and_again_under_load(paths: Paths, tmp_path: Path) -> None:
    """Each episode that four games deposited is trained exactly once, each version seen was whole, and the past can be redone."""
    rng = random.Random(os.environ.get("LEARNER_KILLS_SEED", "1"))
    outputs = [tmp_path / f"producer_{number}.txt" for number in range(PRODUCERS)]
    with ExitStack() as stack:
        stack.enter_context(_running(READER, str(paths.model), output=tmp_path / "reader.txt"))
        for number, output in enumerate(outputs):
            stack.enter_context(_running(PRODUCER, _TESTS, str(paths.root), str(1_000_000 * number), output=output))
        kills, commits = _kill_again_and_again(paths, rng, tmp_path)
    deposited = [name for output in outputs for name in output.read_text().split()]
    reads, torn, backwards = map(int, (tmp_path / "reader.txt").read_text().split())
    committed_under_fire = model_store.read(paths.model).version
    done = learner_runs.drain(paths.root)

    counted = Counter(name for name, _ in learner_runs.trained(paths))
    lost, twice = set(deposited) - set(counted), [name for name, times in counted.items() if times > 1]
    print(f"{sum(kills.values())} kills {dict(kills)}, {len(deposited)} episodes, version {done['model_version']}, {reads} reads")
    assert not lost and not twice and set(counted) == set(deposited), (sorted(lost)[:3], twice[:3], _not_trained(paths))
    assert (torn, backwards) == (0, 0) and reads > 0
    found = episodes.fates(paths)
    assert found["buffer"] == [] and sorted(deposited) == found["trained"]
    assert found["stale"] == found["duplicate"] == found["rejected"] == []
    *_, rebuilt = replay_log.replay(paths, ledger_lines.groups(ledger_lines.read_lines(paths.ledger)), None)
    assert rebuilt.data == paths.model.read_bytes()
    recorded, trained = metrics.read(paths), [version for _, version in learner_runs.trained(paths)]
    assert recorded.games["version"].tolist() == trained and recorded.batches["version"].tolist() == sorted(set(trained))
    assert model_store.read(paths.model).version == max(version for _, version in learner_runs.trained(paths))
    assert committed_under_fire >= commits >= KILLS // 4, "otherwise the learner was hardly ever killed at work"


def test_learners_that_start_at_once_are_one(paths: Paths) -> None:
    """Of several drains at the same moment one works, or they work one after the other; each episode is trained once."""
    for seed in range(20):
        episodes.write(paths.buffer, f"game_{seed:02d}.npz", seed=seed)
    drains = [learner_runs.started_command(paths.root, "--drain", "--quiet") for _ in range(4)]
    codes = []
    for drain in drains:
        with drain:
            codes.append(drain.wait(timeout=PATIENCE_SECONDS))

    assert set(codes) <= {0, 3} and 0 in codes
    assert [name for name, _ in learner_runs.trained(paths)] == [f"game_{seed:02d}.npz" for seed in range(20)]


def test_what_a_killed_producer_left_half_written_is_swept(paths: Paths) -> None:
    """A partial file goes when its writer is provably gone, and stays while the writer lives."""
    code = "import sys, pathlib, os\nfrom background_training.storage import atomic_files\n"
    code += "path = pathlib.Path(sys.argv[1])\nfile = open(path, 'wb')\nfile.write(b'half')\nfile.flush()\n"
    code += "atomic_files.mark_as_being_written(file.fileno())\nprint('writing', flush=True)\nsys.stdin.read()\n"
    partial = paths.buffer / ".game_20260125_143205_Victory_0123abcd.npz.part"
    with learner_runs.started_script(code, str(partial)) as producer:
        assert producer.stdout is not None and producer.stdout.readline() == "writing\n"
        learner_runs.drain(paths.root)
        beside_a_living_writer = partial.exists()
        producer.kill()
    learner_runs.drain(paths.root)

    assert beside_a_living_writer
    assert not partial.exists()
    wait_until(lambda: producer.poll() is not None)
