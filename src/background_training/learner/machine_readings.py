"""Load of the machine without the learner's own processes: processor, memory, GPU, battery, disk; None if unknown.

The games of the root do not count for the processor either.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from background_training.ipc import load_hints
from background_training.storage.atomic_files import free_bytes

_FAMILY_SECONDS = 10.0
_OUR_MODULES = ("background_training.learner.worker", "background_training.ipc.job_process")


@dataclass(frozen=True)
class Reading:
    """One reading of the machine; the fields are those of throttle_policy.LoadSample.

    number: counts the readings of one process, from 1.
    """

    number: int
    others_cpu_percent: float | None
    memory_percent: float | None
    gpu_memory_percent: float | None
    gpu_percent: float | None
    free_disk_bytes: float | None
    battery_percent: float | None


class MachineReadings:
    """Takes readings for one worker, without the learner's own processes.

    The processor load is the mean over all cores since the last reading; the first reading has none. Processes that hold an
    RLAgent on the root, and their children, count as our own there, but not for the memory: it is scarce for whichever
    program, and forked processes share theirs, so a sum over them would be too much. CPU time of an own process that ended
    in between counts as that of other programs. Time that a virtual machine was not given ("steal") is not counted.
    """

    def __init__(self, folder: Path, games: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder` is on the disk whose free space counts; `games` is the folder in which games register."""
        self._folder = folder
        self._game_folder = games
        self._clock = clock
        self._number = 0
        self._machine_seconds: tuple[float, float] | None = None
        self._our_seconds: dict[int, float] = {}
        self._family: list[psutil.Process] = []
        self._games: list[psutil.Process] = []
        self._family_due = float("-inf")
        self._gpu = _gpu_readings()

    def take(self) -> Reading:
        self._number += 1
        gpu_memory, gpu = self._gpu.take() if self._gpu is not None else (None, None)
        return Reading(
            number=self._number,
            others_cpu_percent=self._others_cpu_percent(),
            memory_percent=self._others_memory_percent(),
            gpu_memory_percent=gpu_memory,
            gpu_percent=gpu,
            free_disk_bytes=free_bytes(self._folder),
            battery_percent=_battery_percent(),
        )

    def _others_cpu_percent(self) -> float | None:
        busy, total = _machine_seconds()
        ours = {process.pid: seconds for process in self._us_and_games() if (seconds := _seconds_of(process)) is not None}
        former, self._machine_seconds = self._machine_seconds, (busy, total)
        mine = sum(seconds - self._our_seconds.get(pid, seconds) for pid, seconds in ours.items())
        self._our_seconds = ours
        if former is None or total <= former[1]:
            return None
        return min(100.0, max(0.0, 100.0 * (busy - former[0] - mine) / (total - former[1])))

    def _others_memory_percent(self) -> float | None:
        try:
            memory = psutil.virtual_memory()
            mine = sum(filter(None, (_resident_bytes(process) for process in self._us())))
        except (OSError, psutil.Error):
            return None
        return max(0.0, 100.0 * (memory.total - memory.available - mine) / memory.total)

    def _us(self) -> list[psutil.Process]:
        """This process and the learner's other ones, cached for a while, as the search goes through all processes."""
        moment = self._clock()
        if moment >= self._family_due:
            self._family_due = moment + _FAMILY_SECONDS
            self._family = _learner_processes()
            self._games = _game_processes(self._game_folder) if self._game_folder is not None else []
        return self._family

    def _us_and_games(self) -> list[psutil.Process]:
        """Like `_us`, and the games; a process may occur twice."""
        return self._us() + self._games


def _learner_processes() -> list[psutil.Process]:
    """This process and what it started; likewise of the other workers of the one that has them work."""
    me = psutil.Process()
    found = {me.pid: me}
    try:
        siblings = [child for child in psutil.Process(os.getppid()).children() if _is_ours(child)]
        for process in (me, *siblings):
            found |= {child.pid: child for child in (process, *process.children(recursive=True))}
    except (OSError, psutil.Error):
        pass  # the parent or a sibling has just ended; the next search finds the others
    return list(found.values())


def _game_processes(folder: Path) -> list[psutil.Process]:
    """The processes that have registered there, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in load_hints.registered(folder):
        if process.pid not in found:  # each search for children goes through all processes
            try:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
            except (OSError, psutil.Error):
                continue  # it has just ended
    return list(found.values())


def _is_ours(process: psutil.Process) -> bool:
    try:
        return any(module in process.cmdline() for module in _OUR_MODULES)
    except (OSError, psutil.Error):
        return False


def _machine_seconds() -> tuple[float, float]:
    """Seconds that all processors have worked, and could have worked, since the machine was started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # In Linux' figures, time of guests is part of user and nice already.
    uncounted = sum(getattr(times, name, 0.0) for name in ("steal", "guest", "guest_nice"))
    total = sum(times) - uncounted
    return total - idle, total


def _seconds_of(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except (OSError, psutil.Error):
        return None
    return float(times.user + times.system)


def _resident_bytes(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_info().rss)
    except (OSError, psutil.Error):
        return None


def _battery_percent() -> float | None:
    """Battery charge while the machine runs on battery; None on mains power or without a battery."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):  # not supported by psutil on this system
        return None
    return None if battery is None or battery.power_plugged is not False else float(battery.percent)


def _gpu_readings() -> Any:
    try:
        # Imported only here: the package is optional, and without the governor it is not loaded.
        from background_training.learner import gpu_readings
    except ImportError:
        return None
    return gpu_readings.GpuReadings()
