"""Seconds and peak memory of a start that opens a long ledger, with and without the guard.

    python benchmarks/ledger_start.py [--lines 200000 1000000]

Writes a ledger of that many lines (batches of ten trained episodes) into a temporary folder and opens it in a process of its
own: the first time (no index, no checkpoint yet), then three times more, of which the fastest is shown. The memory is the
peak of the process above that of one that only imports the modules.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

OPEN = """
import resource, sys, time
from pathlib import Path
from background_training.settings import Settings
from background_training.learner import regression_guard as guards
from background_training.records.ledger import Ledger
guard = sys.argv[2] == "with"
guards.RegressionGuard._keep_best = lambda self: None  # in a real root the copy of the best version is there
settings = Settings(root=Path(sys.argv[1])).with_values("benchmark", guard={"enabled": guard})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
ledger = Ledger(settings.paths.ledger, durable=False, remember_newest=20, index=settings.paths.ledger_index)
guards.RegressionGuard(settings.paths, settings, ledger)
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def write_ledger(path: Path, lines: int) -> None:
    """Returns that rise and wander, batches of ten, each episode played by the version before."""
    rng = random.Random(0)
    with open(path, "w", encoding="ascii") as file:
        for number in range(lines):
            seq = number // 10 + 1
            line = {"seq": seq, "sha256": f"{rng.getrandbits(256):064x}", "name": f"game_{number:09d}.npz", "fate": "trained"}
            line |= {"steps": 500, "return": round(200 + rng.gauss(0, 30), 6), "policy_version": seq - 1}
            file.write(json.dumps(line | ({"recent": 0} if number % 10 == 0 else {})) + "\n")


def opened(root: Path, guard: str) -> tuple[float, float]:
    """(seconds, MiB) of one start in a process of its own."""
    command = [sys.executable, "-c", OPEN, str(root), guard]
    folder = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    seconds, mebibytes = map(float, done.stdout.split())
    return seconds, mebibytes


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure starts with a long ledger.")
    parser.add_argument("--lines", type=int, nargs="+", default=[200_000, 1_000_000])
    options = parser.parse_args()
    print("| lines | guard | first start | later start | peak memory, later |\n|---|---|---|---|---|")
    for lines in options.lines:
        for guard in ("without", "with"):
            with tempfile.TemporaryDirectory(prefix="ledger start ") as text:
                root = Path(text)
                for folder in ("data", "models/history", "logs"):
                    (root / folder).mkdir(parents=True)
                write_ledger(root / "data" / "ledger.jsonl", lines)
                first = opened(root, guard)
                later = min(opened(root, guard) for _ in range(3))
                print(f"| {lines:,} | {guard} | {first[0]:.2f} s, {first[1]:.0f} MiB | {later[0]:.2f} s | {later[1]:.0f} MiB |")


if __name__ == "__main__":
    main()
