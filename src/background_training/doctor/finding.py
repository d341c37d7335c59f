"""What a check finds, and the report; standard library only, as other packages may be missing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 100
_INDENT = " " * 9


class Trouble(NamedTuple):
    """One mistake: a sentence of its cause and one of its cure."""

    cause: str
    cure: str


class Finding(NamedTuple):
    """A trouble with the name of the check that found it."""

    check: str
    cause: str
    cure: str


def as_text(notes: Sequence[tuple[str, str]], findings: Sequence[Finding], checks: int) -> str:
    """The report for people.

    Args:
        notes: title and words of what was seen, wrong or not.
        checks: how many there were.
    """
    lines = [f"{title + ':':<10}{words}" for title, words in notes]
    for finding in findings:
        lines += ["", f"[{finding.check}]", _paragraph("Cause:", finding.cause), _paragraph("Cure:", finding.cure)]
    many = "1 mistake" if len(findings) == 1 else f"{len(findings)} mistakes"
    verdict = f"{many} found by {checks} checks." if findings else f"Nothing wrong was found by {checks} checks."
    return "\n".join([*lines, "", verdict])


def as_json(notes: Sequence[tuple[str, str]], findings: Sequence[Finding], checks: int) -> str:
    content = {
        "healthy": not findings,
        "checks": checks,
        "findings": [finding._asdict() for finding in findings],
        "seen": {title.lower(): words for title, words in notes},
    }
    return json.dumps(content, indent=1)


def _paragraph(title: str, sentence: str) -> str:
    # Never broken within a word: a path or a command that is cut in two can't be copied.
    return textwrap.fill(
        f"  {title:<7}{sentence}", WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )
