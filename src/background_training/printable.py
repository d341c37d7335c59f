"""Make names and texts from outside printable: a line feed or an escape code in one could rewrite the screen."""

from __future__ import annotations

import contextlib
import sys


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
