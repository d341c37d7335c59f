"""Whether the learner lives, judged by what it last said and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tools.monitor import words
from tools.monitor.snapshot import StatusFacts

DEFAULT_RESCAN_SECONDS = 5.0
NO_SIGN = "NO SIGN OF LIFE"
"""How the words about a silent learner begin."""
_GONE_AFTER_RESCANS_AND_SECONDS = (1, 3.0)
_SILENT_AFTER_RESCANS_AND_SECONDS = (3, 30.0)
"""A long batch and a back-off of 30 s are silences that end by themselves."""
_ENDED = ("stopped", "failed")


def state_words(status: StatusFacts, now: float) -> str:
    """The learner's state in words, with its age; a silent learner is not taken for a living one.

    Args:
        now: seconds since 1970.
    """
    content = status.content
    if content is None:
        return "status.json can't be read" if status.is_there else "no learner has run here yet (there is no status.json)"
    state, written = words.visible(content.get("state", "unknown"), 40), _moment(content)
    if written is None:
        return f"{state}; status.json does not say when"
    age, spoken = now - written, words.ago(written, now)
    if state in _ENDED:
        return f"{state} {spoken}"
    if status.writer_is_gone and age > _limit(content, *_GONE_AFTER_RESCANS_AND_SECONDS):
        return f"{NO_SIGN} for {words.duration(age)} (it was {state}); its process is gone from this machine"
    if age > _limit(content, *_SILENT_AFTER_RESCANS_AND_SECONDS):
        return f"{NO_SIGN} for {words.duration(age)} (it was {state}); it hangs, was killed, or trains a very long batch"
    return f"{state} (last heard of {spoken})"


def _limit(content: Mapping[str, Any], rescans: int, seconds: float) -> float:
    """Seconds of silence that are usual: an idle learner speaks at each rescan of the buffer."""
    rescan: Any = content.get("settings")
    for key in ("learner", "rescan_seconds"):
        rescan = rescan.get(key) if isinstance(rescan, Mapping) else None
    usual = rescan if isinstance(rescan, (int, float)) and rescan > 0 else DEFAULT_RESCAN_SECONDS
    return rescans * float(usual) + seconds


def _moment(content: Mapping[str, Any]) -> float | None:
    try:
        written = float(content["updated_at"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return written if math.isfinite(written) else None
