"""What the vector env tests share: stepping until something is so, and the proof that nothing is left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest
from conftest import GRACE_SECONDS, wait_until


def descriptors() -> list[str]:
    """What every open descriptor of this process leads to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # it was the one that listed the others
    return found


def step_until(envs, condition: Callable[[tuple], object], actions) -> tuple:
    """Step until a result fulfils the condition."""
    fulfilled: list[tuple] = []

    def look() -> bool:
        results = envs.step(actions)
        if condition(results):
            fulfilled.append(results)
        return bool(fulfilled)

    wait_until(look, rest_seconds=0.0)
    return fulfilled[0]


def is_back(*indexes: int) -> Callable[[tuple], bool]:
    """Whether none of these rows, or of all, is one of a failed env's."""

    def look(results: tuple) -> bool:
        restarted = results[4].get("worker_restarted", np.zeros(len(results[1]), bool))
        return not (restarted[list(indexes)] if indexes else restarted).any()

    return look


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process, thread or descriptor may outlive a test; conftest.py checks shared memory."""
    before, threads = descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    wait_until(lambda: not psutil.Process().children(recursive=True), GRACE_SECONDS)
    assert set(threading.enumerate()) <= threads
    assert len(descriptors()) <= len(before), sorted(set(descriptors()) - set(before))
