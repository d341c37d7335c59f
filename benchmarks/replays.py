"""How fast replays are read, and how much memory a worker holds: `python benchmarks/replays.py DIR [--files 500]`.

Prints replays a second of one worker process, its memory after that many files, the time of a second run, and the time a
summary of many results takes. Needs a folder of replays; files are read again and again until the number is reached.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from background_training.paths import Paths  # noqa: E402
from background_training.settings import ReplaySettings  # noqa: E402
from background_training.starcraft.replays import replay_archive, summary  # noqa: E402
from background_training.starcraft.replays.replay_archive import ReplayArchive  # noqa: E402
from background_training.starcraft.replays.results_store import find_replays  # noqa: E402
from background_training.starcraft.replays.worker_pool import WorkerPool  # noqa: E402

MANY_RESULTS = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure replay analysis.")
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--files", type=int, default=500, help="files one worker reads (default: 500)")
    options = parser.parse_args()
    paths = list(find_replays(options.folder))
    print(f"{len(paths)} replays in {options.folder}")
    measure_worker(paths, options.files)
    with tempfile.TemporaryDirectory() as root:
        measure_runs(options.folder, root)
        measure_summary(options.folder, root)


def measure_worker(paths: list[str], files: int) -> None:
    """One worker, nothing kept: what reading costs, and what stays in memory."""
    repeated = list(itertools.islice(itertools.cycle(paths), files))
    largest = 0
    with WorkerPool(ReplaySettings(workers=1)) as pool:
        answers = pool.read(repeated)
        next(answers)  # the start of the process is not the reading
        started, cpu_started = time.perf_counter(), cpu_seconds(pool)
        replaced = pool.workers_replaced
        for _ in answers:
            for process_id in pool.process_ids:
                largest = max(largest, memory_bytes(process_id))
        wall = time.perf_counter() - started
        cpu = cpu_seconds(pool) - cpu_started if pool.workers_replaced == replaced else float("nan")
        last = max((memory_bytes(process_id) for process_id in pool.process_ids), default=0)
        print(f"one worker: {(files - 1) / wall:.1f} replays/s by the clock, {(files - 1) / cpu:.1f} per CPU second")
        print(f"memory between files: {largest / 1e6:.0f} MB at most, {last / 1e6:.0f} MB after {files}")
        print(f"workers replaced because they had grown: {pool.workers_replaced}")


def cpu_seconds(pool: WorkerPool) -> float:
    times = psutil.Process(pool.process_ids[0]).cpu_times()
    return float(times.user + times.system)


def memory_bytes(process_id: int) -> int:
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def measure_runs(folder: str, root: str) -> None:
    """A first and a second run over the folder."""
    for name in ("first run", "second run"):
        started = time.perf_counter()
        counts = replay_archive.analyse_some(root, folder, ReplaySettings(), 1_000_000)
        print(f"{name}: {time.perf_counter() - started:.2f} s, {counts['read']} replays read")


def measure_summary(folder: str, root: str) -> None:
    """The summary of as many results as a large archive has, made of those of the folder under other hashes."""
    archive = ReplayArchive(Paths(Path(root)), ReplaySettings(), folder)
    results = [
        {**result, "sha256": f"{number}", "identity": f"{number}"}
        for number, result in zip(range(MANY_RESULTS), itertools.cycle(archive.results.values()), strict=False)
    ]
    started = time.perf_counter()
    size = len(summary.to_bytes(summary.summarise(results, {}, {})))  # type: ignore[arg-type]
    print(f"summary of {MANY_RESULTS} results: {time.perf_counter() - started:.2f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
