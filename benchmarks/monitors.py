"""What monitors cost the learner that they watch, ten at once and a hundred killed: `python benchmarks/monitors.py [--quick]`.

The peer is the same drain with nobody looking. Half of the monitors run in terminals of their own, half serve the page (all in
terminals where NiceGUI is missing). With Playwright and Chromium (extra test) there is a further comparison, in which a browser
of low priority has all these pages open. After each drain, files and processes must be those of a drain that nobody watched,
model and ledger to the byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import psutil
from harness import CHECKOUT, Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import arrays

from background_training.episodes import episode_file
from background_training.paths import Paths

STEPS = 100
TOOLS = CHECKOUT / "tools"
SIZE = 24, 80
SCREEN_BYTES = 400
"""A terminal that has been sent more than this shows a monitor's first screen, or most of it."""
LONGEST_LIFE_SECONDS = 1.2
"""A monitor is killed at any moment up to here: while it starts, looks, or rests."""
BROWSER = """
import sys
sys.path.insert(0, sys.argv[1])
from background_training.ipc import process_limits as quiet_process
quiet_process.lower_priority()
from playwright.sync_api import sync_playwright
with sync_playwright() as running:
    browser = running.chromium.launch(executable_path=sys.argv[2], args=["--no-sandbox", "--disable-gpu"])
    for address in sys.argv[3:]:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_selector(".bt-tile")
    print(flush=True)
    sys.stdin.read()
    browser.close()
"""
"""Opens pages, and keeps them open until its stdin ends. At low priority, as drawing is not the monitor's doing."""
Figures = tuple[float, float]
"""Files a second, and milliseconds of the processor a file."""
Content = tuple[frozenset[str], tuple[str, ...]]


def rows(quick: bool) -> list[Row]:
    """Files a second of a drain beside ten monitors, and while others come and are killed."""
    files, rounds, at_once, kills = (60, 1, 2, 4) if quick else (1000, 3, 10, 100)
    with tempfile.TemporaryDirectory(prefix="monitors ") as text:
        scene = Scene(Path(text))
        scene.write_episodes(files)
        ways = {
            f"beside {at_once} monitors": lambda: scene.beside(at_once, in_browser=False),
            f"while {kills} monitors are started and killed": lambda: scene.while_killing(kills),
        }
        if scene.pages_can_be_served and scene.browser_path:
            ways[f"beside {at_once} monitors, all pages open in a browser"] = lambda: scene.beside(at_once, in_browser=True)
        alone, *watched = harness.take_turns(rounds, scene.alone, *ways.values())
    return [
        Row(
            f"--drain of {files} files {what}, {measure}",
            unit,
            _picked(figures, place),
            _picked(alone, place),
            "with nobody looking",
        )
        for place, (measure, unit) in enumerate((("speed", "files/s"), ("processor time of the learner", "ms/file")))
        for what, figures in zip(ways, watched, strict=True)
        if all(_picked(alone, place))
    ]


def _picked(figures: Sequence[Figures], place: int) -> list[float]:
    return [figure[place] for figure in figures]


class Scene:
    """One folder in which the same files are drained again and again, and whoever looks on."""

    def __init__(self, folder: Path) -> None:
        self._source, self._root = folder / "source", folder / "root"
        # Where a monitor could leave something behind, were it to write at all.
        self._elsewhere = folder / "elsewhere"
        self._elsewhere.mkdir()
        self._files = 0
        self._wanted: Content | None = None
        self._chance = random.Random(0)
        self.pages_can_be_served = importlib.util.find_spec("nicegui") is not None
        self.browser_path = _browser_path()

    def write_episodes(self, count: int) -> None:
        self._source.mkdir()
        self._files = count
        rng = np.random.default_rng(3)
        for number in range(count):
            (self._source / f"game_{number:05d}.npz").write_bytes(episode_file.pack(arrays(rng, STEPS, log_probs=False)))

    def alone(self) -> Figures:
        """With nobody looking."""
        self._fill()
        return self._drained()

    def beside(self, count: int, *, in_browser: bool) -> Figures:
        """With `count` monitors that have come to rest, their pages in a browser or not."""
        self._fill()
        with contextlib.ExitStack() as stack:
            monitors = [stack.enter_context(self._monitor(self.pages_can_be_served and place % 2 == 1)) for place in range(count)]
            for monitor in monitors:
                monitor.first_words()
            if in_browser:
                stack.enter_context(self._in_browser([monitor for monitor in monitors if monitor.is_page]))
            speed = self._drained()
            assert all(monitor.process.poll() is None for monitor in monitors), "a monitor has ended by itself"
        self._check_nothing_is_left()
        return speed

    def while_killing(self, kills: int) -> Figures:
        """The mean of as many drains as it takes to start and kill so many monitors, one after the other."""
        self._fill()
        killer = threading.Thread(target=self._start_and_kill, args=(kills,))
        killer.start()
        speeds = []
        while killer.is_alive():
            speeds.append(self._drained())
            self._fill()
        self._check_nothing_is_left()
        # When the last one ended, there was nobody left to kill.
        speed, used = np.mean(speeds[:-1] or speeds, axis=0)
        return float(speed), float(used)

    def _start_and_kill(self, kills: int) -> None:
        for number in range(kills):
            with self._monitor(self.pages_can_be_served and number % 2 == 1):
                time.sleep(self._chance.uniform(0.0, LONGEST_LIFE_SECONDS))

    def _fill(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.copytree(self._source, Paths(self._root).buffer)

    def _drained(self) -> Figures:
        """Drain once, and see that it has left what it ought to."""
        command = [sys.executable, str(TOOLS / "background_parallel_learner.py"), "--drain", "--quiet", "--max-file-age", "0"]
        begun = time.perf_counter()
        process = subprocess.Popen([*command, "--root", str(self._root)])
        used = _processor_seconds_until_end(process)
        seconds = time.perf_counter() - begun
        assert process.returncode == 0, f"the drain failed: {process.returncode}"
        found = _content(self._root)
        self._wanted = self._wanted or found
        assert found == self._wanted, f"the drain left other files: {found[0] ^ self._wanted[0] or 'model or ledger'}"
        return self._files / seconds, 1e3 * used / self._files

    @contextlib.contextmanager
    def _monitor(self, is_page: bool) -> Iterator[Monitor]:
        monitor = Monitor(self._root, self._elsewhere, is_page=is_page)
        try:
            yield monitor
        finally:
            monitor.kill()

    @contextlib.contextmanager
    def _in_browser(self, pages: list[Monitor]) -> Iterator[None]:
        assert self.browser_path is not None
        command = [sys.executable, "-c", BROWSER, str(CHECKOUT), self.browser_path, *(page.address for page in pages)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as browser:
            assert browser.stdout is not None and browser.stdout.readline(), "the browser has not opened the pages"
            yield

    def _check_nothing_is_left(self) -> None:
        """No process that knows the root, and no file where temporary ones would lie."""
        knowing = [found for found in psutil.process_iter(["pid", "cmdline"]) if str(self._root) in (found.info["cmdline"] or [])]
        assert not knowing, f"still there: {knowing}"
        left = list(self._elsewhere.rglob("*"))
        assert not left, f"left behind: {left}"


class Monitor:
    """A monitor at work: in a terminal of its own, where there are such, or as the page's server."""

    def __init__(self, root: Path, elsewhere: Path, *, is_page: bool) -> None:
        self.is_page = is_page
        self._terminal: int | None = None
        command = [sys.executable, str(TOOLS / "monitor_background_training.py"), "--root", str(root)]
        kinds: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if is_page:
            command += ["--web", "--port", "0"]
        elif sys.platform != "win32":
            import fcntl
            import termios

            self._terminal, inside = os.openpty()
            fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
            kinds = {"stdin": inside, "stdout": inside, "stderr": inside, "start_new_session": True}
        environment = {**os.environ, "TMPDIR": str(elsewhere), "TEMP": str(elsewhere), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, cwd=elsewhere, env=environment, **kinds)
        self._said = b""
        self._has_spoken = threading.Event()
        if self._terminal is not None:
            os.close(inside)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def first_words(self) -> str:
        """Wait until it shows something, and return it."""
        assert self._has_spoken.wait(60.0) and self.process.poll() is None, f"a monitor has not started: {self._said!r}"
        return self._said.decode("utf-8", "replace")

    @property
    def address(self) -> str:
        return next(word for word in self.first_words().split() if word.startswith("http"))

    def kill(self) -> None:
        """Kill it without a warning, and make sure that it is gone."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self._terminal is not None:
            os.close(self._terminal)
        elif self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        """Read all that it says, as a terminal does; what a full pipe would hold up is no monitor any more."""
        source = self._terminal if self._terminal is not None else self.process.stdout.fileno()  # type: ignore[union-attr]
        with contextlib.suppress(OSError):  # a terminal whose only user is gone
            while words := os.read(source, 65536):
                if not self._has_spoken.is_set():
                    self._said += words
                    if len(self._said) > SCREEN_BYTES or (self.is_page and b"\n" in words):
                        self._has_spoken.set()


def _processor_seconds_until_end(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; what it and its children have used, as far as the system tells (0 on Windows)."""
    if not hasattr(os, "wait4"):
        process.wait()
        return 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _content(root: Path) -> Content:
    """The names of all files and folders, and what model and ledger hold."""
    paths = Paths(root)
    names = frozenset(str(path.relative_to(root)) for path in root.rglob("*"))
    return names, tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in (paths.model, paths.ledger))


def _browser_path() -> str | None:
    """Where Chromium is, if it and Playwright are there."""
    if importlib.util.find_spec("playwright") is None:
        return None
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


if __name__ == "__main__":
    harness.main(rows, "Measure what monitors cost the learner.")
