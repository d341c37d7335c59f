"""What the buffer's watcher hears, with real files."""

from __future__ import annotations

import sys
import threading

import pytest
from conftest import PATIENCE_SECONDS

from background_training.learner.watcher import BufferWatcher


class _Noting(BufferWatcher):
    """Notes whose events come, in their order."""

    def __init__(self, folder, hint):
        super().__init__(folder, hint)
        self.heard = []

    def on_any_event(self, event):
        self.heard.append(event.src_path)
        super().on_any_event(event)


@pytest.fixture(scope="module", autouse=True)
def started_once(tmp_path_factory):
    """watchdog 7 starts a thread for the whole process with its first watch, and keeps it."""
    first = BufferWatcher(tmp_path_factory.mktemp("first"), threading.Event())
    first.start()
    first.stop()


@pytest.fixture
def watcher(tmp_path):
    buffer = tmp_path / "buffer ü"
    buffer.mkdir()
    (buffer / "old.npz").write_bytes(b"trained on")
    watcher = _Noting(buffer, threading.Event())
    watcher.start()
    yield watcher
    watcher.stop()


def test_a_file_that_is_renamed_into_the_buffer_is_a_hint(watcher, tmp_path):
    """As every episode arrives: written elsewhere or under another name, then renamed."""
    (tmp_path / "new.npz").write_bytes(b"data")
    (tmp_path / "new.npz").rename(tmp_path / "buffer ü" / "new.npz")
    assert watcher._hint.wait(PATIENCE_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only watchdog's emitter for inotify holds events back")
def test_arrivals_do_not_wait_behind_files_that_leave(watcher, tmp_path):
    """watchdog holds the event of a file that is moved away back for half a second, and all that come after it."""
    (tmp_path / "buffer ü" / "old.npz").rename(tmp_path / "old.npz")
    (tmp_path / "buffer ü" / "new.npz").write_bytes(b"data")
    assert watcher._hint.wait(PATIENCE_SECONDS)
    assert not [path for path in watcher.heard if path.endswith("old.npz")]


@pytest.mark.skipif(sys.platform == "win32", reason="its name is taken there until the watch ends; `sees` compares numbers")
def test_a_folder_that_is_deleted_and_made_again_is_noticed(watcher, tmp_path):
    """The old watch is dead then, also when the new folder bears the old one's number."""
    assert watcher.sees()
    (tmp_path / "buffer ü" / "old.npz").unlink()
    (tmp_path / "buffer ü").rmdir()
    assert watcher._hint.wait(PATIENCE_SECONDS)
    (tmp_path / "buffer ü").mkdir()
    assert not watcher.sees()
