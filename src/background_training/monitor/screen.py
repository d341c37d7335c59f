"""Puts lines on a terminal, over the last ones, or simply prints them where there is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from background_training.monitor import dashboard
from background_training.monitor.dashboard import Line
from background_training.printable import encodable

_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR = "\x1b[2J"


class Screen:
    """Shows one dashboard after the other: over the last one, cut to the screen, or whole and below it."""

    def __init__(self, out: TextIO, *, overwrite: bool) -> None:
        """`overwrite` is heeded on a terminal only; a pipe or a file gets every dashboard whole."""
        self._out = out
        self._is_terminal = overwrite and out.isatty()
        self._first = True
        if self._is_terminal and sys.platform == "win32":
            os.system("")  # an old console heeds escape codes only after a shell has run in it

    def show(self, shown: Sequence[Line]) -> None:
        """Show the lines.

        Raises:
            BrokenPipeError: whoever read along has closed the pipe.
        """
        if not self._is_terminal:
            text = "\n".join(line.text for line in shown) + "\n"
        else:
            columns, rows = shutil.get_terminal_size()
            kept = [text[: columns - 1] for text in dashboard.fitted(shown, rows - 1)]
            # Overwritten, not cleared first: a cleared screen would flicker at every refresh.
            body = "".join(f"{text}{_END_OF_LINE}\n" for text in kept)
            text = f"{_CLEAR if self._first else ''}{_HOME}{body}{_END_OF_SCREEN}"
        self._first = False
        self._out.write(encodable(text, self._out.encoding))
        self._out.flush()
