"""Write an .npz byte for byte as NumPy does, but faster: a model of 25 arrays is written for each batch.

NumPy goes through the zip module, a file object and a Python header for each array; here each member is two structures and
its bytes. A test compares the bytes with NumPy's.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_LOCAL = struct.Struct("<4s5H3L2H")
_SIZES = struct.Struct("<2H2Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _UNIX = 45, 3 << 8
_FIRST_DAY = 0x21  # 1 January 1980: the bytes depend on the arrays alone
_MODE = 0o600 << 16
_IN_THE_EXTRA_FIELD = 0xFFFFFFFF
_TOO_LARGE_BYTES = 1 << 31


def packed(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an uncompressed .npz.

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
        content = _member(array)
        file_name = f"{name}.npy".encode("ascii")
        size, crc = len(content), zlib.crc32(content)
        place = (_VERSION, 0, 0, 0, _FIRST_DAY, crc)
        sizes = _SIZES.pack(1, 16, size, size)
        local = _LOCAL.pack(b"PK\x03\x04", *place, _IN_THE_EXTRA_FIELD, _IN_THE_EXTRA_FIELD, len(file_name), len(sizes))
        parts += (local, file_name, sizes, content)
        names = (len(file_name), 0, 0, 0, 0, _MODE, position)
        directory += (_CENTRAL.pack(b"PK\x01\x02", _VERSION | _UNIX, *place, size, size, *names), file_name)
        position += len(local) + len(file_name) + len(sizes) + size
    length = sum(map(len, directory))
    end = _END.pack(b"PK\x05\x06", 0, 0, len(plain), len(plain), length, position, 0)
    return b"".join((*parts, *directory, end))


def _member(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.hasobject:
        raise ValueError("Object arrays cannot be saved when allow_pickle=False")
    backwards = array.flags.f_contiguous and not array.flags.c_contiguous
    return _header(array.dtype, array.shape, backwards) + array.tobytes("F" if backwards else "C")


@functools.lru_cache(maxsize=1000)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...], backwards: bool) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": backwards, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _by_numpy(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
