"""The bytes between a vector env and its workers: a one-byte ring to wake the other side, checked frames for all else.

A step whose actions and results all lie in shared memory needs one ring each way. Anything with content is a
frame: mark, length, checksum, pickle. A stray print or a mad game that writes into the pipe is found out by mark or checksum.
"""

from __future__ import annotations

import pickle
import struct
import zlib
from typing import Any

import cloudpickle

from background_training.envs.vector_errors import GarbledMessageError

RING = b"\x81"
"""Look into the shared memory; it may come too late, or twice, and means nothing by itself."""

_MARK = 0xF5
_HEADER = struct.Struct(">BII")
_LONGEST = 1 << 30


def pack(message: object) -> bytes:
    """Make a frame. What pickle can't take (lambdas, classes of a script) goes by value."""
    try:
        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):
        payload = cloudpickle.dumps(message)
    return _HEADER.pack(_MARK, len(payload), zlib.crc32(payload)) + payload


class FrameReader:
    """Cuts a stream of bytes into messages, and drops the rings between them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Take what arrived and return what is complete.

        Raises:
            GarbledMessageError: the bytes are neither ring nor frame, or a frame's checksum is wrong.
        """
        self._bytes += data
        items: list[Any] = []
        while self._bytes:
            first = self._bytes[0]
            if first == RING[0]:
                del self._bytes[:1]
                continue
            if first != _MARK:
                raise GarbledMessageError(f"a frame begins with {bytes(self._bytes[:16])!r}")
            payload = self._whole_payload()
            if payload is None:
                break
            items.append(_unpack(payload))
        return items

    def _whole_payload(self) -> bytes | None:
        if len(self._bytes) < _HEADER.size:
            return None
        _, length, checksum = _HEADER.unpack_from(self._bytes)
        if length > _LONGEST:
            raise GarbledMessageError(f"a frame claims {length} bytes")
        end = _HEADER.size + length
        if len(self._bytes) < end:
            return None
        payload = bytes(self._bytes[_HEADER.size : end])
        del self._bytes[:end]
        if zlib.crc32(payload) != checksum:
            raise GarbledMessageError(f"the checksum of a frame of {length} bytes is wrong")
        return payload


def _unpack(payload: bytes) -> Any:
    # The checksum was right, so this is what the worker meant; but its classes may not exist here.
    try:
        return pickle.loads(payload)
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError, TypeError) as error:
        raise GarbledMessageError(f"a message can't be unpickled ({type(error).__name__}: {error})") from error
