"""Event files as TensorBoard reads them: scalars to bytes. Pure; without TensorBoard, protobuf or a thread.

A file is a row of records: length (uint64), its check, an `Event`, its check; little-endian throughout. A check is a CRC-32C
turned by 15 bits. An `Event` is a protocol buffer: wall_time = 1 (double), step = 2 (varint), file_version = 3 (text),
summary = 5 { value = 1 { tag = 1, simple_value = 2 (float) } }, session_log = 7 { status = 1 (varint) }.

We write these bytes ourselves. The writers of tensorboardX and TensorBoard do it in a thread, where an error of the disk ends the
thread and not the call, and the former flushes the disk each time, on which the learner waits too.

Source: tensorflow/core/util/event.proto, summary.proto; tensorflow/core/lib/io/record_writer.h. Castagnoli's polynomial.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Checks = npt.NDArray[np.uint32]

_FILE_VERSION = b"brain.Event:2"
_TURN, _OFFSET = 15, 0xA282EAD8
_ONES = np.uint32(0xFFFFFFFF)


def beginning(moment: float) -> bytes:
    """The first records of a file: its version, and a restart that makes readers discard the folder's other files."""
    version = _moment(moment) + _field(3, _FILE_VERSION)
    forget = _moment(moment) + b"\x10\x00" + _field(7, b"\x08\x01")  # SessionLog.START at step 0
    return _framed([version, forget])


def scalars(moments: Floats, steps: Sequence[int], columns: Mapping[str, Floats]) -> bytes:
    """A record for each step, with a value for each tag; what is not a number is left out.

    Args:
        moments: [N], seconds since 1970.
        steps: N of them, not negative.
        columns: by its tag, [N] values.
    """
    begins = [_value_begins(tag) for tag in columns]
    # A number too large for a float32 is infinite there, and is left out like any other that is none.
    with np.errstate(over="ignore"):
        values = np.array(list(columns.values()), "<f4").reshape(len(columns), len(moments)).T
    known = np.isfinite(values)
    events = []
    for moment, step, row, sound in zip(moments, steps, values, known, strict=True):
        raw = row.tobytes()
        summary = b"".join(begins[place] + raw[4 * place : 4 * place + 4] for place in np.flatnonzero(sound))
        events.append(_moment(float(moment)) + b"\x10" + _varint(int(step)) + _field(5, summary))
    return _framed(events)


def crc32c(rows: npt.NDArray[np.uint8]) -> Checks:
    """The CRC-32C of each row, [N, L] bytes to [N] numbers."""
    crc = np.full(len(rows), _ONES)
    for column in np.ascontiguousarray(rows.T):
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ _ONES


def _table() -> Checks:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0))
    return table.astype(np.uint32)


_TABLE = _table()


def _framed(events: Sequence[bytes]) -> bytes:
    lengths = [struct.pack("<Q", len(event)) for event in events]
    parts = zip(lengths, _checks(lengths), events, _checks(events), strict=True)
    return b"".join(part for record in parts for part in record)


def _checks(texts: Sequence[bytes]) -> list[bytes]:
    """The check of each text; those of one length are worked out together."""
    checks = np.zeros(len(texts), "<u4")
    lengths = np.array([len(text) for text in texts])
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length).tolist()
        rows = np.frombuffer(b"".join(texts[place] for place in places), np.uint8).reshape(len(places), length)
        crc = crc32c(rows).astype(np.uint64)
        checks[places] = ((crc >> _TURN | crc << (32 - _TURN)) + _OFFSET) & 0xFFFFFFFF
    return [check.tobytes() for check in checks]


def _moment(moment: float) -> bytes:
    return b"\x09" + struct.pack("<d", moment)


def _value_begins(tag: str) -> bytes:
    """A value up to its four bytes of float."""
    name = _field(1, tag.encode("utf-8"))
    return b"\x0a" + _varint(len(name) + 5) + name + b"\x15"


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
