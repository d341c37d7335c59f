"""What a game at 60 FPS notices of the learner: `python benchmarks/game_frames.py [--quick]`.

Three kinds of game, each with the learner off, idle, flat out, and as a thread of the game's own process, as the predecessor
had it. A frame's time is that of its work; it is lost when it is not done before the next one is due. It is kept waiting while
somebody else has its processor, or its interpreter: that is what a learner can do to it, whereas how fast a processor works is
the machine's affair, on a virtual one at least. Further: what the learner costs the game's process, and how soon it stands still.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import psutil
from harness import Row

from background_training.spaces import Discrete

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import ACTION_COUNT, STATE_WIDTH, Copies, arrays

from background_training import BackgroundParallelLearner
from background_training.algo import train_step
from background_training.episodes import episode
from background_training.ipc.load_hints import LoadHints
from background_training.paths import Paths
from background_training.settings import LearnerSettings, LearningSettings, Settings

FRAME_SECONDS = 1 / 60
OFF, IDLE, FLAT_OUT, SPEAKING, THREAD = "no learner", "idle", "flat out", "flat out, the game tells its frames", "in a thread"
WAITING_FILES = 30
STEPS = 300
LONG_WAIT_MILLISECONDS = 1.0
Work = Callable[[], None]
Frames = list[tuple[float, float]]


def rows(quick: bool) -> list[Row]:
    """Frames of every game and learner, then the cost in the game's process."""
    rounds, seconds = (1, 0.5) if quick else (3, 2.0)
    games = _games()
    found: dict[tuple[str, str], list[Frames]] = {(game, kind): [] for game in games for kind in _KINDS}
    for _ in range(rounds):
        for kind in _KINDS:
            with _KINDS[kind](kind) as voice:
                for name, work in games.items():
                    found[name, kind].append(_frames(work, seconds, voice))
    table = [row for game in games for kind in _KINDS for row in _rows_of(game, kind, found)]
    return table + _costs(quick)


def _rows_of(game: str, kind: str, found: dict[tuple[str, str], list[Frames]]) -> Iterator[Row]:
    if kind == OFF:
        return

    def slowest(frames: Frames) -> float:
        return float(np.percentile([taken for taken, _ in frames], 99))

    def lost(frames: Frames) -> float:
        return 100.0 * sum(taken > 1000 * FRAME_SECONDS for taken, _ in frames) / len(frames)

    def waiting(frames: Frames) -> float:
        return 100.0 * sum(waited > LONG_WAIT_MILLISECONDS for _, waited in frames) / len(frames)

    long_wait = f"kept waiting for more than {LONG_WAIT_MILLISECONDS:g} ms"
    for what, unit, figure in (("p99", "ms", slowest), ("lost", "%", lost), (long_wait, "%", waiting)):
        ours, peer = ([figure(frames) for frames in found[game, which]] for which in (kind, OFF))
        yield Row(f"frames of {game}, learner {kind}, {what}", unit, ours, peer, OFF)


def _games() -> dict[str, Work]:
    """What a frame of each game does; the amount is measured once, so that it takes as long on any machine."""
    matrix = np.random.default_rng(0).normal(size=(256, 256))

    def product() -> None:
        np.tanh(matrix @ matrix / 256.0)

    def units() -> None:
        sum(math.sin(number) * number for number in range(500))

    return {
        "a NumPy game": _worth(product, 0.008),
        "a game in pure Python": _worth(units, 0.008),
        "a game that takes 90 % of a core": _worth(units, 0.9 * FRAME_SECONDS),
    }


def _worth(piece: Work, seconds: float) -> Work:
    """As many pieces as take so long on a machine that does nothing else."""
    repeats = max(1, round(seconds / min(harness.seconds_of(piece) for _ in range(200))))

    def work() -> None:
        for _ in range(repeats):
            piece()

    return work


def _frames(work: Work, seconds: float, voice: LoadHints | None) -> Frames:
    """Milliseconds of work of each frame, and how many of them it was kept waiting; what is late is late, as in a game."""
    frames = []
    begun = due = time.perf_counter()
    end = due + seconds
    while begun < end:
        used = time.thread_time()
        work()
        worked, used = time.perf_counter() - begun, time.thread_time() - used
        frames.append((1000 * worked, 1000 * (worked - used)))
        if voice is not None:
            voice.frame(worked)
        due += FRAME_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
        begun = time.perf_counter()
    return frames


@contextlib.contextmanager
def _nobody(kind: str) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def _learner(kind: str) -> Iterator[LoadHints | None]:
    """A learner as `kind` says, and the game's voice if it speaks."""
    with tempfile.TemporaryDirectory(prefix="game frames ") as folder:
        paths = Paths(Path(folder) / "root")
        settings = Settings(root=paths.root, learner=LearnerSettings(verbose=False), learning=_much_work())
        learner = BackgroundParallelLearner(settings=settings)
        learner.start()
        try:
            with _episodes(paths, kind):
                what = f"the learner to be {kind}"
                harness.wait_until(lambda: learner.get_stats()["models_trained"] > 0 or kind == IDLE, 60.0, what)
                harness.wait_until(lambda: learner.get_stats()["active_workers"] > 0, 60.0, what)
                voice = LoadHints(paths)
                yield voice if kind == SPEAKING else None
                voice.close()
        finally:
            learner.stop()  # and not at the end of a with block, which would train on the files that wait


@contextlib.contextmanager
def _thread(kind: str) -> Iterator[None]:
    """The same updates, flat out, in a thread of this process."""
    over, rng, settings = threading.Event(), np.random.default_rng(3), _much_work()
    games = [episode.from_arrays(arrays(rng, STEPS, log_probs=True) | {"meta": None}) for _ in range(10)]

    def learn() -> None:
        state, version = train_step.new_state(STATE_WIDTH, Discrete(ACTION_COUNT), settings), 0
        while not over.is_set():
            version += 1
            state, _ = train_step.learn(state, games[:1], settings, version, games[1:])

    thread = threading.Thread(target=learn)
    thread.start()
    try:
        yield None
    finally:
        over.set()
        thread.join()


_KINDS = {OFF: _nobody, IDLE: _learner, FLAT_OUT: _learner, SPEAKING: _learner, THREAD: _thread}


def _much_work() -> LearningSettings:
    """Each batch is gone through many times: the worker computes all the time, without much reading in between."""
    return LearningSettings(n_epochs=20, target_kl=1e9)


@contextlib.contextmanager
def _episodes(paths: Paths, kind: str) -> Iterator[None]:
    """Episodes without end for a learner that is to be busy, from a process of its own, which mostly sleeps."""
    if kind == IDLE:
        yield
        return
    with subprocess.Popen([sys.executable, __file__, "--feed", str(paths.root)], stdin=subprocess.PIPE) as feeder:
        try:
            yield
        finally:
            feeder.kill()


def _feed(root: Path) -> None:
    """Keep some files waiting: a few milliseconds of work a second, as the worker takes long for each."""
    paths, copies = Paths(root), Copies(STEPS)
    harness.wait_until(paths.buffer.is_dir, 60.0, "the buffer")
    number = 0
    while True:
        while len(list(paths.buffer.iterdir())) < WAITING_FILES:
            copies.drop(paths.buffer, number)
            number += 1
        time.sleep(0.1)


def _costs(quick: bool) -> list[Row]:
    """What the learner's side in the game's process takes, and how long the game's word takes to be heeded."""
    seconds = 1.0 if quick else 4.0
    table = []
    for kind in (IDLE, FLAT_OUT):
        with _learner(kind):
            shares = [100 * _thread_share(seconds / 2) for _ in range(2)]
        table.append(Row(f"learner's threads in the game's process, {kind}", "% of a core", shares))
    milliseconds = [_import_milliseconds("background_training.commands.learn") for _ in range(2 if quick else 4)]
    table.append(Row("import of the learner into a game that has NumPy", "ms", milliseconds))
    waits = _standing_still_milliseconds(2 if quick else 10)
    table.append(Row('from "busy" to the worker standing still', "ms", waits))
    return table


def _thread_share(seconds: float) -> float:
    """Processor time of this process's other threads, in shares of a core, while the game sleeps."""
    game = threading.get_native_id()

    def theirs() -> float:
        return sum(thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id != game)

    # The kernel counts in hundredths; the clock of this process is finer, and the game does nothing meanwhile.
    begun, process = theirs(), time.process_time()
    time.sleep(seconds)
    return max(theirs() - begun, time.process_time() - process) / seconds


def _import_milliseconds(module: str) -> float:
    code = f"import time, numpy; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return 1000 * float(subprocess.run(command, cwd=harness.CHECKOUT, capture_output=True, text=True, check=True).stdout)


def _standing_still_milliseconds(rounds: int) -> list[float]:
    """From the word until the worker uses the processor no more, seen by the clock of its processor time."""
    waits = []
    with _learner(SPEAKING) as voice:
        assert voice is not None
        (worker,) = [child for child in psutil.Process().children() if "background_training.learner.worker" in child.cmdline()]
        for _ in range(rounds):
            voice.free()
            before = harness.processor_seconds(worker.pid)
            harness.wait_until(lambda: harness.processor_seconds(worker.pid) > before + 0.05, 60.0, "the worker to work")  # noqa: B023
            started = time.perf_counter()
            voice.busy()
            waits.append(1000 * (_last_worked(worker.pid, 0.4) - started))
    return [max(wait, 0.0) for wait in waits]


def _last_worked(worker: int, seconds: float) -> float:
    """The last moment at which the worker was seen to have worked more than a look at the game takes."""
    last, former, end = time.perf_counter(), harness.processor_seconds(worker), time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(0.005)
        now = harness.processor_seconds(worker)
        if now - former > 0.002:
            last = time.perf_counter()
        former = now
    return last


if __name__ == "__main__":
    if sys.argv[1:2] == ["--feed"]:
        _feed(Path(sys.argv[2]))
    harness.main(rows, "Measure what a game notices of the learner.")
