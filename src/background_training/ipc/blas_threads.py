"""One BLAS thread per process: the bits of a matrix product depend on how many share it. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

BLAS_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_blas_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask the BLAS for one thread; heard only by processes that have not loaded it yet."""
    for variable in BLAS_THREAD_VARIABLES:
        environment[variable] = "1"
