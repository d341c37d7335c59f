"""The live monitor's loop: read, draw, handle keys, and restore the terminal however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from background_training.monitor.terminal import screen
from background_training.monitor.terminal.live_facts import LiveReader
from background_training.monitor.terminal.screen import Canvas
from background_training.paths import Paths
from background_training.records import pause_file

if sys.platform == "win32":
    import msvcrt
else:
    import select
    import termios
    import tty

INTERVAL_SECONDS = 0.5
_MESSAGE_SECONDS = 5.0
QUIT = "q"
_POLL_SECONDS = 0.03
_MOST_BYTES = 1024
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?")
"""What an arrow or function key sends."""


class Keyboard:
    """Single keys from a terminal, without Enter; Ctrl+C keeps its meaning.

    `restore` returns the terminal to its former mode. Without a terminal to read from, or as a background job of a shell (which
    the kernel stops when it reads), no key is ever reported.
    """

    def __init__(self, source: TextIO) -> None:
        self._descriptor = _terminal(source)
        self._before: Any = None
        self._pressed = ""

    @property
    def is_there(self) -> bool:
        """Whether keys can be pressed at all."""
        return self._descriptor is not None

    def listen(self) -> None:
        """Switch the terminal to single keys without echo."""
        if sys.platform != "win32" and self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor, termios.TCSANOW)

    def restore(self) -> None:
        """Return the terminal to its former mode; safe to repeat."""
        if sys.platform != "win32" and self._descriptor is not None and self._before is not None:
            before, self._before = self._before, None
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)

    def wait(self, seconds: float) -> str:
        """The key pressed within `seconds`, in lower case, or ""; arrow and function keys are ignored."""
        if self._descriptor is None:
            time.sleep(seconds)
            return ""
        if not self._pressed:
            self._pressed = _keys(self._descriptor, seconds)
        key, self._pressed = self._pressed[:1], self._pressed[1:]
        return key.casefold()


def _terminal(source: TextIO) -> int | None:
    """The descriptor of a terminal that we may read from."""
    try:
        descriptor = source.fileno()
        if not os.isatty(descriptor):
            return None
    except (OSError, ValueError, AttributeError):
        return None
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # not our controlling terminal: reading it does not stop us
            if os.tcgetpgrp(descriptor) != os.getpgrp():
                return None
    return descriptor


if sys.platform == "win32":

    def _keys(descriptor: int, seconds: float) -> str:
        end = time.monotonic() + seconds
        while not msvcrt.kbhit():
            left = end - time.monotonic()
            if left <= 0:
                return ""
            time.sleep(min(left, _POLL_SECONDS))
        sign = msvcrt.getwch()
        if sign in ("\x00", "\xe0"):  # an arrow or function key, followed by a second code
            msvcrt.getwch()
            return ""
        if sign == "\x03":
            raise KeyboardInterrupt
        return sign

else:

    def _keys(descriptor: int, seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return ""
        try:
            pressed = os.read(descriptor, _MOST_BYTES)
        except OSError:
            return QUIT  # the terminal is gone
        return _SEQUENCE.sub("", pressed.decode("utf-8", "replace")) if pressed else QUIT


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
        self._reader = LiveReader(paths, time.time())
        self._message = ""
        self._message_ends = 0.0
        self._size = (0, 0)
        self._drawing = False
        self._suspend_asked = False

    @contextlib.contextmanager
    def on_screen(self) -> Iterator[None]:
        """Take over the terminal, and restore it at the end and while the shell has suspended us (Ctrl+Z)."""
        stop = getattr(signal, "SIGTSTP", None)
        hang_up = getattr(signal, "SIGHUP", None)
        try:
            if stop is not None and hang_up is not None:
                signal.signal(stop, lambda number, frame: self._suspend())
                signal.signal(hang_up, signal.default_int_handler)
            self._keyboard.listen()
            self._canvas.enter()
            yield
        finally:
            self._restore()
            if stop is not None:
                signal.signal(stop, signal.SIG_DFL)

    def show_until_quit(self, interval_seconds: float) -> None:
        facts = None
        while True:
            news = self._reader.look()
            facts = news or facts
            size = self._canvas.size()
            if self._message and time.monotonic() > self._message_ends:
                self._message, self._size = "", (0, 0)
            if facts is not None and (news is not None or size != self._size):
                self._size = size
                shown = screen.screen(facts, *size, self._canvas.signs, self._message, has_keys=self._keyboard.is_there)
                self._draw(shown)
            key = self._keyboard.wait(interval_seconds)
            if key == QUIT:
                return
            if key in ("p", "r"):
                self._set_pause(pause=key == "p")

    def _draw(self, shown: list[Any]) -> None:
        self._drawing = True
        try:
            self._canvas.draw(shown)
        finally:
            self._drawing = False
        if self._suspend_asked:
            self._suspend()

    def _set_pause(self, *, pause: bool) -> None:
        self._message_ends, self._size = time.monotonic() + _MESSAGE_SECONDS, (0, 0)
        try:
            changed = pause_file.pause(self._paths) if pause else pause_file.resume(self._paths)
        except FileNotFoundError:
            self._message = "There is no data folder here yet."
        except OSError as error:
            self._message = f"Not done: {error.strerror or error}"
        else:
            done, already = ("Paused; press r to resume.", "Already paused.") if pause else ("Resumed.", "Not paused.")
            self._message = done if changed else already

    def _suspend(self) -> None:
        # A signal may arrive in the middle of a write; suspending then would mix two escape sequences.
        self._suspend_asked = self._drawing
        if self._drawing:
            return
        self._restore()
        if sys.platform != "win32":
            os.kill(os.getpid(), signal.SIGSTOP)
        self._keyboard.listen()
        self._canvas.enter()
        self._size = (0, 0)

    def _restore(self) -> None:
        try:
            self._canvas.leave()
        except OSError:
            pass  # the terminal is gone
        finally:
            self._keyboard.restore()
