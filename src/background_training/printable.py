"""Names and texts from outside, made fit to be printed: a line feed or an escape code in one would rewrite the screen."""

from __future__ import annotations

import contextlib
import sys


def visible(text: str) -> str:
    """The text with every character that does not print as its escape; one that prints stays as it is, in any script."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def encodable(text: str, encoding: str | None) -> str:
    """The text with what an encoding lacks as escapes; otherwise a file's name could end who prints it. None is UTF-8."""
    known = encoding or "utf-8"
    return text.encode(known, "backslashreplace").decode(known)


def say(sentence: str) -> None:
    """Print a line at once; whoever reads along may have gone away, which ends no command."""
    with contextlib.suppress(OSError, ValueError):
        print(encodable(sentence, getattr(sys.stdout, "encoding", None)), flush=True)
