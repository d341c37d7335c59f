"""A fingerprint of what determines the last bits of a computation on this machine."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from background_training.algo.network import WIDE_HIDDEN, WIDE_PART_STEPS

_LINKED_WITH_BLAS = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # of NumPy 2, of NumPy 1
_THREAD_COUNTERS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
    "MKL_Get_Max_Threads",
    "bli_thread_get_num_threads",
)


def numeric_fingerprint(hidden: int) -> str:
    """NumPy's version, the number of BLAS threads, and a hash over a fixed product, exp and tanh.

    For wide networks also the partition of gradients (see `network.parts_of`): earlier versions of this program used another
    one, which gives other last bits.

    Matrix products change with the processor's kernels and the number of BLAS threads, exp and tanh with its vector
    units. Where this text is the same, training the same episodes gives the same bits. Not every product shows how many
    threads shared it, so these are counted; "?" stands for a BLAS that can't be asked.
    """
    parts = f" parts {WIDE_PART_STEPS}" if hidden >= WIDE_HIDDEN else ""
    return _fingerprint_with(blas_threads()) + parts


@functools.cache  # NumPy and the processor do not change during a process
def _fingerprint_with(threads: int) -> str:
    rng = np.random.Generator(np.random.PCG64(20260125))
    left = rng.standard_normal((256, 96), dtype=np.float32)
    right = rng.standard_normal((96, 64), dtype=np.float32)
    product = left @ right
    parts = (product, left.T @ left, np.exp(product / 8), np.tanh(product), np.log1p(np.abs(product)))
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    return f"numpy {np.__version__} threads {threads or '?'} {digest[:16]}"


def blas_threads() -> int:
    """Into how many threads NumPy's BLAS of this process may split a product now; 0 if it can't be asked."""
    counter = _thread_counter()
    return int(counter()) if counter else 0


@functools.cache
def _thread_counter() -> Callable[[], Any] | None:
    """The BLAS's own thread counter, looked up in the module that NumPy linked against it."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _LINKED_WITH_BLAS]
    try:
        linked = [ctypes.CDLL(file) for file in files if file]
    except OSError:
        return None
    found = (getattr(library, name, None) for library in linked for name in _THREAD_COUNTERS)
    return next((counter for counter in found if counter is not None), None)
