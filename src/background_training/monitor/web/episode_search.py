"""Search for the fate of episodes: from the end of the ledger backwards, and in the buffer."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from background_training.paths import Paths, is_episode_name
from background_training.records import episode_fate, ledger_lines

MOST_FOUND = 40
LONGEST_QUERY = 200
_BLOCK_BYTES = 1 << 20
_LONGEST_SEARCH_SECONDS = 3.0
_WAITING_SHOWN = 10


@dataclass(frozen=True)
class Found:
    """What a search has found.

    sentences: one for each file, those that wait first, then the newest first.
    complete: whether that is all there is.
    trouble: why not everything could be searched, in words.
    """

    sentences: tuple[str, ...]
    complete: bool = True
    trouble: str = ""


def search(paths: Paths, query: str, clock: Callable[[], float] = time.monotonic) -> Found:
    """Search for a part of a file name, hash, fate or reason.

    It reads no further back than it must to find MOST_FOUND files, and gives up after three seconds.
    """
    wanted = query.strip()[:LONGEST_QUERY]
    if not wanted:
        return Found(())
    sentences, troubles = [], []
    try:
        for name in itertools.islice(_waiting(paths, wanted), _WAITING_SHOWN):
            sentences.append(episode_fate.sentence({"name": name, "fate": "waiting"}))
    except OSError as error:
        troubles.append(f"the buffer can't be listed: {error.strerror or error}")
    deadline = clock() + _LONGEST_SEARCH_SECONDS
    complete = True
    try:
        for text in _lines_backwards(paths.ledger, _needle(wanted), lambda: clock() > deadline):
            complete = text is not None and len(sentences) < MOST_FOUND
            if not complete or text is None:
                break
            sentences += _sentence(text)
    except FileNotFoundError:
        pass
    except OSError as error:
        troubles.append(f"the ledger can't be read: {error.strerror or error}")
    return Found(tuple(sentences), complete, "; ".join(troubles))


def _waiting(paths: Paths, wanted: str) -> Iterator[str]:
    try:
        with os.scandir(paths.buffer) as entries:
            yield from (entry.name for entry in entries if wanted in entry.name and is_episode_name(entry.name))
    except FileNotFoundError:
        return


def _needle(wanted: str) -> bytes:
    """The query as it stands in a line of the ledger."""
    return json.dumps(wanted, ensure_ascii=True)[1:-1].encode("ascii")


def _sentence(text: bytes) -> list[str]:
    line = ledger_lines.parse(text)
    if line is None or line["fate"] in (*ledger_lines.OF_NO_FILE, ledger_lines.PUBLISHED, ledger_lines.ROLLED_BACK):
        return []
    try:
        return [episode_fate.sentence(line)]
    except (KeyError, TypeError, ValueError):
        return []  # a line of another program


def _lines_backwards(path: Path, needle: bytes, is_late: Callable[[], bool]) -> Iterator[bytes | None]:
    """The lines that hold the needle, last ones first; None, and no more, when it has become late."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        beginning_of_later = b""
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            block = file.read(end - start) + beginning_of_later
            # The first line of a block may begin in the block before it, and waits for that.
            first_whole = block.find(b"\n") + 1 if start else 0
            yield from _lines_with(block[first_whole:], needle)
            beginning_of_later = block[:first_whole]
            end = start
            if is_late():
                yield None
                return


def _lines_with(block: bytes, needle: bytes) -> Iterator[bytes]:
    place = len(block)
    while (place := block.rfind(needle, 0, place)) >= 0:
        start = block.rfind(b"\n", 0, place) + 1
        end = block.find(b"\n", place)
        yield block[start : end if end >= 0 else len(block)]
        place = start
