"""Make the pictures of README and docs/how-to/watch.md from a real run: `python docs/make_screenshots.py [--root DIR]`.

Needs Chromium and the extras games, monitor, web and test; runs on Linux and macOS. --root: a run of run_with_training.py that is
there already.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES = CHECKOUT / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
GAME = "CartPole-v1"
TERMINAL = (100, 36)
TERMINAL_SECONDS = 40.0
COLOUR_NAMES = ("red", "green", "blue", "magenta", "cyan")
FIRST_SCREEN, FIRST_SCREEN_SECONDS = (80, 24), 30.0
COLOURS = 96
"""A picture of a page has few; kept like this it takes a third of the bytes."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@dataclass(frozen=True)
class Shot:
    """A picture of the monitor's page: its size in the page's own pixels, and how many of the picture's each of them is."""

    name: str
    width: int
    height: int
    scheme: str
    scale: int


SHOTS = (Shot("monitor_page.png", 1280, 1412, "light", 1), Shot("monitor_phone.png", 360, 1142, "dark", 2))


def chromium() -> str:
    """Where the browser is."""
    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"one of {', '.join(CHROMIUM)} is needed")
    return browser


def screenshot(address: str, picture: Path, width: int, height: int) -> None:
    """Show a page in a browser with an empty profile, and take its picture."""
    browser = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        where = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        subprocess.run([browser, *FLAGS, *where, address], check=True, timeout=120, capture_output=True)
    if not picture.is_file():
        sys.exit(f"{browser} made no {picture}")


def report(root: Path) -> None:
    """The head of the report of a run."""
    page = root / "report.html"
    subprocess.run([sys.executable, str(CHECKOUT / "tools" / "report.py"), "--root", str(root), "--out", str(page)], check=True)
    screenshot(page.as_uri(), IMAGES / "report.png", 1060, 900)


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The monitor's page of a root; its address."""
    command = [sys.executable, str(CHECKOUT / "tools" / "monitor_background_training.py"), "--web", "--port", "0"]
    process = subprocess.Popen([*command, "--root", str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield next(word for word in process.stdout.readline().split() if word.startswith("http"))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def monitor(root: Path) -> None:
    """The upper part of the monitor's page, on a wide screen and on a phone."""
    from playwright.sync_api import sync_playwright

    drawn = "[...document.querySelectorAll('.bt-chart')].filter(chart => chart.querySelector('svg path')).length >= 9"
    with served(root) as address, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium(), args=list(FLAGS[1:]))
        for shot in SHOTS:
            size = {"width": shot.width, "height": shot.height}
            page = browser.new_page(viewport=size, color_scheme=shot.scheme, device_scale_factor=shot.scale)
            page.goto(address)
            page.wait_for_function(drawn)
            page.screenshot(path=IMAGES / shot.name, animations="disabled")
            page.close()
            few_colours(IMAGES / shot.name)
        browser.close()


def terminal(root: Path) -> None:
    """The monitor's live screen, while a game is learnt in an empty root."""
    sys.path.insert(0, str(CHECKOUT))
    from background_training.monitor.terminal import screen
    from background_training.monitor.terminal.live_facts import LiveReader
    from background_training.paths import Paths

    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--game", GAME, "--seed", "0", "--quiet"]
    process = subprocess.Popen([*command, "--root", str(root)], stdout=subprocess.DEVNULL)
    try:
        reader, began = LiveReader(Paths(root), time.time()), time.monotonic()
        facts = reader.look()
        while time.monotonic() - began < TERMINAL_SECONDS:
            time.sleep(0.1)
            facts = reader.look() or facts
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert facts is not None
    shown = screen.screen(replace(facts, root="my_bot"), *TERMINAL, screen.BLOCKS)
    picture = screen.picture(shown, "python tools/monitor_background_training.py --root my_bot")
    (IMAGES / "monitor_terminal.svg").write_text(picture, encoding="utf-8")


def first_screen(root: Path) -> None:
    """The panel of a run in an empty root, as a terminal of 80 columns shows it after some time."""
    import pyte
    from rich.text import Text

    from background_training.monitor.terminal import screen

    columns, rows = FIRST_SCREEN
    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--games", "300", "--seed", "1", "--root", root.name]
    terminal = pyte.Screen(columns, rows)
    stream, began = pyte.ByteStream(terminal), time.monotonic()
    pid, reader = pty.fork()
    if pid == 0:
        os.chdir(root.parent)
        os.execv(command[0], command)
    fcntl.ioctl(reader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    shown: list[Text] = []

    def coloured(row: int) -> Text:
        cells = (terminal.buffer[row][column] for column in range(columns))
        return Text.assemble(*((cell.data, cell.fg if cell.fg in COLOUR_NAMES else "") for cell in cells))

    try:
        while time.monotonic() - began < FIRST_SCREEN_SECONDS or not shown:
            stream.feed(os.read(reader, 1 << 16))
            top = next((number for number, row in enumerate(terminal.display) if row.startswith("\u256d")), None)
            bottom = next(
                (number for number, row in enumerate(terminal.display) if row.startswith("\u2570") and "\u256f" in row), None
            )
            if top is not None and bottom is not None and "Stop" in "".join(terminal.display[top:bottom]):
                shown = [coloured(row) for row in range(top, bottom + 1)]
    finally:
        os.kill(pid, signal.SIGINT)
        with contextlib.suppress(OSError):
            while os.read(reader, 1 << 16):
                pass
        os.waitpid(pid, 0)
    picture = screen.picture(shown, "python run_with_training.py --games 300")
    (IMAGES / "first_screen.svg").write_text(picture, encoding="utf-8")


def few_colours(picture: Path) -> None:
    """Make the file small."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> int:
    """Play 400 games, unless a root is named, and make each picture from them."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/how-to/watch.md from a real run.")
    parser.add_argument("--root", type=Path, help="a run that is there already; without it, one is played")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or played(Path(folder) / "lander")
        first_screen(Path(folder) / "lander_2")
        report(root)
        monitor(root)
        terminal(Path(folder) / "my_bot")
    return 0


def played(root: Path) -> Path:
    """A run of 400 games."""
    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--games", "400", "--seed", "0", "--quiet"]
    subprocess.run([*command, "--root", str(root)], check=True)
    return root


if __name__ == "__main__":
    sys.exit(main())
