"""Numbers and foreign texts for people: sizes, durations, moments, and text without control characters."""

from __future__ import annotations

import time
from typing import Any

from background_training import printable

_CLOCKS_AGREE_SECONDS = 3.0
_LONGEST_SECONDS = 1e11
_UNITS = ("KB", "MB", "GB", "TB")


def size(byte_count: int) -> str:
    """A size for people: 512 B, 12.3 KB, 4.0 MB."""
    if byte_count < 1024:
        return f"{byte_count} B"
    power = min((byte_count.bit_length() - 1) // 10, len(_UNITS))
    return f"{byte_count / 1024**power:.1f} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """A length of time by its two largest units: 4s, 3m 17s, 2h 5m, 3d 4h."""
    whole = int(min(max(seconds, 0.0), _LONGEST_SECONDS))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def ago(then: float, now: float) -> str:
    """Age of a moment; one in the future means that clocks differ."""
    if then > now + _CLOCKS_AGREE_SECONDS:
        return f"{duration(then - now)} in the future (the clocks differ)"
    return f"{duration(now - then)} ago"


def moment(seconds: float) -> str:
    """A moment in local time; "unknown" if it is out of the calendar's range."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "unknown"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def name(text: str, longest: int = 60) -> str:
    """A file name that prints, shortened."""
    plain = printable.visible(text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def visible(text: object, longest: int = 1000) -> str:
    """A text on one line, with every character that does not print as its escape."""
    return printable.visible(str(text)[:longest])[:longest]


def number(value: Any, form: str) -> str:
    """A number in the given format; other values, as in a damaged status, are shown as text."""
    try:
        return format(value, form)
    except (TypeError, ValueError):
        return visible(value, 40)
