"""What the vector env tests share: waiting with a deadline, and the proof that nothing is left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until the condition holds; fail the test after the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def descriptors() -> list[str]:
    """What every open descriptor of this process leads to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # it was the one that listed the others
    return found


def step_until(envs, condition: Callable[[tuple], object], actions, seconds: float = 20.0) -> tuple:
    """Step until a result fulfils the condition."""
    end = time.monotonic() + seconds
    while True:
        results = envs.step(actions)
        if condition(results):
            return results
        assert time.monotonic() < end, "the condition did not come true in time"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process, thread or descriptor may outlive a test; conftest.py sees to shared memory."""
    before, threads = descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    wait_for(lambda: not psutil.Process().children(recursive=True), 3)
    assert set(threading.enumerate()) <= threads
    assert len(descriptors()) <= len(before), sorted(set(descriptors()) - set(before))
