"""A game at 60 FPS whose frames use NumPy, with the learner off, idle and flat out: `python benchmarks/game_frames.py [--quick]`.

One table for the frames, and below it what the learner costs the game's process, and how soon it stands still.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import psutil

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import arrays

from local_training import episode_file
from local_training.game_voice import GameVoice
from local_training.paths import Paths
from local_training.settings import LearnerSettings, LearningSettings, Settings
from tools.background_parallel_learner import BackgroundParallelLearner

FRAME_SECONDS = 1 / 60
OFF, IDLE, FLAT_OUT, SPEAKING = "off", "idle", "flat out", "flat out, the game tells its frames"
WAITING_FILES = 30


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a game notices of the learner.")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast it is")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (4, 2.5)
    print(harness.machine())
    found: dict[str, list[list[float]]] = {kind: [] for kind in (OFF, IDLE, FLAT_OUT, SPEAKING)}
    for _ in range(rounds):
        for kind in found:
            with _learner(kind) as voice:
                found[kind].append(_frames(seconds, voice))
    print(_table(found))
    seconds = 2.0 if options.quick else 5.0
    for kind in (IDLE, FLAT_OUT):
        print(f"learner's threads in the game's process, {kind}: {100 * _thread_share(kind, seconds):.3f} % of a core")
    print(f"import of tools.background_parallel_learner: {harness.spread(_import_milliseconds(rounds))} ms, NumPy apart")
    waits = _standing_still_milliseconds(3 if options.quick else 15)
    print(f'from "busy" to the worker standing still: {harness.spread(waits)} ms')
    return 0


def _frames(seconds: float, voice: GameVoice | None) -> list[float]:
    """Milliseconds of work of each frame; what is late is late, as in a game."""
    rng = np.random.default_rng(0)
    matrix, taken = rng.normal(size=(256, 256)), []
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        begun = time.perf_counter()
        for _ in range(12):
            matrix = np.tanh(matrix @ matrix / 256.0) + 0.1
        worked = time.perf_counter() - begun
        taken.append(1000 * worked)
        if voice is not None:
            voice.frame(worked)
        due += FRAME_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
    return taken


@contextlib.contextmanager
def _learner(kind: str) -> Iterator[GameVoice | None]:
    """A learner as `kind` says, and the game's voice if it speaks."""
    if kind == OFF:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="game frames ") as folder:
        paths = Paths(Path(folder) / "root")
        # Each batch is gone through many times: the worker computes all the time, without much reading in between.
        learning = LearningSettings(epochs=20, kl_limit=1e9)
        settings = Settings(root=paths.root, learner=LearnerSettings(verbose=False), learning=learning)
        with BackgroundParallelLearner(settings=settings) as learner, _episodes(paths, kind):
            what = f"the learner to be {kind}"
            harness.wait_until(lambda: learner.get_stats()["models_trained"] > 0 or kind == IDLE, 60.0, what)
            harness.wait_until(lambda: learner.get_stats()["active_workers"] > 0, 60.0, what)
            voice = GameVoice(paths)
            yield voice if kind == SPEAKING else None
            voice.close()


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
    paths, rng = Paths(root), np.random.default_rng(2)
    harness.wait_until(paths.buffer.is_dir, 60.0, "the buffer")
    number = 0
    while True:
        while len(list(paths.buffer.iterdir())) < WAITING_FILES:
            partial = paths.buffer / f".{number:06d}.npz.part"
            partial.write_bytes(episode_file.pack(arrays(rng, 300, log_probs=True)))
            partial.replace(paths.buffer / f"{number:06d}.npz")
            number += 1
        time.sleep(0.1)


def _table(found: dict[str, list[list[float]]]) -> str:
    """Median of the rounds, with the lowest and highest, of each figure."""
    lines = ["| learner | frame, median ms | frame, p99 ms | frames over 16.7 ms |", "|---|---|---|---|"]
    for kind, rounds in found.items():
        medians = [statistics.median(frames) for frames in rounds]
        p99 = [float(np.percentile(frames, 99)) for frames in rounds]
        late = [100.0 * sum(frame > 1000 * FRAME_SECONDS for frame in frames) / len(frames) for frames in rounds]
        lines.append(f"| {kind} | {harness.spread(medians)} | {harness.spread(p99)} | {harness.spread(late)} % |")
    return "\n".join(lines)


def _thread_share(kind: str, seconds: float) -> float:
    """Processor time of this process's other threads, in shares of a core, while the game sleeps."""
    with _learner(kind):
        game = threading.get_native_id()

        def theirs() -> float:
            return sum(t.user_time + t.system_time for t in psutil.Process().threads() if t.id != game)

        # The kernel counts in hundredths; the clock of this process is finer, and the game does nothing meanwhile.
        begun, process = theirs(), time.process_time()
        time.sleep(seconds)
        return max(theirs() - begun, time.process_time() - process) / seconds


def _import_milliseconds(rounds: int) -> list[float]:
    code = "import time, numpy; t = time.perf_counter(); import tools.background_parallel_learner; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return [
        1000 * float(subprocess.run(command, cwd=harness.CHECKOUT, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]


def _standing_still_milliseconds(rounds: int) -> list[float]:
    """From the word until the worker uses the processor no more, seen by the clock of its processor time."""
    waits = []
    with _learner(SPEAKING) as voice:
        assert voice is not None
        (worker,) = [child for child in psutil.Process().children() if "tools.learner.worker" in child.cmdline()]
        for _ in range(rounds):
            voice.free()
            _wait_working(worker)
            started = time.perf_counter()
            voice.busy()
            waits.append(1000 * (_last_worked(worker, 0.4) - started))
    return [max(wait, 0.0) for wait in waits]


def _wait_working(worker: psutil.Process) -> None:
    before = _nanoseconds(worker)
    harness.wait_until(lambda: _nanoseconds(worker) > before + 50_000_000, 60.0, "the worker to work")


def _last_worked(worker: psutil.Process, seconds: float) -> float:
    """The last moment at which the worker was seen to have worked more than a look at the game takes."""
    last, former, end = time.perf_counter(), _nanoseconds(worker), time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(0.005)
        now = _nanoseconds(worker)
        if now - former > 2_000_000:
            last = time.perf_counter()
        former = now
    return last


def _nanoseconds(worker: psutil.Process) -> int:
    """Processor time of a process; Linux tells it to the nanosecond, others to some milliseconds."""
    schedule = Path(f"/proc/{worker.pid}/schedstat")
    if schedule.exists():
        return sum(int(path.read_text().split()[0]) for path in schedule.parent.glob("task/*/schedstat"))
    times = worker.cpu_times()
    return int(1e9 * (times.user + times.system))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--feed"]:
        _feed(Path(sys.argv[2]))
    sys.exit(main())
