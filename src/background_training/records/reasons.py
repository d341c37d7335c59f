"""Why files were set aside, as kinds of reasons that can be counted."""

from __future__ import annotations

import re

from background_training.episodes.buffer import DUPLICATE, STALE

_CODE = re.compile(r"\s*\[([a-z-]+)\]\Z")


def kind_of(fate: str, words: str) -> str:
    """The kind of a reason, from the fate of the file and the words in the ledger."""
    if fate == STALE:
        return "played by too old a version" if "max_version_lag" in words else "waited too long"
    if fate == DUPLICATE:
        return "the same episode_id" if words.startswith("episode_id") else "the same bytes"
    match = _CODE.search(words)
    return match.group(1).replace("-", " ") if match else "unusable"


def without_code(words: str) -> str:
    """The reason in words only."""
    return _CODE.sub("", words)
