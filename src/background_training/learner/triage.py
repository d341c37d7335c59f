"""The verdict on one waiting file: train on it, exclude it (stale, duplicate, rejected), or defer it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.algo import batch
from background_training.episodes import alignment, buffer, episode_file
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED, Departure
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError, MachineError
from background_training.ipc.json_lines import Send
from background_training.paths import MODEL_NAME, Paths
from background_training.printable import visible
from background_training.records import pause_file
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import UNKNOWN_VERSION
from background_training.settings import Settings
from background_training.spaces.layout import ModelLayout
from background_training.storage import atomic_files
from background_training.storage.atomic_files import Signature, signature_of

_FAULTS_OF_ONE_FILE = (errno.EACCES, errno.EPERM)
_READ_WAITS_SECONDS = (0.01, 0.05)
_MAY_BE_UNFINISHED = frozenset({"empty", "unfinished"})
_REFUSED_AGAIN_SECONDS = (0.5, 30.0)


def _status_of(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise
    except OSError:
        time.sleep(_READ_WAITS_SECONDS[0])
        return os.lstat(path)


def _read_patiently(path: Path, max_bytes: int) -> bytes:
    """Read a file, retrying twice: faults of a network drive may be transient."""
    for wait_seconds in _READ_WAITS_SECONDS:
        try:
            return atomic_files.read_regular_file(path, max_bytes)
        except (FileNotFoundError, atomic_files.NotARegularFileError):
            raise
        except OSError:
            time.sleep(wait_seconds)
    return atomic_files.read_regular_file(path, max_bytes)


@dataclass(frozen=True)
class Accepted:
    """An episode to train on, with the bytes it was read from.

    aligned: whether features or actions were reordered to the model's order, so that the episode differs from the bytes.
    """

    name: str
    sha256: str
    signature: Signature
    data: bytes
    episode: Episode
    aligned: bool = False


@dataclass(frozen=True)
class Excluded:
    """A file that will not be trained on: its fate (stale, duplicate or rejected) and the reason.

    of_another_game: a sound episode that does not fit the model.
    steps: of a stale episode.
    """

    name: str
    sha256: str
    signature: Signature | None
    fate: str
    reason: str
    of_another_game: bool = False
    steps: int | None = None

    def line(self, seq: int, stored_as: str) -> dict[str, Any]:
        """Its line in the ledger."""
        line = {"seq": seq, "sha256": self.sha256, "name": self.name, "fate": self.fate, "reason": self.reason}
        line |= {} if self.steps is None else {"steps": self.steps}
        return line if stored_as == self.name else {**line, "archived_as": stored_as}

    def departure(self, stored_as: str) -> Departure:
        note = f"{self.reason}. Moved to {'archive/' + self.fate}."
        return Departure(self.name, self.fate, stored_as, self.signature, note=note)


@dataclass(frozen=True)
class AlreadyTrained:
    """A trained episode whose move to the archive was interrupted by a crash."""

    name: str
    stored_as: str
    signature: Signature
    data: bytes

    def departure(self) -> Departure:
        return Departure(self.name, TRAINED, self.stored_as, self.signature, self.data)


@dataclass(frozen=True)
class Deferred:
    """A file that is unfinished, or that can't be read at the moment; `trouble` is the read error."""

    name: str
    trouble: str = ""


@dataclass(frozen=True)
class NeedsWidening:
    """An episode with named features or actions that the model lacks, where learner.grow allows the model to get them."""

    name: str
    features: tuple[str, ...]
    actions: tuple[str, ...]


Verdict = Accepted | Excluded | AlreadyTrained | Deferred | NeedsWidening


@dataclass(frozen=True)
class ModelFacts:
    """The facts of the present model on which a verdict depends."""

    version: int
    layout: ModelLayout


def fitted(episode: Episode, model: ModelFacts) -> Episode:
    """The episode in the model's order. Refuse one of another game, with a message that names the remedies.

    Raises:
        EpisodeError: as layout.aligned and batch.check_fits do.
    """
    layout = model.layout
    try:
        episode = alignment.aligned(episode, layout)
        batch.check_fits(episode, layout.state_width, layout.actions)
    except EpisodeError as error:
        sizes = f"takes states of {layout.state_width} numbers and chooses {layout.actions.words}"
        remedy = (
            "If the game has changed, use another --root to keep both models, or move models, data/archive and "
            "data/ledger.jsonl elsewhere to start a new one here"
        )
        # Without the whole path and the version: ledger lines must not depend on the place of the root, nor on when the
        # file was read again after a crash.
        words = f"{error.needed}. models/{MODEL_NAME}" if error.reason == alignment.OTHER_NAMES else f"models/{MODEL_NAME}"
        raise EpisodeError(error.reason, error.found, f"{words} {sizes}. {remedy}") from None
    return episode


def duplicate(name: str, sha256: str, signature: Signature, episode_id: str, former: tuple[str, int]) -> Excluded:
    """The verdict on an episode that was trained on before.

    Args:
        episode_id: by which it was recognised; "" if by its bytes.
        former: name and version of the episode that was, or is about to be, trained on; the same before and after a crash.
    """
    what = f"episode_id {episode_id!a} was" if episode_id else "the same bytes were"
    version = f"version {former[1]}" if former[1] != UNKNOWN_VERSION else "a version that is no longer known"
    reason = f"{what} trained on in {version}, as {visible(former[0])}; each episode counts once"
    return Excluded(name, sha256, signature, DUPLICATE, reason)


_LEAP_SECONDS = 10.0
_ROUNDING_SECONDS = 1.0


def steady_seconds() -> float:
    """A clock that can't be set, and that includes suspended time where the system has such a clock.

    Otherwise a suspension would look like a jump of the wall clock.
    """
    kind = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if kind is None else time.clock_gettime(kind)


class WallClock:
    """Seconds since 1970 by the wall clock, and its forward jumps since this object was made.

    It promises that setting the clock in either direction makes no file look older than it is, if `look` is called in between.
    It does not promise that no file looks younger: a time in the future counts as now, and a file from before a jump back and
    forth may count as new for as long again. Jumps before this process started are unknown.
    """

    def __init__(self, now: Callable[[], float] = time.time, steady: Callable[[], float] = steady_seconds) -> None:
        self._now = now
        self._steady = steady
        self._since = now(), steady()
        self._latest = self._since[0]
        self._leaps: list[tuple[float, float]] = []

    def age_seconds(self, modified: float) -> float:
        """Age of a file with this mtime, corrected for clock jumps; negative if in the future."""
        self.look()
        return self._now() - modified - sum(by for until, by in self._leaps if modified <= until)

    def look(self) -> None:
        """Detect jumps of the clock since the last call."""
        wall, steady = self._now(), self._steady()
        expected = self._since[0] + steady - self._since[1]
        by = wall - expected
        # No file from before the jump has a later mtime than the latest time that the clock has shown until then.
        latest = max(self._latest, expected)
        self._latest = max(latest, wall)
        self._since = wall, steady
        if by > _LEAP_SECONDS:
            self._leaps.append((latest + _ROUNDING_SECONDS, by))
        while by < -_LEAP_SECONDS and self._leaps:
            # Set back: undo the last jump, or a part of it.
            until, forward = self._leaps.pop()
            by += forward
            if by > _LEAP_SECONDS:
                self._leaps.append((until, by))


CLOCK = WallClock()
"""The clock of this process, shared so that it covers the longest possible time."""


class Triage:
    """Reads each waiting file once and gives the verdict on it.

    The verdict depends on the file's bytes, the settings, the ledger and the model; on the clock only for the age of a file
    and for how long an unfinished file has not changed.
    """

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        ledger: Ledger,
        *,
        patient: bool,
        clock: WallClock = CLOCK,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patient`: wait for unfinished files; otherwise they count as broken at once."""
        self._paths = paths
        self._settings = settings
        self._ledger = ledger
        self._patient = patient
        self._clock = clock
        self._monotonic = monotonic
        self._unfinished: dict[str, tuple[Signature, float]] = {}
        self._refused: dict[str, tuple[float, float]] = {}
        self._deadly: dict[str, str] = {}
        self._unreadable: set[str] = set()

    def always_reject(self, name: str, reason: str) -> None:
        """Reject this file unread: it has repeatedly killed the process that worked on it."""
        self._deadly[name] = reason

    def always_defer(self, name: str) -> None:
        """Defer this file whenever it can't be read, instead of failing the batch: it has failed repeatedly."""
        self._unreadable.add(name)

    def verdict_on(self, name: str, model: ModelFacts | None) -> Verdict | None:
        """The verdict on one waiting file; None if it is gone.

        An I/O error is not a verdict on the file. If only this file can't be read, it is deferred with the error, and the
        others are trained on.

        Raises:
            MachineError: an I/O error; nothing that was accepted in this batch may be trained on.
        """
        path = self._paths.buffer / name
        try:
            status = _status_of(path)
            if name in self._deadly:
                return self._rejected(name, "", None, self._deadly.pop(name))  # the next file of this name may be harmless
            if self._needs_time(name, signature_of(status)):
                return Deferred(name)
            buffer.check_movable(self._paths, name, status)
            data = _read_patiently(path, self._settings.limits.max_memory_bytes)
        except FileNotFoundError:
            return None
        except atomic_files.NotARegularFileError as error:
            return self._rejected(name, "", None, f"it is {error.strerror}; a regular file is needed")
        except OverflowError as error:
            limit = self._settings.limits.max_memory_bytes
            reason = f"it is {error} long; at most {limit} bytes (limits.max_memory_bytes) are allowed"
            return self._rejected(name, "", signature_of(status), reason)
        except OSError as error:
            if error.errno not in _FAULTS_OF_ONE_FILE and name not in self._unreadable:
                raise MachineError(f"reading {path}", str(error)) from error
            return self._left_for_later(name, error)
        self._refused.pop(name, None)
        return self._judge_data(name, data, status, model)

    def _judge_data(self, name: str, data: bytes, status: os.stat_result, model: ModelFacts | None) -> Verdict:
        signature = signature_of(status)
        sha256 = hashlib.sha256(data).hexdigest()
        age_seconds = self._clock.age_seconds(status.st_mtime)
        known = self._ledger.trained_as(sha256)
        if known is not None:
            return self._seen_before(name, sha256, signature, data, known)
        try:
            episode = episode_file.read(data, self._settings.limits)
        except EpisodeError as error:
            # Some writers allocate a file before they fill it; a sound archive never begins with zeros.
            unfinished = error.reason in _MAY_BE_UNFINISHED or not data[:4].strip(b"\0")
            if unfinished and not self._stood_still(name, signature):
                return Deferred(name)
            return self._rejected(name, sha256, signature, f"{error} [{error.reason}]")
        self._unfinished.pop(name, None)
        as_written = episode
        if model is not None:
            try:
                episode = fitted(episode, model)
            except EpisodeError as error:
                needs_widening = self._needs_widening(name, episode, model)
                if needs_widening is not None:
                    return self._too_late(name, sha256, signature, episode, age_seconds, model) or needs_widening
                return Excluded(name, sha256, signature, REJECTED, f"{error} [{error.reason}]", of_another_game=True)
        return self._too_late(name, sha256, signature, episode, age_seconds, model) or Accepted(
            name, sha256, signature, data, episode, episode is not as_written
        )

    def _needs_widening(self, name: str, episode: Episode, model: ModelFacts) -> NeedsWidening | None:
        """The verdict on an episode that would fit a widened model, if learner.grow allows that; otherwise None."""
        grown = alignment.grown(episode, model.layout) if self._settings.learner.grow else None
        limits = self._settings.limits
        if grown is None or grown.state_width > limits.max_state_width or grown.actions.outputs > limits.max_actions:
            return None
        try:
            fitted(episode, dataclasses.replace(model, layout=grown))
        except EpisodeError:
            return None
        features, actions = (
            grown.state_names[len(model.layout.state_names) :],
            grown.action_names[len(model.layout.action_names) :],
        )
        return NeedsWidening(name, features, actions)

    def _seen_before(
        self, name: str, sha256: str, signature: Signature, data: bytes, known: tuple[str, int, str]
    ) -> Excluded | AlreadyTrained:
        former_name, version, stored_as = known
        if name == former_name and buffer.is_free(self._paths, TRAINED, stored_as, name):
            return AlreadyTrained(name, stored_as, signature, data)
        return duplicate(name, sha256, signature, "", (former_name, version))

    def _too_late(
        self, name: str, sha256: str, signature: Signature, episode: Episode, age_seconds: float, model: ModelFacts | None
    ) -> Excluded | None:
        twin = self._ledger.sha256_of_id(episode.episode_id) if episode.episode_id else None
        former = self._ledger.trained_as(twin) if twin else None
        if former is not None:
            return duplicate(name, sha256, signature, episode.episode_id, former[:2])
        limits = self._settings.learner
        too_old = bool(limits.max_file_age) and age_seconds > limits.max_file_age
        written = signature[2] / 1e9
        if too_old and age_seconds - pause_file.seconds_since(self._paths, written, time.time()) > limits.max_file_age:
            reason = f"it is older than max_file_age, {limits.max_file_age:g} s"
            return Excluded(name, sha256, signature, STALE, reason, steps=episode.steps)
        played = episode.policy_version
        if limits.max_version_lag and model and played is not None and model.version - played > limits.max_version_lag:
            reason = f"policy version {played} played it, more than max_version_lag, {limits.max_version_lag}, before the model's"
            return Excluded(name, sha256, signature, STALE, reason, steps=episode.steps)
        return None

    def _left_for_later(self, name: str, error: OSError) -> Deferred:
        """Defer a file that can't be read, with exponential back-off."""
        shortest, longest = _REFUSED_AGAIN_SECONDS
        wait_seconds = min(max(shortest, 2 * self._refused.get(name, (0.0, 0.0))[1]), longest)
        self._refused[name] = self._monotonic() + wait_seconds, wait_seconds
        return Deferred(name, f"{visible(name)} can't be read: {error}")

    def _needs_time(self, name: str, signature: Signature) -> bool:
        """Whether not to read a file yet: it failed a moment ago, or is unfinished and has not changed."""
        refused = self._monotonic() < self._refused.get(name, (0.0, 0.0))[0]
        return refused or (self._unfinished.get(name, (None, 0.0))[0] == signature and not self._stood_still(name, signature))

    def _stood_still(self, name: str, signature: Signature) -> bool:
        """Whether an unfinished file has not changed for `settle_seconds` and so counts as broken."""
        if not self._patient:
            return True
        seen, since = self._unfinished.get(name, (None, 0.0))
        if seen != signature:
            self._unfinished[name] = signature, self._monotonic()
            return self._settings.learner.settle_seconds == 0
        return self._monotonic() - since >= self._settings.learner.settle_seconds

    def _rejected(self, name: str, sha256: str, signature: Signature | None, reason: str) -> Excluded:
        self._unfinished.pop(name, None)
        return Excluded(name, sha256, signature, REJECTED, reason)


def send_excluded(send: Send, item: Excluded) -> None:
    send("set_aside", name=visible(item.name), fate=item.fate, reason=item.reason)
