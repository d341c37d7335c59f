"""One way to run a child process: real children are killed, hang, print, and leave descendants behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import PROMPT_SECONDS, wait_until

from background_training.ipc import child, process_group, windows_job
from background_training.ipc.child import Child
from background_training.ipc.supervision import Watchdog

PATIENT = 60.0
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="stops and kills by signals")

Start = Callable[..., Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child that behaves in one way of ipc_children; all are ended at the end."""
    started = []

    def start_child(way: str = "wait", own_group: bool = True) -> Child:
        started.append(Child(child.start("ipc_children", [way], own_group=own_group), own_group=own_group))
        return started[-1]

    yield start_child
    for process in started:
        process.close()


def _ready(process: Child) -> Child:
    message = process.receive(PATIENT)
    assert message is not None and message["event"] == "ready" and message["pid"] == process.pid
    return process


def _descendant(process: Child, *, escapes: bool) -> psutil.Process:
    process.send("start descendant", escapes=escapes)
    message = process.receive(PATIENT)
    assert message is not None
    return psutil.Process(message["pid"])


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_messages_go_both_ways(start: Start) -> None:
    """Any text arrives, and the child's environment has one BLAS thread and UTF-8."""
    process = _ready(start())

    process.send("echo", text="\u00e4 \U0001f600\n\udce4")
    answer = process.receive(PATIENT)

    assert answer is not None and answer["text"] == "\u00e4 \U0001f600\n\udce4"
    assert answer["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert answer["environment"]["PYTHONIOENCODING"] == "utf-8"


def test_a_child_loads_nothing_of_the_callers_main_module(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` starts one child, not a chain of them; its folder is searched for modules."""
    (tmp_path / "game.py").write_text(
        "from background_training.ipc import child\n"
        "from background_training.ipc.child import Child\n"
        "print('main', flush=True)\n"
        "process = Child(child.start('helper'))\n"
        "print(process.receive(60), process.close(exit_seconds=30))\n"
    )
    (tmp_path / "helper.py").write_text(
        "import sys\nfrom background_training.ipc import json_lines\n"
        "json_lines.parent_channel().send('loaded', game='game' in sys.modules)\n"
    )
    (tmp_path / "background_training").mkdir()  # a folder of a package's name in the caller's folder is not in the way

    done = subprocess.run([sys.executable, "game.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENT, check=True)

    assert done.stdout.splitlines() == ["main", "{'event': 'loaded', 'game': False} 0"]


def test_what_a_library_prints_is_no_message(start: Start) -> None:
    """Neither Python's print nor a write to descriptor 1 reaches the channel."""
    process = _ready(start())

    process.send("print")

    assert process.receive(PATIENT) == {"event": "printed"}


def test_garbage_on_stdout_is_skipped() -> None:
    """Lines that are no JSON object with an event, a torn last one included, cost nothing."""
    lines = [b"chatter", b"[1]", b'{"no": "event"}', b'{"event": 3}', b"\xff\x00", b"[" * 10_000, b'{"event": "real"}']
    code = f'import sys; sys.stdout.buffer.write({chr(10).encode().join(lines)!r} + b\'\\n{{"event": "to\')'
    popen = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = Child(popen, own_group=False)

    assert [process.receive(PATIENT), process.receive(PATIENT)] == [{"event": "real"}, None]
    assert process.close(exit_seconds=PATIENT) == 0


@posix_only
def test_a_killed_child_is_noticed_at_once(start: Start) -> None:
    """Its output ends, its exit code names the signal, and messages to it are lost without an error."""
    process = _ready(start())

    process.send("die")

    assert process.receive(PATIENT) is None
    assert process.close(exit_seconds=PATIENT) == -signal.SIGKILL
    assert not process.hung
    process.send("echo", text="lost")


def test_a_child_that_fails_reports_its_exit_code(start: Start) -> None:
    """What it raised is its exit code 1; close does not turn it into a kill."""
    process = start("raise")

    assert process.receive(PATIENT) is None
    assert process.close(exit_seconds=PATIENT) == 1


@posix_only
def test_a_stopped_child_is_killed_as_hung(start: Start) -> None:
    """SIGSTOP stops all its threads; the watchdog ends it, and `hung` says why."""
    process = _ready(start())
    process.send("stop")

    assert process.receive(0.5) is None
    assert process.hung and process.close(exit_seconds=PATIENT) == -signal.SIGKILL


def test_heartbeats_feed_the_watchdog_and_are_no_messages(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child at a long piece of work is heard, and its owner waits for the result alone."""
    fed = []
    monkeypatch.setattr(Watchdog, "feed", lambda self: fed.append(self))
    process = _ready(start("beat"))

    assert process.receive(PATIENT) == {"event": "done"}
    assert len(fed) > 5


@posix_only
def test_descendants_end_with_the_child(start: Start) -> None:
    """What the child has started is killed with it, and also when the child has ended by itself."""
    killed, ended = _ready(start()), _ready(start())
    of_killed, of_ended = _descendant(killed, escapes=False), _descendant(ended, escapes=False)

    killed.close()
    ended.send("exit", code=7)

    assert ended.close(exit_seconds=PATIENT) == 7
    wait_until(lambda: _is_gone(of_killed) and _is_gone(of_ended))


@posix_only
def test_a_descendant_that_keeps_the_output_open_holds_nothing_up(start: Start) -> None:
    """It has left the group, so it is not killed; receive and close return all the same."""
    process = _ready(start())
    escaped = _descendant(process, escapes=True)
    try:
        process.send("exit", code=7)
        began = time.monotonic()

        assert process.receive(5.0) is None
        assert process.close(exit_seconds=PATIENT) == 7
        assert time.monotonic() - began < PROMPT_SECONDS + 1.0
        assert not _is_gone(escaped)
    finally:
        escaped.kill()


@posix_only
def test_a_kill_of_the_group_reaches_children_without_a_group_of_their_own(start: Start) -> None:
    """A pool inside a child leaves its readers in the child's group; killing one of them alone harms no other."""
    mine = _ready(start(own_group=False))

    assert os.getpgid(mine.pid) == os.getpgrp()
    mine.close()  # and this process lives


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the parent: the child's input ends, and so does the child."""
    code = (
        "from background_training.ipc import child\n"
        "from background_training.ipc.child import Child\n"
        "process = Child(child.start('ipc_children', ['wait']))\n"
        "print(process.receive(60)['pid'], flush=True)\n"
        "process.receive(60)\n"
    )
    environment = child.environment()
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    of_killed = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()

    wait_until(lambda: _is_gone(of_killed))


def test_a_close_waits_for_a_child_that_exits_by_itself(start: Start) -> None:
    """Only one that takes too long is killed."""
    process = _ready(start())
    process._channel._outgoing.close()

    assert process.close(exit_seconds=PATIENT) == 0


def test_start_options_on_each_platform() -> None:
    """Ctrl+C in the terminal does not reach a child with a group of its own; Windows opens no console window."""
    assert process_group.start_options(own_group=True, platform="linux") == {"start_new_session": True}
    assert process_group.start_options(own_group=False, platform="linux") == {"start_new_session": False}
    assert process_group.start_options(own_group=True, platform="win32") == {"creationflags": 0x8000200}
    assert process_group.start_options(own_group=False, platform="win32") == {"creationflags": 0x8000000}


class Kernel:
    """Stands in for kernel32: notes its calls, and may refuse one of them."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append(name)
            return 0 if name == self.refuses else 7

        return call


def test_a_job_object_of_windows_is_closed_when_the_process_does_not_fit_in() -> None:
    """No handle leaks on a system without nested jobs; there the child is killed alone."""
    kernel = Kernel(refuses="AssignProcessToJobObject")

    with pytest.raises(OSError):
        windows_job.Job(42, kernel)
    assert kernel.calls[-1] == "CloseHandle"


def test_a_job_object_is_ended_and_closed_once() -> None:
    """A second close, or a kill after it, does not meet a handle that may have become another's."""
    kernel = Kernel()
    job = windows_job.Job(42, kernel)
    for _ in range(2):
        job.terminate()
        job.close()

    assert kernel.calls[-2:] == ["TerminateJobObject", "CloseHandle"]
    assert ctypes.sizeof(windows_job._ExtendedLimits) == (144 if sys.maxsize > 2**32 else 112)
