"""Read an untrusted .npz within bounds, and write one: nothing is unpickled, and sizes are checked before memory is allocated.

numpy.load(allow_pickle=False) trusts the sizes that a file declares and accepts overlapping members; here every
declaration is checked against the others and against a limit before anything is unpacked.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import math
import mmap
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.errors import BackgroundTrainingError, NpzError

Array = npt.NDArray[Any]
Content = bytes | mmap.mmap

MAX_HEADER_BYTES = 1024
ENOUGH_BYTES = 12 + MAX_HEADER_BYTES
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|[US][1-9]\d{0,6})\Z", re.ASCII)
_LONGER_TEXT = re.compile(r"[<>|=]?[US][1-9]\d{7,}\Z", re.ASCII)
_NUMPY_HEADER = re.compile(
    rb"\{'descr': '([ -&(-~]{1,20})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:0|[1-9]\d{0,15})L?(?:,|(?:, (?:0|[1-9]\d{0,15})L?)+))?\), \} *\n"
)
"""The header exactly as NumPy writes it; under Python 2 it wrote sizes with an L."""

_PYTHON_2_SIZE = re.compile(rb"(?<=[(, ])(\d+)L(?=[,) ])")

_NOISY_LITERAL = re.compile(rb"\\|^[^'\"]*\d[A-Za-z_]|['\"][^'\"]*[ (,]\d+[A-Za-z_]")
"""What Python's parser would print a warning about: escapes, and numbers that end in letters."""


@dataclass(frozen=True)
class NpyHeader:
    """Dtype and shape of an array from its header; its data start at `data_start`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    data_start: int


def read_header(name: str, start: bytes | memoryview) -> NpyHeader:
    """Read the header of an .npy.

    Args:
        name: the member's, for messages.
        start: its first ENOUGH_BYTES, or all of it if it has fewer.

    Raises:
        NpzError: "bad-header", "wrong-dtype", "too-large" or "pickled-object".
    """
    version = start[6] if len(start) >= 12 and start[:6] == b"\x93NUMPY" else 0
    size_bytes = 2 if version == 1 else 4
    text_start = 8 + size_bytes
    data_start = text_start + int.from_bytes(start[8:text_start], "little")
    if version not in (1, 2, 3) or data_start > min(len(start), text_start + MAX_HEADER_BYTES):
        raise _bad_header(name)
    text = bytes(start[text_start:data_start])
    usual = _NUMPY_HEADER.fullmatch(text)
    if usual is None:
        return _checked_header(name, _literal(name, text), data_start)
    descr, order, sizes = usual.groups()
    shape = tuple([int(size.rstrip(b"L")) for size in sizes.split(b",") if size]) if sizes else ()
    return _checked_header(name, {"descr": descr.decode(), "fortran_order": order == b"True", "shape": shape}, data_start)


def _literal(name: str, text: bytes) -> dict[str, Any]:
    """Parse a header that is not spelt as NumPy does."""
    text = _PYTHON_2_SIZE.sub(rb"\1", text)
    if _NOISY_LITERAL.search(text):
        raise _bad_header(name)
    try:
        fields = ast.literal_eval(text.decode("ascii").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise _bad_header(name) from None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise _bad_header(name)
    return fields


def _bad_header(name: str) -> NpzError:
    return NpzError("bad-header", f"{name} has no sound .npy header", "an array saved by NumPy is needed")


def _checked_header(name: str, fields: dict[str, Any], data_start: int) -> NpyHeader:
    descr, shape, fortran_order = fields["descr"], fields["shape"], fields["fortran_order"]
    if isinstance(descr, str) and "O" in descr:
        raise NpzError(
            "pickled-object", f"{name} holds pickled Python objects", "plain numbers are needed; pickles are never loaded"
        )
    if isinstance(descr, str) and _LONGER_TEXT.match(descr):
        raise NpzError("too-large", f"{name} is of type {descr[:20]}", "a text of fewer than 10,000,000 letters is needed")
    if not isinstance(descr, str) or not _DTYPE.match(descr):
        raise NpzError("wrong-dtype", f"{name} is of type {ascii(descr)[:60]}", "bool, integer, float or text is needed")
    sound = isinstance(shape, tuple) and len(shape) <= 8 and isinstance(fortran_order, bool)
    # NumPy can't represent an empty array whose other sizes overflow.
    if not sound or any(type(size) is not int or size < 0 for size in shape) or math.prod(filter(None, shape)) >= 2**58:
        raise NpzError("bad-header", f"{name} declares the shape {ascii(shape)[:60]}", "a tuple of possible sizes is needed")
    return NpyHeader(_dtype(descr), shape, fortran_order, data_start)


@functools.lru_cache(maxsize=100)
def _dtype(descr: str) -> np.dtype[Any]:
    return np.dtype(descr)


MAX_MEMBERS = 10_000
_FREE_MEMBERS = 100
_MEMBER_BYTES = 200
"""Memory for checking a member beyond the first hundred for overlaps."""
_MAX_COMMENT_BYTES = 65535
_END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
_CENTRAL_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1
_UNKNOWN_16, _UNKNOWN_32 = 0xFFFF, 0xFFFFFFFF
_SUFFIX = b".npy"
_UNPACKED_AT_ONCE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True)
class _Member:
    name: str
    method: int
    crc: int
    packed_bytes: int
    declared_bytes: int
    data_start: int


def read(
    data: Content,
    max_memory_bytes: int,
    wanted: Collection[str] | None = None,
    approve: Callable[[Mapping[str, NpyHeader]], None] | None = None,
) -> dict[str, Array]:
    """Unpack the arrays of an .npz.

    Args:
        data: the whole file.
        max_memory_bytes: what `data`, the unpacked and aligned arrays and a float32 copy of each may take together.
        wanted: names of the arrays to unpack; None unpacks all. Any other member may have any name and any content: only
            that it does not overlap the others is checked. So may members that are not called *.npy.
        approve: called with the headers of all wanted arrays by name before any large array is unpacked; what it raises
            ends the reading.

    Returns:
        Read-only arrays by name, without the suffix ".npy"; aligned, whatever their offset in the file.

    Raises:
        NpzError: "empty", "unfinished", "not-a-zip", "too-many-members", "bad-zip", "overlapping-members",
            "too-large", "bad-header", "pickled-object", "wrong-dtype", "lying-header", "bad-checksum" or "unreadable".
    """
    with _parser_boundary():
        members = _checked_members(data, max_memory_bytes, wanted)
        if approve is not None:
            approve({name: header for name, (_, header, _) in members.items()})
        arrays: dict[str, Array] = {}
        for name, (member, header, content) in members.items():
            if content is None:
                content = _unpack(data, member)
            flat = _aligned(np.frombuffer(content, header.dtype, math.prod(header.shape), header.data_start))
            arrays[name] = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
        return arrays


def headers(data: Content, max_memory_bytes: int) -> dict[str, NpyHeader]:
    """The headers of all arrays of an .npz by name, checked as `read` does, without unpacking any large array."""
    with _parser_boundary():
        return {name: header for name, (_, header, _) in _checked_members(data, max_memory_bytes, None).items()}


@contextlib.contextmanager
def _parser_boundary() -> Iterator[None]:
    """Turn whatever a file makes Python raise into an NpzError."""
    try:
        yield
    except (BackgroundTrainingError, MemoryError):
        raise
    except Exception as error:
        found = f"the archive can't be read ({type(error).__name__}: {ascii(str(error))[1:-1][:100]})"
        raise NpzError("unreadable", found, "an archive as NumPy writes it is needed") from error


_Checked = tuple["_Member", NpyHeader, "bytes | memoryview | None"]
"""A member, its header, and its content if it is small."""


def _checked_members(data: Content, max_memory_bytes: int, wanted: Collection[str] | None) -> dict[str, _Checked]:
    budget = max_memory_bytes - len(data)
    count, start, end = _end_record(data)
    budget -= _MEMBER_BYTES * max(0, count - _FREE_MEMBERS)
    members: dict[str, _Checked] = {}
    for member in _members(data, count, start, end, wanted):
        name = member.name
        small = member.declared_bytes <= _UNPACKED_AT_ONCE_BYTES
        content = _unpack(data, member) if small else None
        header = read_header(_shown(name), content or _unpack(data, member, at_most=ENOUGH_BYTES))
        size = math.prod(header.shape)
        budget -= _memory_bytes(member, header, size)
        if budget < 0:
            found = f"{_shown(name)} of shape {header.shape} takes the file above {max_memory_bytes} bytes of memory"
            raise NpzError("too-large", found, "a smaller file, or a larger limits.max_memory_bytes, is needed")
        if header.data_start + size * header.dtype.itemsize != member.declared_bytes:
            found = f"{_shown(name)} declares shape {header.shape} of {header.dtype} and holds {member.declared_bytes} bytes"
            raise NpzError("lying-header", found, "both must agree")
        members[name] = member, header, content
    return members


def _aligned(values: Array) -> Array:
    """The same values at an aligned address.

    NumPy copies unaligned matrices before a product, in another memory order, which takes another path through the BLAS:
    training a model that was read back would give other last bits than training the one in memory.
    """
    if values.flags.aligned:
        return values
    copy = values.copy()
    copy.flags.writeable = False
    return copy


def _memory_bytes(member: _Member, header: NpyHeader, count: int) -> int:
    """Memory for a member once it is unpacked, aligned, reordered, and copied to float32; for a text, a plain copy."""
    unpacked = member.declared_bytes if member.method == _DEFLATED else 0
    start = header.data_start + (member.data_start if member.method == _STORED else 0)
    if start % header.dtype.alignment and header.dtype != np.float32:  # aligned float32 needs no further copy
        unpacked += count * header.dtype.itemsize
    reordered = member.declared_bytes if header.fortran_order and len(header.shape) > 1 else 0
    return unpacked + reordered + (member.declared_bytes if header.dtype.kind == "U" else 4 * count)


def _members(data: Content, count: int, start: int, end: int, wanted: Collection[str] | None) -> list[_Member]:
    """The members of the wanted arrays; of all others only the offsets are checked."""
    members: list[_Member] = []
    spans: list[tuple[int, int]] = []
    names = None if wanted is None else {name.encode() + _SUFFIX: name for name in wanted}
    position = start
    for _ in range(count):
        (
            raw_name, following, method, flags, crc, packed, declared, offset,
        ) = _central_entry(data, position, end)  # fmt: skip
        position = following
        if names is not None:
            name = names.get(raw_name)
        else:
            name = raw_name[: -len(_SUFFIX)].decode("utf-8", "backslashreplace") if raw_name.endswith(_SUFFIX) else None
        data_start = _data_start(data, offset, raw_name, exact=name is not None)
        spans.append((offset, data_start + packed))
        if name is not None:
            if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
                found = f"{_shown(name)} is {'encrypted' if flags & _ENCRYPTED else f'packed by method {method}'}"
                raise NpzError("bad-zip", found, "members stored or deflated are needed")
            if method == _STORED and packed != declared:
                found = f"{_shown(name)} is stored in {packed} bytes and declares {declared}"
                raise NpzError("lying-header", found, "both must agree")
            members.append(_Member(name, method, crc, packed, declared, data_start))
    if position != end:
        raise NpzError("bad-zip", "the zip directory is longer than its entries", "an archive without gaps is needed")
    _refuse_overlaps(spans, start)
    if len({member.name for member in members}) != len(members):
        raise NpzError("bad-zip", "two members bear one name", "each array once is needed")
    return members


def _end_record(data: Content) -> tuple[int, int, int]:
    """Number of members, and where the zip directory starts and ends."""
    if not data:
        raise NpzError("empty", "the file is empty", "an .npz archive is needed")
    if data[:4] != b"PK\x03\x04"[: len(data)] and data[:4] not in (b"PK\x05\x06", b"PK\x06\x06"):
        raise NpzError("not-a-zip", f"the file starts with {ascii(data[:8])[1:]}", "an .npz archive is needed")
    tail_start = max(0, len(data) - _END_RECORD.size - _MAX_COMMENT_BYTES)
    position = data.rfind(b"PK\x05\x06", tail_start)
    if position < 0 or position + _END_RECORD.size > len(data):
        raise NpzError("unfinished", "the end of the zip archive is missing", "a complete file is needed")
    _, disk, first_disk, here, total, size, start, comment = _END_RECORD.unpack_from(data, position)
    # Bytes after the end are harmless: some transfers pad the last block.
    sound = not disk and not first_disk and here == total and position + _END_RECORD.size + comment <= len(data)
    end = position
    locator = position - _ZIP64_LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        total64, size64, start64, end = _zip64_end_record(data, locator)
        sound = sound and total in (_UNKNOWN_16, total64) and size in (_UNKNOWN_32, size64) and start in (_UNKNOWN_32, start64)
        total, size, start = total64, size64, start64
    if not sound or start + size != end:
        raise NpzError("bad-zip", "the end record of the zip archive contradicts the file", "a sound archive is needed")
    if total > MAX_MEMBERS:
        raise NpzError("too-many-members", f"the archive holds {total} members", f"at most {MAX_MEMBERS} are allowed")
    return total, start, end


def _zip64_end_record(data: Content, locator: int) -> tuple[int, int, int, int]:
    """Number of members, size and start of the directory, and where this record starts; writers may add it to small archives."""
    _, _, position, disks = _ZIP64_LOCATOR.unpack_from(data, locator)
    if position + _ZIP64_END_RECORD.size <= locator and data[position : position + 4] == b"PK\x06\x06":
        _, length, _, _, disk, first_disk, here, total, size, start = _ZIP64_END_RECORD.unpack_from(data, position)
        if disks <= 1 and not disk and not first_disk and here == total and position + 12 + length == locator:
            return total, size, start, position
    raise NpzError("bad-zip", "the zip64 end record contradicts the file", "a sound archive is needed")


def _central_entry(data: Content, position: int, end: int) -> tuple[bytes, int, int, int, int, int, int, int]:
    """Name, where the next entry starts, method, flags, checksum, packed and declared size, and where the member starts."""
    name_start = position + _CENTRAL_ENTRY.size
    if name_start > end:
        raise _damaged_directory()
    (
        signature, _, _, flags, method, _, _, crc, packed, declared,
        name_bytes, extra_bytes, comment_bytes, _, _, _, offset,
    ) = _CENTRAL_ENTRY.unpack_from(data, position)  # fmt: skip
    extra_start = name_start + name_bytes
    following = extra_start + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or following > end:
        raise _damaged_directory()
    if _UNKNOWN_32 in (declared, packed, offset):
        extra = data[extra_start : extra_start + extra_bytes]
        declared, packed, offset = _zip64_sizes(extra, declared, packed, offset)
    return data[name_start:extra_start], following, method, flags, crc, packed, declared, offset


def _damaged_directory() -> NpzError:
    return NpzError("bad-zip", "the zip directory is damaged", "a sound archive is needed")


def _zip64_sizes(extra: bytes, *sizes: int) -> tuple[int, int, int]:
    """Declared size, packed size and offset, taken from the zip64 field where the entry itself has no room."""
    values = list(sizes)
    missing = [index for index, value in enumerate(values) if value == _UNKNOWN_32]
    position = 0
    while missing and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1 and length >= 8 * len(missing) and position + 4 + 8 * len(missing) <= len(extra):
            for index, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, position + 4), strict=True):
                values[index] = value
            break
        position += 4 + length
    return values[0], values[1], values[2]


def _shown(name: str | bytes) -> str:
    """An untrusted name, for a message."""
    return ascii(name).removeprefix("b")[1:-1][:60]


def _data_start(data: Content, offset: int, raw_name: bytes, *, exact: bool) -> int:
    """Where a member's content starts; `exact`: both headers must bear one name."""
    if offset + _LOCAL_HEADER.size > len(data):
        raise NpzError("bad-zip", "a member lies outside the file", "a sound archive is needed")
    fields = _LOCAL_HEADER.unpack_from(data, offset)
    name_start = offset + _LOCAL_HEADER.size
    if fields[0] != b"PK\x03\x04" or (exact and data[name_start : name_start + fields[9]] != raw_name):
        raise NpzError("bad-zip", f"the two headers of {_shown(raw_name)} differ", "a sound archive is needed")
    return int(name_start + fields[9] + fields[10])


def _refuse_overlaps(spans: list[tuple[int, int]], directory_start: int) -> None:
    end_of_last = 0
    for start, end in sorted(spans):
        if start < end_of_last or end > directory_start:
            raise NpzError(
                "overlapping-members",
                f"the member at byte {start} overlaps what lies beside it",
                "members side by side are needed",
            )
        end_of_last = end


def _unpack(data: Content, member: _Member, at_most: int | None = None) -> bytes | memoryview:
    """The member's bytes, or its first `at_most`; the checksum is verified when all are unpacked."""
    packed = memoryview(data)[member.data_start : member.data_start + member.packed_bytes]
    wanted = member.declared_bytes if at_most is None else min(at_most, member.declared_bytes)
    if member.method == _STORED:
        content: bytes | memoryview = packed[:wanted]
    else:
        content = _inflate(member, packed, wanted, whole=at_most is None)
    if at_most is None and zlib.crc32(content) != member.crc:
        raise NpzError("bad-checksum", f"the checksum of {_shown(member.name)} is wrong", "an undamaged file is needed")
    return content


def _inflate(member: _Member, packed: memoryview, wanted: int, *, whole: bool) -> bytes | memoryview:
    # One byte more than declared detects a longer stream without unpacking all of it.
    limit = wanted + 1 if whole else max(1, wanted)
    try:
        if limit <= _UNPACKED_AT_ONCE_BYTES:
            content: bytes | memoryview = zlib.decompressobj(-15).decompress(packed, limit)
        else:
            content = _inflated_piecewise(packed, limit)
    except zlib.error as error:
        raise NpzError("bad-zip", f"{_shown(member.name)} can't be unpacked ({error})", "an undamaged file is needed") from None
    if len(content) > wanted or (whole and len(content) < wanted):
        much = "more" if len(content) > wanted else "fewer"
        found = f"{_shown(member.name)} declares {member.declared_bytes} bytes and unpacks to {much}"
        raise NpzError("lying-header", found, "both must agree")
    return content


def _inflated_piecewise(packed: memoryview, limit: int) -> memoryview:
    """Unpack at most `limit` bytes. In pieces: zlib itself holds the whole twice while it joins its output."""
    unpacker, content, filled = zlib.decompressobj(-15), bytearray(limit), 0
    for start in range(0, len(packed), _PIECE_BYTES):
        piece: bytes | memoryview = packed[start : start + _PIECE_BYTES]
        room = min(_PIECE_BYTES, limit - filled)
        while room:
            unpacked = unpacker.decompress(piece, room)
            content[filled : filled + len(unpacked)] = unpacked
            filled += len(unpacked)
            piece = unpacker.unconsumed_tail
            if not piece and len(unpacked) < room:
                break
            room = min(_PIECE_BYTES, limit - filled)
    return memoryview(content)[:filled].toreadonly()


_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ZIP64_SIZES = struct.Struct("<2H2Q")
_CENTRAL_HEADER = struct.Struct("<4s6H3L5H2L")
_END_HEADER = struct.Struct("<4s4H2LH")
_ZIP_VERSION, _UNIX = 45, 3 << 8
_FIRST_DAY = 0x21  # 1 January 1980: the bytes depend on the arrays alone
_MODE = 0o600 << 16
_IN_THE_EXTRA_FIELD = 0xFFFFFFFF
_TOO_LARGE_BYTES = 1 << 31


def write(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an uncompressed .npz, the same as NumPy writes, but faster: a model of 25 arrays is written for each batch.

    NumPy goes through the zip module, a file object and a Python header for each array; here each member is two structures
    and its bytes. A test compares the bytes with NumPy's. The same arrays give the same bytes at any time.

    Raises:
        ValueError: an array holds Python objects.
    """
    plain = {name: np.asanyarray(value) for name, value in arrays.items()}
    if sum(array.nbytes for array in plain.values()) >= _TOO_LARGE_BYTES or not all(name.isascii() for name in plain):
        return _by_numpy(plain)
    parts: list[bytes] = []
    directory: list[bytes] = []
    position = 0
    for name, array in plain.items():
        content = _npy(array)
        file_name = f"{name}.npy".encode("ascii")
        size, crc = len(content), zlib.crc32(content)
        place = (_ZIP_VERSION, 0, 0, 0, _FIRST_DAY, crc)
        sizes = _ZIP64_SIZES.pack(1, 16, size, size)
        local = _LOCAL_HEADER.pack(b"PK\x03\x04", *place, _IN_THE_EXTRA_FIELD, _IN_THE_EXTRA_FIELD, len(file_name), len(sizes))
        parts += (local, file_name, sizes, content)
        names = (len(file_name), 0, 0, 0, 0, _MODE, position)
        directory += (_CENTRAL_HEADER.pack(b"PK\x01\x02", _ZIP_VERSION | _UNIX, *place, size, size, *names), file_name)
        position += len(local) + len(file_name) + len(sizes) + size
    length = sum(map(len, directory))
    end = _END_HEADER.pack(b"PK\x05\x06", 0, 0, len(plain), len(plain), length, position, 0)
    return b"".join((*parts, *directory, end))


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.hasobject:
        raise ValueError("Object arrays cannot be saved when allow_pickle=False")
    backwards = array.flags.f_contiguous and not array.flags.c_contiguous
    return _npy_header(array.dtype, array.shape, backwards) + array.tobytes("F" if backwards else "C")


@functools.lru_cache(maxsize=1000)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], backwards: bool) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": backwards, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _by_numpy(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
