"""Read the header of a stranger's .npy: which numbers, of what shape; nothing in it is believed that can't be."""

from __future__ import annotations

import ast
import functools
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from background_training.errors import NpzError

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
"""What Python's parser would print a warning about on somebody's console: escapes, and numbers that end in letters."""


@dataclass(frozen=True)
class NpyHeader:
    """What an array is, as its header says; its numbers start at `data_start`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    data_start: int


def read(name: str, start: bytes | memoryview) -> NpyHeader:
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
    """The header of a writer that spells it in its own way."""
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
    # NumPy can't name an empty array whose other sizes multiply beyond its reach.
    if not sound or any(type(size) is not int or size < 0 for size in shape) or math.prod(filter(None, shape)) >= 2**58:
        raise NpzError("bad-header", f"{name} declares the shape {ascii(shape)[:60]}", "a tuple of possible sizes is needed")
    return NpyHeader(_dtype(descr), shape, fortran_order, data_start)


@functools.lru_cache(maxsize=100)
def _dtype(descr: str) -> np.dtype[Any]:
    return np.dtype(descr)
