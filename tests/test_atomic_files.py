"""Written whole or not at all, moved without overwriting, read without waiting; on Windows' terms too."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import wait_until
from fakes import Failing, FakeClock, windows_error

from background_training.paths import CHECKOUT
from background_training.storage import atomic_files

posix = pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and flock")


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole(durable: bool, root: Path):
    """New bytes under the old name, and no partial file beside them."""
    path = root / "model.npz"
    for data in (b"first", b"", b"second" * 100_000):
        atomic_files.write_atomically(path, data, durable=durable)

        assert path.read_bytes() == data
        assert os.listdir(root) == ["model.npz"]


@pytest.mark.leaves_partials
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(call: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever fails, a reader finds what was there before; the next try succeeds over the remains."""
    path = root / "model.npz"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, Failing(getattr(os, call), OSError(errno.EIO, "input/output error")))
        with pytest.raises(OSError, match="input/output error"):
            atomic_files.write_atomically(path, b"new", durable=True)
    assert path.read_bytes() == b"old"

    atomic_files.write_atomically(path, b"new", durable=True)

    assert path.read_bytes() == b"new"


def test_a_durable_write_flushes_file_then_name(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The bytes are on the disk before they get their name; the folder follows. A fast write flushes nothing."""
    happened: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        real = getattr(os, name)
        return lambda *arguments: (happened.append(name), real(*arguments))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    atomic_files.write_atomically(root / "x", b"1", durable=True)
    assert happened == (["fsync", "replace"] if sys.platform == "win32" else ["fsync", "replace", "fsync"])

    happened.clear()
    atomic_files.write_atomically(root / "x", b"2", durable=False)
    assert happened == ["replace"]


def test_a_reader_never_sees_half_a_file(root: Path):
    """While one writes again and again, every read is one of the two contents."""
    path, contents = root / "model.npz", (b"a" * 300_000, b"b" * 200_000)
    atomic_files.write_atomically(path, contents[0], durable=False)
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(150):
                atomic_files.write_atomically(path, contents[number % 2], durable=False)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        data = atomic_files.read_regular_file(path)
        assert data in contents
        seen.add(data[:1])
        if sys.platform == "win32":
            time.sleep(0.01)  # a file that is held open all the time can't be replaced there
    writer.join()
    assert seen == {b"a", b"b"}


def test_an_open_that_windows_refuses_is_tried_again():
    """The C library behind open() keeps EACCES only, without Windows' own number; elsewhere it is a missing permission."""
    refused = PermissionError(errno.EACCES, "Permission denied")
    clock = FakeClock()

    assert atomic_files.retry_while_shared(Failing(lambda: "done", refused), clock.sleep, "win32") == "done"
    with pytest.raises(PermissionError):
        atomic_files.retry_while_shared(Failing(lambda: "done", refused), clock.sleep, "linux")


def test_a_name_that_windows_never_frees_leaves_no_partial_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader that keeps the old file open makes the write fail; what was written goes."""
    (root / "x.json").write_bytes(b"old")
    monkeypatch.setattr(atomic_files, "fcntl", None)
    monkeypatch.setattr(atomic_files, "_RETRY_WAITS_SECONDS", (0.0,))
    monkeypatch.setattr(os, "replace", Failing(os.replace, *[windows_error(5)] * 2))

    with pytest.raises(OSError, match="another process"):
        atomic_files.write_atomically(root / "x.json", b"new", durable=False)

    assert os.listdir(root) == ["x.json"] and (root / "x.json").read_bytes() == b"old"


@pytest.mark.parametrize("winerror", [5, 32, 33])
def test_windows_sharing_violations_are_waited_out(winerror: int):
    """A virus scanner holds the file for a moment: tried again, with growing pauses."""
    clock, action = FakeClock(), Failing(lambda: "done", *[windows_error(winerror)] * 4)

    assert atomic_files.retry_while_shared(action, clock.sleep) == "done"

    assert action.calls == 5
    assert clock.naps == sorted(clock.naps) and len(clock.naps) == 4


def test_waiting_for_windows_has_an_end():
    """After about 1.6 s the error stands."""
    clock, action = FakeClock(), Failing(lambda: "done", *[windows_error(32)] * 100)

    with pytest.raises(PermissionError):
        atomic_files.retry_while_shared(action, clock.sleep)

    assert 1.5 < sum(clock.naps) < 2.0


@pytest.mark.parametrize("error", [windows_error(112), OSError(errno.ENOSPC, "full"), PermissionError(13, "denied")])
def test_other_errors_are_not_tried_again(error: OSError):
    """A full disk does not get better within a second."""
    clock, action = FakeClock(), Failing(lambda: "done", error)

    with pytest.raises(OSError, match=error.strerror):
        atomic_files.retry_while_shared(action, clock.sleep, "linux")

    assert (action.calls, clock.naps) == (1, [])


def test_writing_works_without_fcntl_and_with_a_busy_reader(root: Path, monkeypatch: pytest.MonkeyPatch):
    """As on Windows: no flock there, the replace is done after the close, and refused once."""
    replace = Failing(os.replace, windows_error(5))
    monkeypatch.setattr(atomic_files, "fcntl", None)
    monkeypatch.setattr(os, "replace", replace)

    atomic_files.write_atomically(root / "x.npz", b"data", durable=True)

    assert (root / "x.npz").read_bytes() == b"data" and replace.calls == 2
    partial = atomic_files.partial_path(root / "y.npz")
    partial.write_bytes(b"half")
    assert atomic_files.remove_if_abandoned(partial) and not partial.exists()
    assert not atomic_files.remove_if_abandoned(partial)


def test_folders_need_no_flush_on_windows(root: Path, monkeypatch: pytest.MonkeyPatch):
    """There is no such call there."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, OSError(errno.EBADF, "no")))

    atomic_files.sync_folder(root)


WRITER = """
import os, sys, time
from pathlib import Path
from background_training.storage import atomic_files
partial = atomic_files.partial_path(Path(sys.argv[1]))
file = open(partial, "wb")
atomic_files.mark_as_being_written(file.fileno())
file.write(b"half"); file.flush()
print("writing", flush=True)
time.sleep(60)
"""


@posix
def test_a_partial_file_lives_as_long_as_its_writer(root: Path):
    """While the writer lives it is left alone; once that is killed, it is swept."""
    path = root / "game.npz"
    partial = atomic_files.partial_path(path)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=CHECKOUT)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        assert not atomic_files.remove_if_abandoned(partial)
        assert partial.exists()
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()

    assert atomic_files.remove_if_abandoned(partial)
    assert not partial.exists()


def test_a_swept_partial_is_written_once_more(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A sweep may strike between creation and mark; the writer does not fail over it."""
    partial = atomic_files.partial_path(root / "x.npz")

    def sweep_first(descriptor: int) -> bool:
        monkeypatch.undo()
        partial.unlink()
        return True

    monkeypatch.setattr(atomic_files, "mark_as_being_written", sweep_first)

    atomic_files.write_atomically(root / "x.npz", b"data", durable=False)

    assert (root / "x.npz").read_bytes() == b"data"


def test_a_move_never_overwrites(root: Path):
    """Two files of one name are two files."""
    (root / "a").write_bytes(b"1")
    (root / "b").write_bytes(b"2")

    with pytest.raises(FileExistsError):
        atomic_files.move(root / "a", root / "b")
    with pytest.raises(FileNotFoundError):
        atomic_files.move(root / "missing", root / "c")

    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"1", b"2")


@posix
def test_a_torn_move_is_finished(root: Path):
    """Two names of one file: the old one goes."""
    (root / "a").write_bytes(b"1")
    os.link(root / "a", root / "b")

    atomic_files.move(root / "a", root / "b")

    assert os.listdir(root) == ["b"]


@posix
@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path), lambda path: path.symlink_to("/etc/passwd")])
def test_only_regular_files_are_read(make: Callable[[Path], object], root: Path):
    """A folder, a pipe nobody writes to, a link: refused at once, and by name."""
    make(root / "x.npz")

    with pytest.raises(atomic_files.NotARegularFileError, match=r"a folder|a named pipe|a link"):
        atomic_files.read_regular_file(root / "x.npz")


@posix
def test_a_file_that_becomes_a_pipe_is_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Between look and open somebody puts a pipe there."""
    path = root / "x.npz"
    path.write_bytes(b"data")
    looked = os.lstat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "lstat", lambda _: looked)

    with pytest.raises(atomic_files.NotARegularFileError, match="a named pipe"):
        atomic_files.read_regular_file(path)


def test_reading_has_a_bound(root: Path):
    """A file of exactly the limit is read; one byte more is refused unread."""
    path = root / "x"
    path.write_bytes(b"12345")

    assert atomic_files.read_regular_file(path, 5) == b"12345"
    with pytest.raises(OverflowError, match="5 bytes"):
        atomic_files.read_regular_file(path, 4)


def test_a_file_that_grows_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Read to its present end, or refused when that is beyond the bound."""
    path = root / "x"
    path.write_bytes(b"1" * 10)
    small = os.stat(path)
    path.write_bytes(b"1" * 200_000)
    monkeypatch.setattr(os, "fstat", lambda descriptor: small)

    assert len(atomic_files.read_regular_file(path)) == 200_000
    assert len(atomic_files.read_regular_file(path, 200_000)) == 200_000
    with pytest.raises(OverflowError, match="more than 199999"):
        atomic_files.read_regular_file(path, 199_999)


def test_appending_goes_on_after_a_short_write(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The system may take less than it was given; not a byte is lost or doubled."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:3]))

    atomic_files.append_whole(root / "ledger", b"0123456789", durable=True)
    atomic_files.append_whole(root / "ledger", b"ab\n", durable=False)

    assert (root / "ledger").read_bytes() == b"0123456789ab\n"


def test_an_error_is_not_an_answer(root: Path, monkeypatch: pytest.MonkeyPatch):
    """`exists` says no only when nothing is there; a dangling link is something."""
    assert not atomic_files.exists(root / "x")
    if os.name == "posix":
        (root / "x").symlink_to("nowhere")
        assert atomic_files.exists(root / "x")
    monkeypatch.setattr(os, "lstat", Failing(os.lstat, OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        atomic_files.exists(root / "x")


def test_a_folder_is_made_unless_it_is_there(root: Path):
    """A file of that name is an error, not a folder."""
    atomic_files.make_folder(root / "data", durable=True)
    atomic_files.make_folder(root / "data", durable=False)
    (root / "file").write_bytes(b"")

    with pytest.raises(FileExistsError):
        atomic_files.make_folder(root / "file", durable=False)
    assert (root / "data").is_dir()


def test_removing_says_whether_there_was_something(root: Path):
    """Safe to repeat."""
    (root / "x").write_bytes(b"")

    assert atomic_files.remove_if_there(root / "x")
    assert not atomic_files.remove_if_there(root / "x")


@posix
def test_writers_of_one_name_leave_one_whole_file(root: Path):
    """Several processes write the same name again and again; whoever is last, it is whole."""
    code = (
        "import sys; from pathlib import Path; from background_training.storage import atomic_files\n"
        "for _ in range(60): atomic_files.write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 50_000, durable=False)"
    )
    path = root / "x.npz"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter], cwd=CHECKOUT) for letter in "ab"]

    wait_until(lambda: all(writer.poll() is not None for writer in writers))

    assert [writer.returncode for writer in writers] == [0, 0]
    assert path.read_bytes() in (b"a" * 50_000, b"b" * 50_000)
    assert os.listdir(root) == ["x.npz"]
