"""The fate of an episode file, from the ledger, the buffer and the archive, and its reason in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from background_training.episodes import buffer
from background_training.episodes.buffer import DUPLICATE, STALE
from background_training.paths import Paths
from background_training.printable import visible
from background_training.records import ledger_lines
from background_training.storage import atomic_files

UNKNOWN_SINCE_COMPACTION = "forgotten or never seen"
"""The fate of a file without a line in a ledger from which older lines were removed."""


def fates_of(paths: Paths, lines: Iterable[Mapping[str, Any]], name: str | None) -> Iterable[dict[str, Any]]:
    """All records of a file, oldest first; of all files for None.

    Args:
        lines: the ledger's.
        name: a file's name in the buffer or in the archive, or at least 8 digits of its sha256.
    """
    known: set[tuple[str, str]] = set()
    shortened = False
    for line in lines:
        shortened = shortened or ledger_lines.is_compaction(line)
        if name is None or _is_meant(line, name):
            stored_as = line.get("archived_as", line["name"])
            known.add((line["fate"], stored_as))
            if line["fate"] not in ledger_lines.OF_NO_FILE:
                yield dict(line)
    if not atomic_files.exists(paths.buffer):
        return
    for waiting in buffer.waiting_names(paths):
        if name is None or waiting == name:
            yield {"name": waiting, "fate": "waiting"}
    for fate in (buffer.TRAINED, buffer.STALE, buffer.DUPLICATE, buffer.REJECTED):
        for path in sorted(buffer.folder_of(paths, fate).glob("*.npz")):
            if (name is None or path.name == name) and (fate, path.name) not in known:
                found_in = path.parent.relative_to(paths.data).as_posix()
                unknown = {"name": path.name, "fate": "not in the ledger", "found_in": found_in}
                yield unknown | ({"shortened": True} if shortened else {})


def sentence(fate: Mapping[str, Any]) -> str:
    """One line for a person."""
    name = visible(fate["name"])
    kind = fate["fate"]
    version = f"version {fate.get('seq')}"
    if fate.get(ledger_lines.RECONSTRUCTED):
        version = "a version that is no longer known: the ledger had lost this line, and it was reconstructed from the archive"
    if kind == buffer.TRAINED:
        text = f"trained in {version} ({fate.get('steps', '?')} steps, return {fate.get('return', '?')})"
    elif kind == UNKNOWN_SINCE_COMPACTION:
        return f"{name}: no such file in the ledger (older entries were removed: retention.ledger_lines)"
    elif kind in ("waiting", "never seen"):
        nowhere = "no such file in the ledger, the buffer or the archive"
        return f"{name}: {'waits in the buffer' if kind == 'waiting' else nowhere}"
    elif kind == "not in the ledger":
        cause = "put there by hand, or older than the ledger"
        if fate.get("shortened"):
            cause = "its line was removed to keep the ledger short (retention.ledger_lines), or it was put there by hand"
        return f"{name}: in {fate['found_in']}, without a line in the ledger: {cause}"
    else:
        text = f"{kind}, with {version}, because {fate.get('reason', 'of an unrecorded reason')}"
    text += f", and deleted since: {fate[buffer.DELETED]}" if buffer.DELETED in fate else ""
    stored = f"; stored as {fate['archived_as']}" if "archived_as" in fate else ""
    return f"{name}: {text}{stored} [sha256 {fate['sha256'][:12] or 'none'}]"


def _is_meant(line: Mapping[str, Any], name: str) -> bool:
    if not line["name"]:
        return False
    by_hash = len(name) >= 8 and bool(line["sha256"]) and line["sha256"].startswith(name.casefold())
    return by_hash or name in (line["name"], line.get("archived_as"))


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
