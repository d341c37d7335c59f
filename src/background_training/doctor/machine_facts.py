"""Looks at the machine: disk, clock, packages, events, environment. Writes a few small files, and removes them again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import statistics
import sys
import time
from collections.abc import Mapping
from importlib import util
from pathlib import Path

import psutil

from background_training import settings_file
from background_training.doctor.facts import Machine, Probe
from background_training.errors import LockUnavailableError, MachineError
from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import free_bytes
from background_training.storage.file_lock import RootLock

OPTIONAL_PACKAGES = ("gymnasium", "rich", "matplotlib", "sc2reader", "spawningtool", "pynvml")
_PROBE_FILES = 9
_PROBE_BYTES = 20_000
_LONG_PATHS_KEY = r"SYSTEM\CurrentControlSet\Control\FileSystem"


def look(paths: Paths, environment: Mapping[str, str]) -> Machine:
    return Machine(
        now=time.time(),
        platform=sys.platform,
        installed=frozenset(name for name in OPTIONAL_PACKAGES if util.find_spec(name) is not None),
        watch_trouble=watch_trouble(paths.buffer),
        own_variables=tuple(settings_file.unknown_variables(environment)),
        file_system=file_system_of(paths.root),
        free_bytes=free_bytes(paths.root),
        long_paths=_long_paths(),
        probe=probe(paths.data),
    )


def probe(folder: Path) -> Probe:
    """Write, rename and lock as an episode and a learner do; nothing is tried in a folder that is not there.

    The names begin with a dot and end in ".probe": no learner takes them, and no sweep looks for them.
    """
    if not folder.is_dir():
        return Probe()
    name = f".doctor_{secrets.token_hex(4)}"
    final, partial = folder / f"{name}.final.probe", folder / f"{name}.probe"
    seconds: list[float] = []
    try:
        for _ in range(_PROBE_FILES):
            begun = time.perf_counter()
            partial.write_bytes(bytes(_PROBE_BYTES))
            atomic_files.retry_while_shared(lambda: os.replace(partial, final))
            seconds.append(time.perf_counter() - begun)
        difference = os.stat(final).st_mtime - time.time()
    except OSError as error:
        return Probe(trouble=str(error))
    finally:
        for path in (final, partial):
            with contextlib.suppress(OSError):
                atomic_files.remove_if_there(path)
    return Probe("", statistics.median(seconds), difference, _lock_trouble(folder / f"{name}.lock.probe"))


def _lock_trouble(path: Path) -> str:
    lock = RootLock(path)
    try:
        held = lock.try_acquire()
        lock.release()
    except LockUnavailableError as error:
        return error.cause
    except MachineError:
        return ""  # it can't be written; that is another mistake, and is told as such
    finally:
        with contextlib.suppress(OSError):
            atomic_files.remove_if_there(path)
    return "" if held else "a lock that nobody else can know of is held"


def watch_trouble(folder: Path) -> str:
    """Ask the system for one more watch, as a learner would; why it refuses, or "" where it does not, or can't be asked."""
    if not sys.platform.startswith("linux") or not folder.is_dir():
        return ""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return f"{os.strerror(ctypes.get_errno())} (fs.inotify.max_user_instances is {_limit('max_user_instances')})"
    try:
        if library.inotify_add_watch(descriptor, os.fsencode(folder), 0x100) < 0:
            return f"{os.strerror(ctypes.get_errno())} (fs.inotify.max_user_watches is {_limit('max_user_watches')})"
    finally:
        os.close(descriptor)
    return ""


def _limit(name: str) -> str:
    try:
        return Path("/proc/sys/fs/inotify", name).read_text("ascii").strip()
    except OSError:
        return "not known"


def file_system_of(folder: Path) -> str:
    """The kind of the disk that a folder lies on, or would lie on; "" if the system does not say."""
    if sys.platform == "win32" and str(folder).startswith("\\\\"):
        return "remote"
    try:
        disks = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return ""
    real = os.path.realpath(folder)
    under = [disk for disk in disks if _is_below(real, disk.mountpoint)]
    disk = max(under, key=lambda disk: len(disk.mountpoint), default=None)
    if disk is None:
        return ""
    return "remote" if "remote" in disk.opts.split(",") else str(disk.fstype)


def _is_below(path: str, folder: str) -> bool:
    try:
        return os.path.commonpath([os.path.normcase(path), os.path.normcase(folder)]) == os.path.normcase(folder).rstrip(
            os.sep
        ) or (folder == os.sep)
    except ValueError:  # on another of Windows' drives
        return False


def _long_paths() -> bool:
    """Whether paths may be longer than 260 characters; on Windows that is a switch in the registry."""
    if sys.platform != "win32":
        return True
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _LONG_PATHS_KEY) as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False
