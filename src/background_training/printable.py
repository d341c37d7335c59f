"""Make names and texts from outside printable: a line feed or an escape code in one could rewrite the screen."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Mapping
from typing import TextIO


def visible(text: str) -> str:
    """Escape every character that is not printable; printable ones of any script stay."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def encodable(text: str, encoding: str | None) -> str:
    """Escape what the encoding lacks: printing a file's name could raise otherwise. None means UTF-8."""
    known = encoding or "utf-8"
    return text.encode(known, "backslashreplace").decode(known)


def say(sentence: str) -> None:
    """Print a line and flush; a closed pipe is ignored, so that it ends no command."""
    with contextlib.suppress(OSError, ValueError):
        print(encodable(sentence, getattr(sys.stdout, "encoding", None)), flush=True)


def reader_is_gone(error: OSError, platform: str = sys.platform) -> bool:
    """Whether writing to stdout failed because its reader has closed the pipe; Windows reports that as an invalid argument."""
    if isinstance(error, BrokenPipeError):
        return True
    return platform == "win32" and error.errno == errno.EINVAL and error.filename is None


def prepare(stream: TextIO | None, platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> None:
    """Let a standard stream take any text: a console gets escapes for what it lacks, a pipe or file on Windows gets UTF-8.

    Otherwise Windows writes its old code page into pipes (cp1252), and a file's name could end a command. A choice of the
    user's, PYTHONIOENCODING, is kept.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return
    if platform == "win32" and not stream.isatty() and not environment.get("PYTHONIOENCODING"):
        stream.reconfigure(encoding="utf-8")
    stream.reconfigure(errors="backslashreplace")
