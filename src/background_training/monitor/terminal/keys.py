"""One key at a time, without Enter: from a POSIX terminal or Windows' console, which is left as it was found."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from types import TracebackType
from typing import Any, TextIO

if sys.platform == "win32":
    import msvcrt
else:
    import select
    import termios
    import tty

QUIT = "q"
_POLL_SECONDS = 0.03
_MOST_BYTES = 1024
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?")
"""What an arrow or function key sends."""


class Keyboard:
    """The keys that are pressed while inside; Ctrl+C stays what it is.

    It promises that the terminal is as before when `restore` has been called, which is what leaving does. Without a terminal
    to read from, or in the background of a shell, which would be stopped for reading, no key is ever pressed.
    """

    def __init__(self, source: TextIO) -> None:
        self._descriptor = _terminal(source)
        self._before: Any = None
        self._pressed = ""

    @property
    def is_there(self) -> bool:
        """Whether keys can be pressed at all."""
        return self._descriptor is not None

    def __enter__(self) -> Keyboard:
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.restore()

    def listen(self) -> None:
        """Hear each key at once, and show none."""
        if sys.platform != "win32" and self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor, termios.TCSANOW)

    def restore(self) -> None:
        """Leave the terminal as it was; safe to repeat."""
        if sys.platform != "win32" and self._descriptor is not None and self._before is not None:
            before, self._before = self._before, None
            with contextlib.suppress(termios.error):  # a terminal that is gone needs nothing
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)

    def wait(self, seconds: float) -> str:
        """The key that is pressed within so many seconds, in lower case, or ""; keys of more than one sign count as none."""
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
        with contextlib.suppress(OSError):  # not our controlling terminal: then nobody stops us for reading it
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
        if sign in ("\x00", "\xe0"):  # an arrow or function key, told by a second sign
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
            return QUIT  # the terminal is gone, and with it whoever looked
        return _SEQUENCE.sub("", pressed.decode("utf-8", "replace")) if pressed else QUIT
