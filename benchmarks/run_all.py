"""All benchmarks in one table: `python benchmarks/run_all.py [--quick] [--only NAME ...]`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

import harness  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every benchmark that needs nothing but this checkout, and print one table.")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast it is")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names(), help="of " + ", ".join(names()))
    options = parser.parse_args()
    print(harness.machine())
    rows: list[harness.Row] = []
    for name in options.only or names():
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(name).rows(options.quick)
    print(harness.table(rows))


def names() -> list[str]:
    """The modules beside this one that offer rows."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\ndef rows(" in file.read_text("utf-8"))


if __name__ == "__main__":
    main()
