"""What the live terminal monitor costs that looks ten times a second: `python benchmarks/terminal_monitor.py [--quick]`.

Processor time of its process on a pseudo-terminal, after its start; while nothing happens, and while CartPole is learnt.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import CHECKOUT, Row

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

SIZES = ((80, 24), (160, 50))
START_SECONDS = 5.0
LEARNT_GAMES = 300
MONITOR = (str(CHECKOUT / "tools" / "monitor_background_training.py"), "--interval", "0.1")
GAME = (str(CHECKOUT / "run_with_training.py"), "--game", "CartPole-v1", "--seed", "0", "--quiet")


def rows(quick: bool) -> list[Row]:
    """Share of one core, by the size of the terminal; nothing on Windows, which has no pseudo-terminals for this."""
    if sys.platform == "win32":
        return []
    seconds, games = (2.0, 5) if quick else (60.0, LEARNT_GAMES)
    with tempfile.TemporaryDirectory(prefix="terminal monitor ") as text:
        root = Path(text) / "root"
        subprocess.run([sys.executable, *GAME, "--root", str(root), "--games", str(games)], stdout=subprocess.DEVNULL, check=True)
        idle = [_share(root, size, seconds) for size in SIZES]
        with _game(root):
            busy = [_share(root, size, seconds) for size in SIZES]
    cases = (("nothing happens", idle), ("CartPole is learnt flat out", busy))
    return [
        Row(f"live monitor at 10 Hz, {columns}x{lines}, while {what}", "% of a core", [share], [], "none")
        for what, shares in cases
        for (columns, lines), share in zip(SIZES, shares, strict=True)
    ]


@contextmanager
def _game(root: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *GAME, "--root", str(root)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(START_SECONDS)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _share(root: Path, size: tuple[int, int], seconds: float) -> float:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, *MONITOR, "--root", str(root)], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    reader = threading.Thread(target=_read_all, args=(leader,), daemon=True)
    reader.start()
    try:
        time.sleep(START_SECONDS)
        begun, started = harness.processor_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        spent, passed = harness.processor_seconds(process.pid) - begun, time.monotonic() - started
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        reader.join()
        os.close(leader)
    return 100 * spent / passed


def _read_all(leader: int) -> None:
    try:
        while os.read(leader, 65536):
            pass
    except OSError:
        pass  # the monitor has ended


if __name__ == "__main__":
    harness.main(rows, "Measure what the live terminal monitor costs.")
