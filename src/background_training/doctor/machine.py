"""Checks of the machine and of the settings: disk, clock, packages, events, unknown keys; and the readings they need."""

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

from background_training import command_lines, settings_file
from background_training.doctor.facts import DoctorFacts, MachineFacts, Probe
from background_training.doctor.finding import Trouble
from background_training.errors import LockUnavailableError, MachineError
from background_training.monitor import humanize
from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import free_bytes
from background_training.storage.file_lock import RootLock

OPTIONAL_PACKAGES = ("gymnasium", "rich", "matplotlib", "sc2reader", "spawningtool", "pynvml")
_PROBE_FILES = 9
_PROBE_BYTES = 20_000
_LONG_PATHS_KEY = r"SYSTEM\CurrentControlSet\Control\FileSystem"


def look(paths: Paths, environment: Mapping[str, str]) -> MachineFacts:
    return MachineFacts(
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
        return ""  # it can't be written, which has a check of its own
    finally:
        with contextlib.suppress(OSError):
            atomic_files.remove_if_there(path)
    return "" if held else "a lock with a random name is held"


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
    """The file system that a folder is on, or would be on; "" if unknown."""
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


_SCARCE_BYTES = 200_000_000
_SLOW_SECONDS = 0.1
_CLOCK_SECONDS = 2.5
"""FAT keeps times to 2 s."""

_NETWORK = ("remote", "nfs", "nfs4", "cifs", "smbfs", "smb3", "afs", "afpfs", "webdav", "davfs", "fuse.sshfs", "fuse.rclone")
_NETWORK_LIKE = ("9p", "vboxsf", "fuse.vmhgfs-fuse", "prl_fs", "drvfs", "virtiofs")
_FAT = ("vfat", "exfat", "msdos", "fat", "fat32")
_SYNCED = ("OneDrive", "Dropbox", "Google Drive", "GoogleDrive", "iCloud Drive", "Mobile Documents", "Nextcloud")


def settings(facts: DoctorFacts) -> Trouble | None:
    """A file, a variable or a flag sets what does not exist, or to what is not allowed."""
    if not facts.settings_trouble:
        return None
    cure = "Correct or remove that key. docs/reference/settings.md lists all keys with range and default."
    return Trouble(f"the settings can't be used: {facts.settings_trouble}.", cure)


def unknown_variables(facts: DoctorFacts) -> Trouble | None:
    """A variable looks like a setting of ours, and names none; every command and every agent refuses to start."""
    names = facts.machine.own_variables
    if not names:
        return None
    there = "is no setting" if len(names) == 1 else "are no settings"
    cause = f"{', '.join(names[:3])} in the environment {there}, so nothing of ours starts."
    cure = (
        "Variables are called LOCAL_TRAINING_<SECTION>_<KEY>, as in LOCAL_TRAINING_LEARNER_BATCH_SIZE; correct or remove these."
    )
    return Trouble(cause, cure)


def full_disk(facts: DoctorFacts) -> Trouble | None:
    """There is hardly any space for the next model and episodes."""
    free = facts.machine.free_bytes
    needed = max(_SCARCE_BYTES, facts.settings.governor.free_disk_bytes)
    if free is None or free >= needed:
        return None
    cause = (
        f"{humanize.size(int(free))} are free on the disk of {facts.paths.root}; the learner waits where nothing can be written."
    )
    return Trouble(
        cause, "Make room, or let old episodes be deleted: retention.archive_bytes and its like in docs/reference/settings.md."
    )


def network_drive(facts: DoctorFacts) -> Trouble | None:
    """The root is on a drive without reliable locks and events."""
    kind = facts.machine.file_system.casefold()
    if kind not in _NETWORK and kind not in _NETWORK_LIKE:
        return None
    what = "a network drive" if kind in _NETWORK else "a folder of another system"
    cause = f"{facts.paths.root} lies on {what} ({kind}): locks may not work, file events don't arrive, renames may be slow."
    return Trouble(cause, "Put the root on a local disk; games elsewhere may copy their episodes into its buffer.")


def fat_disk(facts: DoctorFacts) -> Trouble | None:
    """The root is on a file system without atomic renames."""
    if facts.machine.file_system.casefold() not in _FAT:
        return None
    cause = f"{facts.paths.root} lies on {facts.machine.file_system}, where a power cut may lose a file that is being moved."
    return Trouble(cause, "Put the root on a disk with NTFS, ext4, APFS or the like.")


def synced_folder(facts: DoctorFacts) -> Trouble | None:
    """A cloud synchroniser opens every file of the root."""
    parts = facts.paths.root.parts
    found = [part for part in parts if any(part.casefold().startswith(name.casefold()) for name in _SYNCED)]
    if not found:
        return None
    cause = f"{facts.paths.root} lies in {found[0]}, whose program opens, locks and brings back files at any time."
    return Trouble(cause, "Put the root outside of folders that are copied to a cloud.")


def no_locks(facts: DoctorFacts) -> Trouble | None:
    """Two processes got one lock."""
    trouble = facts.machine.probe.lock_trouble
    if not trouble:
        return None
    cause = f"the disk of {facts.paths.data} does not lock files ({trouble}), so a learner refuses to start (exit code 4)."
    return Trouble(cause, "Put the root on a local disk that locks files.")


def slow_renames(facts: DoctorFacts) -> Trouble | None:
    """A scanner opens every new file before it can be renamed."""
    seconds = facts.machine.probe.seconds_per_file
    if seconds is None or seconds < _SLOW_SECONDS:
        return None
    cause = f"writing and renaming one small file in {facts.paths.data} takes {1000 * seconds:.0f} ms; 1 to 10 ms are usual."
    cure = "A virus scanner is the usual reason: exclude the root from it. Else the disk is overloaded, or far away."
    return Trouble(cause, cure)


def disk_clock(facts: DoctorFacts) -> Trouble | None:
    """The disk's clock differs from the machine's."""
    difference = facts.machine.probe.clock_difference_seconds
    if difference is None or abs(difference) < _CLOCK_SECONDS:
        return None
    way = "ahead of" if difference > 0 else "behind"
    cause = f"a file written just now bears a time {humanize.duration(abs(difference))} {way} this machine's clock."
    return Trouble(cause, "Put the root on a local disk, or let both computers set their clocks by the network.")


def no_events(facts: DoctorFacts) -> Trouble | None:
    """The system grants no more file watches, so that episodes are found by polling only."""
    trouble = facts.machine.watch_trouble
    if not trouble:
        return None
    rescan = facts.settings.learner.rescan_seconds
    cause = f"the buffer can't be watched for new files: {trouble}; the learner only looks every {rescan:g} s."
    cure = "Raise the limit: sudo sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288. "
    return Trouble(cause, cure + "Or close programs that watch many files, such as editors and synchronisers.")


def missing_extras(facts: DoctorFacts) -> Trouble | None:
    """Something is switched on that needs a package which is not there."""
    installed, paths = facts.machine.installed, facts.paths
    if facts.settings.replays.folder and facts.settings.learner.enable_replay_analysis and "sc2reader" not in installed:
        cause = f"replays in {facts.settings.replays.folder} are to be analysed, and the package sc2reader is not installed."
        return Trouble(cause, f"Run: {command_lines.install('replays')}")
    if facts.places.gymnasium_games and "gymnasium" not in installed:
        cause = f"{paths.games_log} lists Gymnasium games that were played here, and the package gymnasium is not installed."
        return Trouble(cause, f"Run: {command_lines.install('games')} with the Python that plays.")
    return None


def replays_folder(facts: DoctorFacts) -> Trouble | None:
    """The folder of replays is not there, or holds none."""
    folder = facts.settings.replays.folder
    if not folder or (facts.replays.folder_exists and facts.replays.files):
        return None
    what = "holds no .SC2Replay file" if facts.replays.folder_exists else "does not exist"
    cause = f"replays.folder (REPLAY_ARCHIVE_DIR) is {folder}, which {what}."
    return Trouble(cause, "Name the folder in which StarCraft II saves replays, usually Documents/StarCraft II/Accounts/...")


def replays_without_zerg(facts: DoctorFacts) -> Trouble | None:
    """Replays were read, and none of them had a Zerg player to learn from."""
    replays = facts.replays
    if replays.learnt is None or replays.learnt > 0 or not replays.skipped:
        return None
    reason, count = max(replays.skipped.items(), key=lambda item: item[1])
    total = sum(replays.skipped.values())
    cause = f"{total} replays were read and none taught anything, {count} of them because of '{humanize.visible(reason)}'."
    cure = (
        "Build orders are learnt from Zerg players in games of one against one: give replays.folder a folder with such replays."
    )
    return Trouble(cause, cure)
