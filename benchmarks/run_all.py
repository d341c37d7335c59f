"""All benchmarks: one table, then those with tables of their own: `python benchmarks/run_all.py [--quick] [--replays DIR]`."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import harness  # noqa: E402

# Benchmarks that are no rows of ours and a peer's: their flags, and those with --quick.
OTHERS = {
    "vector": ([], ["--seconds", "0.3", "--rounds", "1"]),
    "guard": ([], ["--quick"]),
    "faults": (["--steps", "200000"], ["--faults", "12", "--steps", "2000"]),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every benchmark, one after the other.")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast it is")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*names(), *OTHERS, "replays"], help="only these")
    parser.add_argument("--replays", metavar="DIR", help="a folder of StarCraft II replays, to measure their analysis as well")
    options = parser.parse_args()
    wanted = options.only or [*names(), *OTHERS, *(["replays"] if options.replays else [])]
    if "replays" in wanted and not options.replays:
        parser.error("replays needs --replays DIR")
    print(harness.machine())
    rows: list[harness.Row] = []
    for name in (name for name in names() if name in wanted):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(name).rows(options.quick)
    if rows:
        print(harness.table(rows), flush=True)
    others = {name: flags[options.quick] for name, flags in OTHERS.items()} | {"replays": [options.replays]}
    return max([_run(name, others[name]) for name in wanted if name in others], default=0)


def names() -> list[str]:
    """The modules beside this one that offer rows for the table."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\ndef rows(" in file.read_text("utf-8"))


def _run(name: str, flags: list[str]) -> int:
    print(f"\n{name}", flush=True)
    return subprocess.run([sys.executable, str(HERE / f"{name}.py"), *flags], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
