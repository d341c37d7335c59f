"""What every test gets: a root with an awkward name, a patient look at a condition, and a guard against leaks."""

from __future__ import annotations

import threadpoolctl

from background_training.ipc.process_limits import limit_blas_threads

# Tests that train in this very process compare their bits with those of a worker. The variables are for the processes
# they start; here they come too late, as a plugin of pytest's has loaded NumPy already.
limit_blas_threads()
threadpoolctl.threadpool_limits(1, "blas")

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from background_training.paths import PARTIAL_SUFFIX, Paths

PATIENCE_SECONDS = 300.0
"""How long a test waits for what has to come before it gives it up. It bounds a hang and says nothing about speed: a
machine that is busy with other things may be very late."""
PROMPT_SECONDS = 20.0
"""What takes a second or two on a machine that is free may take so long on one that is not. A test that asserts it sees to
it that what must not be waited for takes minutes, or never comes."""
_LONGEST_LOOK_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""How long a thread or process that has been told to end may take to be gone."""

# How long an example takes, and how many are found in a time, tells of the machine and not of what is tested.
hypothesis.settings.register_profile("any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any speed")

_SHARED_MEMORY = Path("/dev/shm")
_SEGMENT_NAMES = ("psm_", "torch_")  # of multiprocessing and PyTorch; other programs keep files of all kinds there


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS, rest_seconds: float = 0.01) -> None:
    """Look again and again until the condition holds; fail when the time is up.

    Time in which the whole machine stood still is not counted: who waits for others was not slower than they.
    """
    waited, before = 0.0, time.monotonic()
    while not condition():
        if waited >= seconds:
            pytest.fail(f"it did not come true within {seconds:g} s")
        time.sleep(rest_seconds)
        moment = time.monotonic()
        waited, before = waited + min(moment - before, _LONGEST_LOOK_SECONDS), moment


def pytest_configure(config: pytest.Config) -> None:
    # Who is started in the background of a shell, as CI may be, inherits that Ctrl+C is ignored, and so would the
    # commands that the tests stop with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "leaves_partials: the test means to leave a partial file behind")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder whose name holds a space and letters beyond ASCII."""
    folder = tmp_path / "some Wörk ☃"
    folder.mkdir()
    return folder


@pytest.fixture
def paths(root: Path) -> Paths:
    """A root with all its folders."""
    made = Paths(root)
    for folder in made.folders:
        folder.mkdir(exist_ok=True)
    return made


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test after which a thread, child process, shared-memory segment or partial file is still there."""
    threads, children, segments = living_threads(), _children(), _segments()
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None

    yield

    def left() -> list[str]:
        return [
            *(f"thread {thread.name}" for thread in living_threads() - threads),
            *(f"process {pid}: {_command(pid)}" for pid in _children() - children),
            *(f"shared memory {name}" for name in _segments() - segments if not _is_mapped(name)),
        ]

    deadline = time.monotonic() + GRACE_SECONDS
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.02)
    if folder is not None and request.node.get_closest_marker("leaves_partials") is None:
        found += [f"partial file {path.name}" for path in _partials(folder)]
    if found:
        pytest.fail("left behind: " + "; ".join(found))


def living_threads() -> set[threading.Thread]:
    """All threads but that in which watchdog, from version 7 on, reads inotify: it is kept for the rest of the process."""
    return {thread for thread in threading.enumerate() if thread.is_alive() and type(thread).__name__ != "InotifyFD"}


def _children() -> set[int]:
    """All living descendants, but for those that Python starts once for itself and keeps."""
    if _has_no_child():
        return set()
    try:
        family = psutil.Process().children(recursive=True)
    except psutil.Error:
        return set()
    return {child.pid for child in family if not _may_stay(child.pid)}


def _has_no_child() -> bool:
    """Whether the kernel says so at once; psutil looks at every process of the machine, before and after every test."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _may_stay(pid: int) -> bool:
    command = _command(pid)
    return not command or "multiprocessing.resource_tracker" in command or "multiprocessing.forkserver" in command


def _command(pid: int) -> str:
    """How a process was started; empty if it is gone, or dead and not yet waited for."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _segments() -> set[str]:
    if not _SHARED_MEMORY.is_dir():
        return set()
    # A segment is a file; folders there are other programs' work places.
    return {entry.name for entry in os.scandir(_SHARED_MEMORY) if entry.is_file() and entry.name.startswith(_SEGMENT_NAMES)}


def _is_mapped(name: str) -> bool:
    """Whether a stranger's process uses a segment; other programs of this machine make some too."""
    family = {os.getpid(), *_children()}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) in family:
            continue
        try:
            if name in maps.read_text(errors="replace"):
                return True
        except OSError:
            continue  # gone meanwhile, or another user's
    return False


def _partials(folder: Path) -> list[Path]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent) / name for name in names if name.endswith(PARTIAL_SUFFIX)]
    return found


@pytest.fixture
def runs_without_a_learner(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The run command in this process, without its learner and picture; games in tests/ are found, SIGTERM is put back."""
    from background_training.commands import run
    from background_training.runs import learning_curve

    monkeypatch.setattr(run, "_started_learner", lambda *_: None)
    monkeypatch.setattr(learning_curve, "draw", lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
