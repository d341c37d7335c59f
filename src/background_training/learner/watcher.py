"""File-system events of the buffer, as hints to list it again; only the listing counts."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from background_training.paths import is_episode_name

_QUIET_SECONDS = 0.1

if sys.platform == "linux":
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import InotifyConstants

    class _Arriving(InotifyEmitter):
        """Without events of files that are moved away, as every trained file is.

        Otherwise watchdog delays such an event for half a second to pair it with an arrival elsewhere, and with it all
        arrivals after it.
        """

        def get_event_mask_from_filter(self) -> Any:
            asked = InotifyConstants
            return asked.IN_CREATE | asked.IN_MOVED_TO | asked.IN_MODIFY | asked.IN_CLOSE_WRITE | asked.IN_DELETE_SELF

    def _observer() -> BaseObserver:
        return BaseObserver(_Arriving)
else:

    def _observer() -> BaseObserver:
        # On Windows watchdog hands out events only when none has come for this long, and its default is a second.
        return Observer(timeout=_QUIET_SECONDS) if sys.platform == "win32" else Observer()


_ARRIVALS = ("created", "modified", "moved", "closed")


class BufferWatcher(FileSystemEventHandler):
    """Sets `hint` soon after an episode file has arrived or grown.

    It is not reliable: events are lost in bursts and don't exist on network drives, so the worker also lists the buffer
    every `rescan_seconds`.
    """

    def __init__(self, folder: Path, hint: threading.Event) -> None:
        self._folder = folder
        self._hint = hint
        self._observer = _observer()
        self._watched: tuple[int, int] | None = None
        self._folder_gone = False
        self.trouble = ""

    def start(self) -> None:
        """Start to watch; if the system refuses, `trouble` holds the reason, and there will be no hints."""
        try:
            self._watched = self._identity()
            self._observer.schedule(self, str(self._folder))
            self._observer.start()
        except OSError as error:
            self.trouble = f"{self._folder} can't be watched ({error}); it is listed every `learner.rescan_seconds` instead"

    def sees(self) -> bool:
        """Whether the folder is still the watched one: a watch ends with its folder, and a new folder may get the
        old inode number.

        Raises:
            OSError: the machine failed; there may be no folder.
        """
        return self._identity() == self._watched and not self._folder_gone

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self._folder)
        return status.st_dev, status.st_ino

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type == "deleted" and Path(os.fsdecode(event.src_path)) == self._folder:
            self._folder_gone = True
            self._hint.set()
        if event.event_type in _ARRIVALS:
            path = event.dest_path if event.event_type == "moved" else event.src_path
            if is_episode_name(Path(os.fsdecode(path)).name):
                self._hint.set()
