"""Write a file atomically, read it whole, move it without ever overwriting.

Every change of the project's folders goes through these functions, so that platform rules are in one place: flushes for
durability across power cuts, and retries on Windows, which refuses to replace or open a file while another process
(a reader, a virus scanner) has it open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from background_training.paths import PARTIAL_SUFFIX

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Result = TypeVar("Result")

_SHARING_VIOLATIONS = (5, 32, 33)  # WinError: access denied, sharing violation, lock violation
_FURTHER_BYTES = 1 << 16
_RETRY_WAITS_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.4, 0.6)  # 1.6 s in all


class NotARegularFileError(OSError):
    """The path is a folder, link, pipe or device."""


def retry_while_shared(
    action: Callable[[], Result], sleep: Callable[[float], None] = time.sleep, platform: str = sys.platform
) -> Result:
    """Do `action`; on Windows, try again for about 1.6 s while another process has the file open.

    Raises:
        OSError: any other failure at once, a sharing violation after the last try.
    """
    for wait_seconds in _RETRY_WAITS_SECONDS:
        try:
            return action()
        except OSError as error:
            if not _is_sharing_violation(error, platform):
                raise
        sleep(wait_seconds)
    return action()


def _is_sharing_violation(error: OSError, platform: str) -> bool:
    """Whether another process has the file open. open() goes through the C library there, which leaves only EACCES of it."""
    number = getattr(error, "winerror", None)
    return number in _SHARING_VIOLATIONS if number is not None else platform == "win32" and error.errno == errno.EACCES


def partial_path(path: Path) -> Path:
    """The name under which `path` is being written: hidden, and matched by no reader's "*.npz"."""
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


def write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    """Put `data` under the name `path`, whole or not at all, replacing what was there.

    A reader in another process sees the old bytes or the new ones. With `durable`, this holds after a power cut too;
    without, the file may then be empty or truncated.

    Raises:
        OSError: nothing has changed under `path`; a partial file beside it may remain and is overwritten next time.
    """
    file, partial = _open_partial(path)
    with file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
        if fcntl is not None:
            # Before closing, which releases the mark: otherwise a sweep could remove the finished partial file.
            os.replace(partial, path)
    if fcntl is None:
        try:
            retry_while_shared(lambda: os.replace(partial, path))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
    if durable:
        sync_folder(path.parent)


def _open_partial(path: Path) -> tuple[BinaryIO, Path]:
    """Open the partial file of `path` exclusively, under another name if another writer holds it."""
    partial = partial_path(path)
    file = _take(partial)
    if file is None:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        file = open(partial, "xb")  # noqa: SIM115  # the caller closes it
        mark_as_being_written(file.fileno())
    return file, partial


def _take(partial: Path) -> BinaryIO | None:
    """Open a partial file, empty; None if another writer has it, or a sweep removes it at this moment."""
    if fcntl is None:
        with contextlib.suppress(OSError):  # fails for a file that a running writer has open
            os.unlink(partial)
        try:
            return open(partial, "xb")
        except FileExistsError:
            return None
    # Truncated only after it is ours: a finished one may be about to be renamed.
    flags = os.O_WRONLY | os.O_CREAT | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK") | _flag("O_CLOEXEC")
    file = open(os.open(partial, flags, 0o666), "wb")  # noqa: SIM115  # the caller closes it
    try:
        if mark_as_being_written(file.fileno()) and os.path.samestat(os.fstat(file.fileno()), os.lstat(partial)):
            file.truncate(0)
            return file
    except FileNotFoundError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def mark_as_being_written(descriptor: int) -> bool:
    """Hold a lock on an open file, which the kernel releases when this process dies.

    Windows needs none: an open file can't be removed there. On a file system without locks there is no mark,
    and `remove_if_abandoned` does not remove the file.

    Returns:
        False if another process holds the mark.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def remove_if_abandoned(path: Path) -> bool:
    """Remove a partial file of ours if no running process is writing it; True if it was removed."""
    if fcntl is None:
        try:
            os.unlink(path)
        except OSError:
            return False
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK") | _flag("O_CLOEXEC"))
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def append_whole(path: Path, data: bytes, *, durable: bool) -> None:
    """Add `data` to the end of `path` in one write; with `durable`, return only when it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _flag("O_BINARY") | _flag("O_CLOEXEC"), 0o666)
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the directory, so that its names survive a power cut. Does nothing on Windows, which has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | _flag("O_CLOEXEC"))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, durable: bool) -> None:
    """Create `folder` unless it exists; its parent must exist."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    if durable:
        sync_folder(folder.parent)


def exists(path: Path) -> bool:
    """Whether the name is taken, by anything. Unlike os.path.exists, an input/output error is raised."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def move(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which must be free.

    For the process that holds the root's lock only: no other process creates the name between check and rename.

    Raises:
        FileExistsError: the name is taken by another file. Nothing has changed.
        FileNotFoundError: there is no source.
    """
    if not exists(target):
        retry_while_shared(lambda: os.rename(source, target))
    elif not is_half_moved(source, target):
        raise FileExistsError(errno.EEXIST, "the name is taken", str(target))
    elif source.is_dir() and not source.is_symlink():
        os.rmdir(source)
    else:
        # rename() of two names of one file would do nothing.
        os.unlink(source)


def is_half_moved(source: Path, target: Path) -> bool:
    """Whether a power cut interrupted a move between the names: both are one file, or `source` is an emptied folder.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    first, second = os.lstat(source), os.lstat(target)
    if stat.S_ISDIR(first.st_mode) and stat.S_ISDIR(second.st_mode):
        return not os.listdir(source)
    return os.path.samestat(first, second)


def remove_if_there(path: Path) -> bool:
    """Remove a file; True if there was one."""
    try:
        retry_while_shared(lambda: os.unlink(path))
    except FileNotFoundError:
        return False
    return True


def read_regular_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a whole file without following a link or blocking on a pipe.

    Raises:
        NotARegularFileError: a folder, link, pipe, socket or device; nothing was opened.
        FileNotFoundError: it does not exist.
        OverflowError: it is longer than `max_bytes`; nothing was read.
        OSError: the operating system failed; the file may be sound.
    """
    descriptor = _opened_to_read(path)
    try:
        size = os.fstat(descriptor).st_size
        if max_bytes is not None and size > max_bytes:
            raise OverflowError(f"{size} bytes")
        data = _read_to_end(descriptor, size, max_bytes)
    finally:
        os.close(descriptor)
    if max_bytes is not None and len(data) > max_bytes:
        raise OverflowError(f"more than {max_bytes} bytes")
    return data


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file that is too large to read whole; the caller closes it.

    Raises:
        NotARegularFileError, FileNotFoundError, OSError: as `read_regular_file` does.
    """
    return os.fdopen(_opened_to_read(path), "rb")


def _opened_to_read(path: Path) -> int:
    before = os.lstat(path)
    if not stat.S_ISREG(before.st_mode):
        raise NotARegularFileError(errno.EINVAL, _kind(before.st_mode), str(path))
    flags = os.O_RDONLY | _flag("O_BINARY") | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK") | _flag("O_CLOEXEC")
    descriptor = retry_while_shared(lambda: os.open(path, flags))
    opened = os.fstat(descriptor)
    if not stat.S_ISREG(opened.st_mode):
        os.close(descriptor)
        raise NotARegularFileError(errno.EINVAL, _kind(opened.st_mode), str(path))
    return descriptor


def _read_to_end(descriptor: int, size: int, max_bytes: int | None) -> bytes:
    """Read a file of about `size` bytes; one that grows meanwhile, until it exceeds `max_bytes`."""
    parts = [os.read(descriptor, size + 1)]
    length = len(parts[0])
    while max_bytes is None or length <= max_bytes:
        further = os.read(descriptor, _FURTHER_BYTES)
        if not further:
            break
        parts.append(further)
        length += len(further)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _kind(mode: int) -> str:
    names = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "not a regular file")


def _flag(name: str) -> int:
    """An os.open flag, or 0 where the platform lacks it."""
    return int(getattr(os, name, 0))


Signature = tuple[int, int, int]
"""Number in the file system, size in bytes, time of the last change in nanoseconds."""


def signature_of(status: os.stat_result) -> Signature:
    """The signature from a stat result."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def signature(path: Path) -> Signature | None:
    """The signature of the file; None if it does not exist.

    Raises:
        OSError: stat failed; the file may exist.
    """
    try:
        return signature_of(os.stat(path))
    except FileNotFoundError:
        return None


def free_bytes(folder: Path) -> float | None:
    """Free bytes on the disk of a folder, which need not exist yet; None if unknown."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return float(shutil.disk_usage(folder).free)
    except OSError:
        return None
