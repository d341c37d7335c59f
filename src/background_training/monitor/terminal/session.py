"""The live monitor at work: looks, draws, hears keys, and leaves the terminal as it was, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from background_training.monitor.terminal import keys, layout
from background_training.monitor.terminal.drawing import Canvas
from background_training.monitor.terminal.gatherer import Gatherer
from background_training.monitor.terminal.keys import Keyboard
from background_training.monitor.terminal.rows import Row
from background_training.paths import Paths
from background_training.records import pause_file

INTERVAL_SECONDS = 0.5
_MESSAGE_SECONDS = 5.0


def run(paths: Paths, interval_seconds: float, out: TextIO, source: TextIO) -> None:
    """Show the root until q or Ctrl+C.

    Raises:
        KeyboardInterrupt: Ctrl+C, or a signal that asks to end.
        OSError: the terminal is gone.
    """
    session = _Session(paths, Canvas(out), Keyboard(source))
    with session.on_screen():
        session.show_until_quit(interval_seconds)


class _Session:
    def __init__(self, paths: Paths, canvas: Canvas, keyboard: Keyboard) -> None:
        self._paths = paths
        self._canvas = canvas
        self._keyboard = keyboard
        self._gatherer = Gatherer(paths, time.time())
        self._message = ""
        self._message_ends = 0.0
        self._size = (0, 0)
        self._drawing = False
        self._asked_aside = False

    @contextlib.contextmanager
    def on_screen(self) -> Iterator[None]:
        """Take the terminal, and give it back; also when the shell stops us for a while (Ctrl+Z)."""
        stop = getattr(signal, "SIGTSTP", None)
        hang_up = getattr(signal, "SIGHUP", None)
        try:
            if stop is not None and hang_up is not None:
                signal.signal(stop, lambda number, frame: self._step_aside())
                signal.signal(hang_up, signal.default_int_handler)
            self._keyboard.listen()
            self._canvas.enter()
            yield
        finally:
            self._give_back()
            if stop is not None:
                signal.signal(stop, signal.SIG_DFL)

    def show_until_quit(self, interval_seconds: float) -> None:
        facts = None
        while True:
            news = self._gatherer.look()
            facts = news or facts
            size = self._canvas.size()
            if self._message and time.monotonic() > self._message_ends:
                self._message, self._size = "", (0, 0)
            if facts is not None and (news is not None or size != self._size):
                self._size = size
                shown = layout.screen(facts, *size, self._canvas.signs, self._message, has_keys=self._keyboard.is_there)
                self._draw(shown)
            key = self._keyboard.wait(interval_seconds)
            if key == keys.QUIT:
                return
            if key in ("p", "r"):
                self._tell_learner(pause=key == "p")

    def _draw(self, shown: list[Row]) -> None:
        self._drawing = True
        try:
            self._canvas.draw(shown)
        finally:
            self._drawing = False
        if self._asked_aside:
            self._step_aside()

    def _tell_learner(self, *, pause: bool) -> None:
        self._message_ends, self._size = time.monotonic() + _MESSAGE_SECONDS, (0, 0)
        try:
            changed = pause_file.pause(self._paths) if pause else pause_file.resume(self._paths)
        except FileNotFoundError:
            self._message = "There is no data folder here yet."
        except OSError as error:
            self._message = f"Not done: {error.strerror or error}"
        else:
            done, already = ("Paused; r goes on.", "It is paused already.") if pause else ("It goes on.", "It was not paused.")
            self._message = done if changed else already

    def _step_aside(self) -> None:
        # Nobody may write to the terminal in the middle of writing to it.
        self._asked_aside = self._drawing
        if self._drawing:
            return
        self._give_back()
        if sys.platform != "win32":
            os.kill(os.getpid(), signal.SIGSTOP)
        self._keyboard.listen()
        self._canvas.enter()
        self._size = (0, 0)

    def _give_back(self) -> None:
        try:
            self._canvas.leave()
        except OSError:
            pass  # a terminal that is gone has nothing to get back
        finally:
            self._keyboard.restore()
