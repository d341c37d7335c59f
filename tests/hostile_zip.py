"""Build .npy members and zip archives byte by byte, so that each field may lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

STORED, DEFLATED = 0, 8
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")


@dataclass(frozen=True)
class Member:
    """One member; what is None is filled in truthfully."""

    name: bytes
    content: bytes
    method: int = STORED
    packed: bytes | None = None
    declared_bytes: int | None = None
    packed_bytes: int | None = None
    crc: int | None = None
    flags: int = 0
    local_name: bytes | None = None
    local_signature: bytes = b"PK\x03\x04"
    central_signature: bytes = b"PK\x01\x02"
    offset: int | None = None
    extra: bytes = b""

    def complete(self) -> Member:
        packed = self.packed if self.packed is not None else deflated(self.content) if self.method == DEFLATED else self.content
        return replace(
            self,
            packed=packed,
            declared_bytes=len(self.content) if self.declared_bytes is None else self.declared_bytes,
            packed_bytes=len(packed) if self.packed_bytes is None else self.packed_bytes,
            crc=zlib.crc32(self.content) if self.crc is None else self.crc,
            local_name=self.name if self.local_name is None else self.local_name,
        )


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def zeros_deflated(count: int, head: bytes = b"") -> bytes:
    """`head` and `count` zero bytes packed about 1000:1, made without ever holding them."""
    packer, block = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20)
    parts = [packer.compress(head), *(packer.compress(block) for _ in range(count >> 20))]
    return b"".join(parts) + packer.compress(bytes(count % (1 << 20))) + packer.flush()


def zeros_crc(head: bytes, count: int) -> int:
    crc, block = zlib.crc32(head), bytes(1 << 20)
    for _ in range(count >> 20):
        crc = zlib.crc32(block, crc)
    return zlib.crc32(bytes(count % (1 << 20)), crc)


def archive(
    members: Sequence[Member],
    *,
    comment: bytes = b"",
    declared_comment: int | None = None,
    count: int | None = None,
    disk: int = 0,
    before_directory: bytes = b"",
    after_directory: bytes = b"",
    directory_start: int | None = None,
    front: bytes = b"",
) -> bytes:
    """A zip archive of these members; everything else is as the arguments say."""
    body, directory = bytearray(front), bytearray()
    for member in (member.complete() for member in members):
        offset = len(body) if member.offset is None else member.offset
        sizes = (member.crc, member.packed_bytes, member.declared_bytes)
        body += _LOCAL.pack(member.local_signature, 20, member.flags, member.method, 0, 33, *sizes, len(member.local_name), 0)
        body += member.local_name + member.packed
        directory += _CENTRAL.pack(
            member.central_signature, 20, 20, member.flags, member.method, 0, 33, *sizes,
            len(member.name), len(member.extra), 0, 0, 0, 0, offset,
        )  # fmt: skip
        directory += member.name + member.extra
    body += before_directory
    start = len(body) if directory_start is None else directory_start
    number = len(members) if count is None else count
    said = len(comment) if declared_comment is None else declared_comment
    end = _END.pack(b"PK\x05\x06", disk, disk, number, number, len(directory), start, said)
    return bytes(body + directory + after_directory + end + comment)


def npy(header: str | bytes, payload: bytes = b"", version: int = 1, declared_length: int | None = None) -> bytes:
    """An .npy with this very header text."""
    text = header.encode("latin-1") if isinstance(header, str) else header
    length = len(text) if declared_length is None else declared_length
    size = struct.pack("<H", length) if version == 1 else struct.pack("<L", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + payload


def header(descr: str, shape: str, order: str = "False") -> str:
    """The text of an .npy header; each part is written as it stands."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def array(descr: str, shape: str, payload: bytes = b"", order: str = "False") -> bytes:
    return npy(header(descr, shape, order), payload)
