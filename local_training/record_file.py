"""A file of records of one fixed size: quick to open at any length, and true to the last whole record after any crash."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from local_training import atomic_files

Records = npt.NDArray[np.void]

HEADER_BYTES = 32
_MAGIC = b"BTrecord"
_EDITION_AT = len(_MAGIC) + 8
CHECK_FIELD = "check"
"""Every layout ends with this field, a uint32 over the bytes before it."""


@dataclass(frozen=True)
class Place:
    """How far a reader has come: in which edition of the file, and up to which byte.

    A file gets another edition whenever its former records have changed, and not only been added to.
    """

    edition: bytes = b""
    offset: int = 0


def header(layout: np.dtype[Any], schema: int) -> bytes:
    """The first bytes of a new edition: magic, schema, size of a record, a number that no other edition has."""
    assert layout.itemsize % 4 == 0 and layout.names is not None and layout.names[-1] == CHECK_FIELD
    numbers = np.array([schema, layout.itemsize], "<u4").tobytes()
    return _MAGIC + numbers + secrets.token_bytes(HEADER_BYTES - _EDITION_AT)


def sealed(records: Records) -> bytes:
    """The bytes of records, each with its check."""
    records = records.copy()
    records[CHECK_FIELD] = _checks(records)
    return records.tobytes()


def read(path: Path, layout: np.dtype[Any], schema: int, place: Place) -> tuple[Records, Place, bool]:
    """Read what has been added since `place`; nothing is locked, and a record that is half written is read next time.

    Returns:
        The sound records, where to go on, and whether they are all there are, because the file is another edition.
        No records of a file that is missing, cut within its header, or of another layout.

    Raises:
        OSError: the machine failed, or the name leads to no regular file.
    """
    try:
        # A named pipe would keep whoever opens it waiting.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise atomic_files.NotARegularFileError(errno.EINVAL, "not a regular file", str(path))
        with open(path, "rb") as file:
            found = file.read(HEADER_BYTES)
            if not _is_ours(found, layout, schema):
                return np.empty(0, layout), Place(), place.edition != b""
            edition = found[_EDITION_AT:]
            anew = edition != place.edition
            offset = HEADER_BYTES if anew else place.offset
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return np.empty(0, layout), Place(), place.edition != b""
    records = np.frombuffer(data[: len(data) // layout.itemsize * layout.itemsize], layout)
    sound = records[CHECK_FIELD] == _checks(records)
    # Not beyond the last sound one: what is being written at this moment may be whole the next time.
    passed = int(np.flatnonzero(sound)[-1]) + 1 if sound.any() else 0
    return records[sound], Place(edition, offset + passed * layout.itemsize), anew


def append(path: Path, records: Records, schema: int) -> None:
    """Add records to the end, beginning the file if there is none; never flushed to the disk.

    Raises:
        OSError: the machine failed; a part of a record may have been written, see `mend`.
    """
    data = sealed(records)
    if not atomic_files.exists(path):
        atomic_files.write_atomically(path, header(records.dtype, schema) + data, durable=False)
    else:
        atomic_files.append_whole(path, data, durable=False)


def replace(path: Path, records: Records, schema: int) -> None:
    """Put a new edition with these records in the file's place, whole or not at all.

    Raises:
        OSError: the machine failed, or on Windows a reader had the file open; the former edition is still there.
    """
    atomic_files.write_atomically(path, header(records.dtype, schema) + sealed(records), durable=False)


def mend(path: Path, layout: np.dtype[Any], schema: int) -> None:
    """Cut the torn end that a killed writer left, so that what is added next begins where a record does.

    Raises:
        OSError: the machine failed.
    """
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return
    torn = (size - HEADER_BYTES) % layout.itemsize
    if size >= HEADER_BYTES and torn:
        with open(path, "r+b") as file:
            file.truncate(size - torn)


def _is_ours(found: bytes, layout: np.dtype[Any], schema: int) -> bool:
    return found[:_EDITION_AT] == header(layout, schema)[:_EDITION_AT] and len(found) == HEADER_BYTES


def _checks(records: Records) -> npt.NDArray[np.uint32]:
    """A sum over the words of each record, each with a weight of its own; never 0 for a record of zeros.

    Not a CRC, as NumPy can make this one of a million records at once.
    """
    words = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize).view("<u4")[:, :-1]
    weights = (2654435761 * np.arange(1, words.shape[1] + 1, dtype=np.uint64)).astype(np.uint32) | np.uint32(1)
    with np.errstate(over="ignore"):
        sums: npt.NDArray[np.uint32] = (words * weights).sum(axis=1, dtype=np.uint32) + np.uint32(0x5EA1ED)
    return sums
