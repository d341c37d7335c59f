"""What every benchmark shares: rounds that take turns, medians with their spread, and the table they are shown in.

A benchmark is a module beside this one with a function `rows(quick: bool) -> list[Row]`; run_all.py finds it by that.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from background_training.ipc import process_limits  # noqa: E402

# Here and in the peers: one thread each, as in the worker. Heard only because nothing has loaded NumPy yet.
process_limits.limit_blas_threads()

Measure = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    what: what was measured, in words.
    unit: of all figures, e.g. "ms" or "files/s".
    ours: one figure per round.
    peer: likewise, in the same rounds; empty if there is none, and `peer_name` then says why.
    peer_name: what we are compared with.
    """

    what: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = field(default_factory=list)
    peer_name: str = ""


def take_turns(rounds: int, *measures: Measure) -> list[list[float]]:
    """Measure each in turn, round after round: what else the machine does then falls on all of them alike."""
    figures: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, found in zip(measures, figures, strict=True):
            found.append(measure())
    return figures


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def wait_until(condition: Callable[[], object], timeout_seconds: float, what: str) -> None:
    """Look every 0.2 ms.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.perf_counter() + timeout_seconds
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s")
        time.sleep(0.0002)


def processor_seconds(pid: int) -> float:
    """Processor time of a process; Linux tells it to the nanosecond, others to some milliseconds."""
    tasks = Path(f"/proc/{pid}/task")
    if tasks.is_dir():
        return sum(int(path.read_text().split()[0]) for path in tasks.glob("*/schedstat")) / 1e9
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@dataclass
class LearningClock:
    """Seconds that went into learning, the arithmetic alone."""

    seconds: float = 0.0


@contextmanager
def learning_clock() -> Iterator[LearningClock]:
    """Measure how long the updates take that this process makes meanwhile."""
    from background_training.algo import train_step

    clock, learn = LearningClock(), train_step.learn

    def timed(*arguments: object) -> object:
        started = time.perf_counter()
        try:
            return learn(*arguments)
        finally:
            clock.seconds += time.perf_counter() - started

    train_step.learn = timed
    try:
        yield clock
    finally:
        train_step.learn = learn


def spread(figures: Sequence[float]) -> str:
    """Median and range: "12.3 (11.9 - 14.0)"."""
    if not figures:
        return "-"
    return f"{statistics.median(figures):.4g} ({min(figures):.4g} - {max(figures):.4g})"


def ratio(row: Row) -> str:
    """Ours over the peer's, the median of the rounds' own ratios, which a busy machine disturbs less than figures."""
    if not row.peer or not all(row.peer):
        return "-"
    return f"{statistics.median(ours / peer for ours, peer in zip(row.ours, row.peer, strict=True)):.2f}"


def table(rows: Iterable[Row]) -> str:
    """All rows as a Markdown table: median (lowest - highest) of each side."""
    cells = [("what", "ours", "peer", "ours / peer")]
    for row in rows:
        peer = f"{spread(row.peer)} {row.peer_name}" if row.peer else row.peer_name or "-"
        cells.append((f"{row.what}, {row.unit}", spread(row.ours), peer, ratio(row)))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> str:
    """What was measured on, for the line above the table."""
    import numpy

    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, NumPy {numpy.__version__}{load}"


def main(rows: Callable[[bool], list[Row]], description: str) -> None:
    """The command of one benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast it is")
    options = parser.parse_args()
    print(machine())
    print(table(rows(options.quick)))
