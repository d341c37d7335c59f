"""What a learner costs that has nothing to do: `python benchmarks/idle_cost.py [--quick]`.

The peer is a bare Python process that has imported NumPy and looks into a folder every five seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import psutil
from harness import Row

from background_training import BackgroundParallelLearner
from background_training.settings import LearnerSettings, Settings

PEER = "import numpy, os, sys, time\nprint(flush=True)\nwhile True: os.listdir(sys.argv[1]); time.sleep(5)"


def rows(quick: bool) -> list[Row]:
    """Processor time and memory of the idle worker."""
    seconds, rounds = (2.0, 1) if quick else (10.0, 2)
    with tempfile.TemporaryDirectory(prefix="idle ") as folder:
        settings = Settings(root=Path(folder) / "root", learner=LearnerSettings(verbose=False))
        with BackgroundParallelLearner(settings=settings) as learner, _peer(folder) as peer:
            assert peer.stdout is not None
            peer.stdout.readline()
            harness.wait_until(lambda: learner.get_stats()["active_workers"], 60.0, "the worker")
            time.sleep(0.5 if quick else 3.0)  # what a start still does is not idleness
            try:
                processes = [_worker(), psutil.Process(peer.pid)]
                figures = [_figures(processes, seconds) for _ in range(rounds)]
            finally:
                peer.kill()
    whats = (("idle worker, processor time", "% of a core"), ("idle worker, memory of its own", "MB"))
    name = "a Python process with NumPy that lists a folder every 5 s"
    return [
        Row(what, unit, [round_[0][place] for round_ in figures], [round_[1][place] for round_ in figures], name)
        for place, (what, unit) in enumerate(whats)
    ]


def _peer(folder: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PEER, folder], stdout=subprocess.PIPE)


def _worker() -> psutil.Process:
    (worker,) = [child for child in psutil.Process().children() if "background_training.learner.worker" in child.cmdline()]
    return worker


def _figures(processes: list[psutil.Process], seconds: float) -> list[tuple[float, float]]:
    begun = [harness.processor_seconds(process.pid) for process in processes]
    time.sleep(seconds)
    ended = [harness.processor_seconds(process.pid) for process in processes]
    shares = [100 * (last - first) / seconds for first, last in zip(begun, ended, strict=True)]
    return [(share, process.memory_full_info().uss / 1e6) for share, process in zip(shares, processes, strict=True)]


if __name__ == "__main__":
    harness.main(rows, "Measure what an idle learner costs.")
