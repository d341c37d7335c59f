"""The life of an episode file: deposited, waiting, then trained, stale, duplicate or rejected.

Every move of an episode file is in this module. Games deposit; the process that holds the root's worker lock moves files
out of the buffer. Nothing here deletes an episode: a file is removed from the buffer only after its bytes have a name in
the archive.

A foreign writer may replace a file at any moment, also between the last check and the call that removes its name. So the name
is not removed but renamed into a folder where no other process writes; there the file is checked again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.episodes import episode_file
from background_training.paths import EPISODE_SUFFIX, REASON_SUFFIX, Paths, is_episode_name
from background_training.storage import atomic_files
from background_training.storage.atomic_files import Signature, signature_of

TRAINED, STALE, DUPLICATE, REJECTED = "trained", "stale", "duplicate", "rejected"
DELETED = "deleted"
"""The fate of an archived episode that retention has deleted."""

_KEPT_NAME = re.compile(r"(?![.-])[A-Za-z0-9._-]{1,120}\Z")
_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)")
_OUR_PARTIAL = re.compile(r"\.game_\d{8}_\d{6}_[A-Za-z0-9]+_[0-9a-f]{8}\.npz\.part\Z")
_ANY_PARTIAL = re.compile(r"\..+\.part\Z", re.DOTALL)


@dataclass(frozen=True)
class Departure:
    """A waiting file to be moved out of the buffer.

    signature: of the file that was read (see atomic_files.signature), or None to move any file of that name.
    data: its bytes, kept in case the file has been replaced by a newer one meanwhile.
    note: the text of its reason file; "" for none.
    """

    name: str
    fate: str
    stored_as: str
    signature: Signature | None = None
    data: bytes | None = None
    note: str = ""


def deposit(paths: Paths, arrays: Mapping[str, Any], result: str = "Unknown", *, durable: bool = True) -> Path:
    """Drop an episode into the buffer under a unique name.

    Args:
        arrays: see docs/reference/episode-format.md; `states`, `actions` and `rewards` are needed.
        result: how the game ended, for the file's name ("Victory", "Defeat", ...).

    Raises:
        EpisodeError: the arrays make no episode.
        OSError: the operating system failed; no learner will see a partial file.
    """
    return deposit_packed(paths, episode_file.pack(arrays), result, durable=durable)


def deposit_packed(paths: Paths, data: bytes, result: str = "Unknown", *, durable: bool = True) -> Path:
    """Drop the bytes of an episode file into the buffer, as `deposit` does.

    Raises:
        OSError: the operating system failed; no learner will see a partial file.
    """
    word = re.sub(r"[^A-Za-z0-9]", "", result) or "Unknown"
    name = f"game_{time.strftime('%Y%m%d_%H%M%S')}_{word[:40]}_{secrets.token_hex(4)}{EPISODE_SUFFIX}"
    os.makedirs(paths.buffer, exist_ok=True)
    path = paths.buffer / name
    atomic_files.write_atomically(path, data, durable=durable)
    return path


def waiting_names(paths: Paths) -> list[str]:
    """The names of all waiting files, in the order of their bytes.

    Raises:
        OSError: the buffer can't be listed; that does not mean that it is empty.
    """
    listed = os.listdir(paths.buffer)
    # Faster start with 100,000 files: for plain names, nearly all, this is equivalent.
    names = [name for name in listed if (name.endswith(EPISODE_SUFFIX) and name[0] != ".") or is_episode_name(name)]
    return sorted(names) if "".join(names).isascii() else sorted(names, key=os.fsencode)


def check_movable(paths: Paths, name: str, status: os.stat_result) -> None:
    """Reject a file that this user may not move: another user's folder, or a file in a sticky buffer.

    Raises:
        PermissionError: it can't be moved out of the buffer; other files must not wait for it.
    """
    owner = os.geteuid() if hasattr(os, "geteuid") else 0
    movable = not stat.S_ISDIR(status.st_mode) or os.access(paths.buffer / name, os.R_OK | os.W_OK | os.X_OK)
    if movable and owner not in (0, status.st_uid):
        buffer = os.stat(paths.buffer)
        movable = not buffer.st_mode & stat.S_ISVTX or buffer.st_uid == owner
    if not movable:
        raise PermissionError(errno.EACCES, "this user may not move it out of the buffer", name)


def folder_of(paths: Paths, fate: str) -> Path:
    folders = {TRAINED: paths.archive, STALE: paths.stale, DUPLICATE: paths.duplicate, REJECTED: paths.rejected}
    return folders[fate]


def stored_name(paths: Paths, fate: str, name: str, sha256: str, taken: Iterable[str] = ()) -> str:
    """The name `name` gets in the folder of its fate: its own if it is plain and free, else its hash."""
    plain = _KEPT_NAME.match(name) and not _WINDOWS_DEVICE.match(name)
    digest = sha256 or hashlib.sha256(os.fsencode(name)).hexdigest()
    numbered = (f"{digest}.{number}{EPISODE_SUFFIX}" for number in itertools.count(2))
    candidates = itertools.chain([name] if plain else [], [f"{digest}{EPISODE_SUFFIX}"], numbered)
    return next(candidate for candidate in candidates if candidate not in taken and is_free(paths, fate, candidate, name))


def is_free(paths: Paths, fate: str, stored_as: str, name: str) -> bool:
    """Whether a name in the folder of a fate is free, or already taken by `name` itself, half moved before a crash."""
    target = folder_of(paths, fate) / stored_as
    if not atomic_files.exists(target):
        return True
    try:
        return atomic_files.is_half_moved(paths.buffer / name, target)
    except FileNotFoundError:
        return False


def move_out(paths: Paths, departures: Iterable[Departure], *, durable: bool) -> None:
    """Give every file its name in the archive, then remove its name in the buffer.

    Safe to repeat after a crash at any point, once `put_all_back` was called: files that were moved are skipped.
    With `durable`, the new names are on the disk before the first old one is removed, so that no power cut loses a file,
    even on a file system without atomic renames.

    Raises:
        OSError: the machine failed; call again later with the same departures.
    """
    departures = list(departures)
    noted = [departure for departure in departures if departure.note]
    for departure in noted:
        folder = folder_of(paths, departure.fate)
        note_path = folder / f"{departure.stored_as}{REASON_SUFFIX}"
        _write_note(note_path, departure.note, durable=durable)
    still_there = [departure for departure in departures if _arrive(paths, departure, durable=durable)]
    if durable:
        for folder in {folder_of(paths, departure.fate) for departure in departures}:
            atomic_files.sync_folder(folder)
    for departure in still_there:
        _leave(paths, departure.name, folder_of(paths, departure.fate) / departure.stored_as)


def _write_note(path: Path, note: str, *, durable: bool) -> None:
    data = (note + "\n").encode("utf-8", "backslashreplace")
    try:
        if atomic_files.read_regular_file(path, max_bytes=len(data)) == data:
            return
    except (FileNotFoundError, OverflowError):
        pass
    atomic_files.write_atomically(path, data, durable=durable)


def _arrive(paths: Paths, departure: Departure, *, durable: bool) -> bool:
    """Give the file its new name; True if the old one is still to be removed."""
    source, target = paths.buffer / departure.name, folder_of(paths, departure.fate) / departure.stored_as
    try:
        status = os.lstat(source)
    except FileNotFoundError:
        # Moved before, or removed by another program: a trained episode must not be missing in the archive.
        _archive_from_memory(departure, target, durable=durable)
        return False
    if not _is_the_one(departure, status):
        _archive_from_memory(departure, target, durable=durable)
        return False
    try:
        linked = durable and _linked(source, target, status)
        # Checked again under a name that no other process replaces: the file may have been replaced since the first check.
        arrived = _is_the_one(departure, os.lstat(target)) if linked else _moved(paths, departure, target)
        if linked and not arrived:
            atomic_files.remove_if_there(target)  # the second name of a newer file
    except FileNotFoundError:
        if departure.data is None or _is_there_still(source, departure):
            raise
        arrived = linked = False
    if not arrived:
        _archive_from_memory(departure, target, durable=durable)
    return linked and arrived


def _is_the_one(departure: Departure, status: os.stat_result) -> bool:
    return departure.signature is None or signature_of(status) == departure.signature


def _is_there_still(source: Path, departure: Departure) -> bool:
    """Whether the file still has its old name: then the move itself failed."""
    return atomic_files.exists(source) and _is_the_one(departure, os.lstat(source))


def _archive_from_memory(departure: Departure, target: Path, *, durable: bool) -> None:
    """Write the file's bytes to the target: its old name now belongs to a newer file, or to none."""
    if departure.data is not None and not atomic_files.exists(target):
        atomic_files.write_atomically(target, departure.data, durable=durable)


def _linked(source: Path, target: Path, status: os.stat_result) -> bool:
    """Create a hard link; False where the file system has none.

    Raises:
        FileExistsError: the name is taken by another file.
    """
    if stat.S_ISDIR(status.st_mode):
        return _twin_made(source, target)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not atomic_files.is_half_moved(source, target):
            raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_HARD_LINKS:
            raise
        return False
    return True


def _twin_made(source: Path, target: Path) -> bool:
    """Create an empty copy of an empty folder, which can't be linked. False for one that is not empty."""
    if os.listdir(source):
        return False
    if not atomic_files.exists(target):
        os.mkdir(target)
    elif not atomic_files.is_half_moved(source, target):
        raise FileExistsError(errno.EEXIST, "the name is taken", str(target))
    return True


def _moved(paths: Paths, departure: Departure, target: Path) -> bool:
    """Move the file via the intermediate folder; False, with nothing changed, if it was replaced by a newer one."""
    aside = take_aside(paths, departure.name)
    try:
        if _is_the_one(departure, os.lstat(aside)):
            atomic_files.move(aside, target)
            return True
    except OSError:
        with contextlib.suppress(OSError):  # the next start puts it back too
            put_back(paths, aside)
        raise
    put_back(paths, aside)
    return False


def _leave(paths: Paths, name: str, target: Path) -> None:
    """Remove the old name, unless it belongs to another file meanwhile."""
    source = paths.buffer / name
    try:
        if not atomic_files.is_half_moved(source, target):
            return
        if source.is_dir() and not source.is_symlink():
            atomic_files.move(source, target)
            return
        aside = take_aside(paths, name)
    except FileNotFoundError:
        return
    if atomic_files.exists(target) and atomic_files.is_half_moved(aside, target):
        os.unlink(aside)
    else:
        put_back(paths, aside)


def sweep_partials(paths: Paths) -> list[str]:
    """Remove partial files whose writers are gone; return their names.

    A writer of ours holds a lock that ends with it, which proves that it is gone. Partial files of foreign writers in the
    buffer are not touched; in the other folders only this project writes.
    """
    partials = _matching(paths.buffer, _OUR_PARTIAL)
    for folder in (paths.stale, paths.duplicate, paths.rejected, paths.data, paths.models, paths.history):
        partials += _matching(folder, _ANY_PARTIAL)
    return [partial.name for partial in sorted(partials) if atomic_files.remove_if_abandoned(partial)]


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [folder / name for name in os.listdir(folder) if name[0] == "." and pattern.match(name)]


NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.EINVAL}
"""Errors of file systems without hard links."""


def take_aside(paths: Paths, name: str) -> Path:
    """Rename a file of the buffer into the intermediate folder, where it can be checked; return its path.

    A process that is killed before it moves the file on leaves it to `put_all_back`.

    Raises:
        FileNotFoundError: the file or the intermediate folder does not exist.
    """
    aside = paths.leaving / name
    if atomic_files.exists(aside):
        put_back(paths, aside)
    atomic_files.retry_while_shared(lambda: os.rename(paths.buffer / name, aside))
    return aside


def put_back(paths: Paths, aside: Path) -> None:
    """Return a file to its name in the buffer, or to another one if that is taken by a newer file.

    Raises:
        OSError: the operating system failed; the file is still in the intermediate folder.
    """
    target = paths.buffer / aside.name
    while not _returned(aside, target):
        target = paths.buffer / f"returned_{secrets.token_hex(4)}{EPISODE_SUFFIX}"


def _returned(aside: Path, target: Path) -> bool:
    try:
        # A rename could overwrite a newer file; a hard link can't.
        os.link(aside, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(os.lstat(aside), os.lstat(target)):
            return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_HARD_LINKS:
            raise
        if atomic_files.exists(target):
            return False
        atomic_files.retry_while_shared(lambda: os.rename(aside, target))
        return True
    os.unlink(aside)
    return True


def put_all_back(paths: Paths) -> None:
    """Return the files that a killed process left in the intermediate folder; the caller holds the worker lock."""
    for name in sorted(os.listdir(paths.leaving)):
        put_back(paths, paths.leaving / name)
