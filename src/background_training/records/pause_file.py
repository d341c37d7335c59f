"""The user's pause of training: a file in the root, its removal, and the record of past pauses.

As long as data/paused.json exists, whatever its content, the root is paused. Its content is for people.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import Signature, signature_of

_KEPT = 100
_MOST_BYTES = 100_000
_NAME_LETTERS = 60


@dataclass(frozen=True)
class Pause:
    """Since when (seconds since 1970), and by whom, a root is paused; until when it was, or None."""

    since: float
    by: str = ""
    until: float | None = None

    @property
    def words(self) -> str:
        """For messages: "by ann since 2026-03-01 14:05:09"."""
        by = f"by {self.by} " if self.by else ""
        return f"{by}since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"


def pause(paths: Paths, now: float | None = None) -> bool:
    """Pause the training of a root, across restarts, until `resume`; False if it was paused already.

    Raises:
        OSError: the machine failed; FileNotFoundError where there is no data folder.
    """
    if atomic_files.exists(paths.paused):
        return False
    content = json.dumps({"since": time.time() if now is None else now, "by": _user()})
    atomic_files.write_atomically(paths.paused, content.encode(), durable=True)
    return True


def resume(paths: Paths, now: float | None = None) -> bool:
    """End the pause and record its duration; False if the root was not paused.

    Raises:
        OSError: the machine failed; the root is still paused.
    """
    standing = read(paths)
    if standing is None:
        return False
    over = Pause(standing.since, standing.by, time.time() if now is None else now)
    # The record first, and flushed. Killed in between, the user repeats the command, and the pause is still recorded once.
    # If the record were lost in a power cut, episodes that waited for the end of the pause would count as stale.
    kept = [*(former for former in _former(paths) if former.since != over.since), over][-_KEPT:]
    atomic_files.write_atomically(paths.pauses, json.dumps([asdict(former) for former in kept]).encode(), durable=True)
    return atomic_files.remove_if_there(paths.paused)


def read(paths: Paths) -> Pause | None:
    """The present pause, or None. For a file that was made by hand, its mtime counts."""
    try:
        since = os.lstat(paths.paused).st_mtime
    except OSError:
        return None
    try:
        content = json.loads(atomic_files.read_regular_file(paths.paused, _MOST_BYTES))
    except (OSError, ValueError, OverflowError, RecursionError):
        content = {}
    return _pause_of(content) or Pause(since)


def sentence(paths: Paths, *, changed: bool) -> str:
    """The answer to a user who has asked for a pause or its end."""
    standing = read(paths)
    if standing is None:
        return f"[OK] {paths.root} {'is resumed' if changed else 'was not paused'}: episodes are trained on as they arrive."
    already = "" if changed else "already "
    return f"[OK] {paths.root} is {already}paused, {standing.words}: episodes wait, and do not grow too old. --resume ends it."


class PauseWatch:
    """Polls the pause of a root; a poll without a change costs one stat call."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._seen: Signature | None = None
        self._pause: Pause | None = None

    def look(self) -> Pause | None:
        """The present pause, or None."""
        try:
            seen = signature_of(os.lstat(self._paths.paused))
        except OSError:
            self._seen = self._pause = None
            return None
        if seen != self._seen:
            self._seen, self._pause = seen, read(self._paths)
        return self._pause


def seconds_since(paths: Paths, moment: float, now: float) -> float:
    """For how many seconds between two moments, in seconds since 1970, the root was paused; files don't age in that time."""
    standing = read(paths)
    pauses = [*_former(paths), *([standing] if standing else [])]
    total, reach = 0.0, moment
    for held in sorted(pauses, key=lambda held: held.since):
        begun, ended = max(held.since, reach), min(held.until or now, now)
        total += max(0.0, ended - begun)
        reach = max(reach, ended)
    return total


def _former(paths: Paths) -> list[Pause]:
    try:
        content = json.loads(atomic_files.read_regular_file(paths.pauses, _MOST_BYTES))
    except (OSError, ValueError, OverflowError, RecursionError):
        return []
    found = [_pause_of(item) for item in content] if isinstance(content, list) else []
    return [former for former in found if former is not None and former.until is not None]


def _pause_of(content: Any) -> Pause | None:
    """A pause from the content of a file; None if it is malformed."""
    if not isinstance(content, dict):
        return None
    since, by, until = content.get("since"), content.get("by"), content.get("until")
    if not _is_moment(since) or not (until is None or _is_moment(until)):
        return None
    name = "".join(letter for letter in by[:_NAME_LETTERS] if letter.isprintable()) if isinstance(by, str) else ""
    return Pause(float(since), name, until)


def _is_moment(value: Any) -> TypeGuard[float]:
    """Whether a value is a plausible time in seconds since 1970."""
    return isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value < 4e9


def _user() -> str:
    try:
        return getpass.getuser()[:_NAME_LETTERS]
    except (KeyError, OSError, ImportError):
        return ""  # a container's user may have no name
