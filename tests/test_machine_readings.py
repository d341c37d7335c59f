"""What the machine is doing apart from us: figures within bounds, our own load left out, what is unknown left open."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_until

import background_training.learner
from background_training.learner import machine_readings
from background_training.learner.machine_readings import MachineReadings

BURN = "print('up', flush=True)\nwhile True: pass"
STARTER = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL, start_new_session=True) as burning:
    print(burning.pid, flush=True)
    sys.stdin.read()
    burning.kill()
"""
Times = namedtuple("Times", "user nice system idle iowait steal guest guest_nice")


def _burnt(seconds: float) -> None:
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass


def test_a_reading_is_within_bounds(tmp_path: Path) -> None:
    """Percent are percent, the disk has some room, and the first reading knows no load yet."""
    readings = MachineReadings(tmp_path)
    first = readings.take()
    _burnt(0.1)
    second = readings.take()

    assert (first.number, second.number, first.others_cpu_percent) == (1, 2, None)
    assert second.others_cpu_percent is not None and 0.0 <= second.others_cpu_percent <= 100.0
    assert second.memory_percent is not None and 0.0 < second.memory_percent < 100.0
    assert second.free_disk_bytes is not None and second.free_disk_bytes > 0


def test_own_load_and_that_of_own_children_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' share is what the whole machine did less what we did, here and in the processes we started."""
    machine = [0.0, 0.0]
    monkeypatch.setattr(machine_readings, "_machine_seconds", lambda: (machine[0], machine[1]))
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            readings = MachineReadings(tmp_path)
            readings.take()
            before = _seconds(child.pid)
            wait_until(lambda: _seconds(child.pid) > before + 0.3)
            child.kill()
            ours = _seconds(child.pid) - before
            machine[:] = [ours + 1.0, 4.0]
            others = readings.take().others_cpu_percent
        finally:
            child.kill()

    assert others is not None and 15.0 < others < 30.0


def test_the_load_of_a_registered_game_and_its_children_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game that is no child of the learner, and what it starts, are not other programs; without its file they are."""
    machine = [0.0, 0.0]
    monkeypatch.setattr(machine_readings, "_machine_seconds", lambda: (machine[0], machine[1]))
    monkeypatch.setattr(machine_readings, "_learner_processes", lambda: [psutil.Process()])  # not this one's children
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None and starter.stdin is not None
        burning = int(starter.stdout.readline())
        (tmp_path / f"{starter.pid}_x.txt").write_text("game")
        readings, others = MachineReadings(tmp_path, tmp_path), MachineReadings(tmp_path)
        readings.take(), others.take()
        before = _seconds(burning)
        wait_until(lambda: _seconds(burning) > before + 0.5)
        machine[:] = [_seconds(burning) - before, 2.0]
        shown = (readings.take().others_cpu_percent, others.take().others_cpu_percent)
        starter.stdin.close()
        starter.wait()

    assert shown[0] is not None and shown[0] < 5.0
    assert shown[1] is not None and shown[1] > 15.0


def _seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_anothers_load_counts(tmp_path: Path) -> None:
    """A program that is none of ours and takes a processor is seen."""
    readings = MachineReadings(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None and starter.stdin is not None
        burning = int(starter.stdout.readline())
        readings._family, readings._family_due = [], float("inf")  # otherwise it were our own child
        readings.take()
        before, begun = _seconds(burning), time.monotonic()
        wait_until(lambda: _seconds(burning) > before + 0.5)
        others = readings.take().others_cpu_percent
        least = 100.0 * 0.5 / ((time.monotonic() - begun) * (os.cpu_count() or 1))
        starter.stdin.close()
        starter.wait()

    assert others is not None and others > 0.7 * least


def test_idle_waiting_and_stolen_time_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is waited for and another virtual machine take nothing away from a game; guests are counted once."""
    times = Times(user=30.0, nice=5.0, system=5.0, idle=40.0, iowait=10.0, steal=50.0, guest=3.0, guest_nice=2.0)
    monkeypatch.setattr(machine_readings.psutil, "cpu_times", lambda: times)

    assert machine_readings._machine_seconds() == (40.0, 90.0)


@pytest.mark.parametrize(
    ("battery", "percent"),
    [
        (None, None),
        (types.SimpleNamespace(percent=12, power_plugged=True), None),
        (types.SimpleNamespace(percent=12, power_plugged=None), None),
        (types.SimpleNamespace(percent=12, power_plugged=False), 12.0),
    ],
)
def test_a_battery_counts_while_the_machine_runs_on_it(monkeypatch: pytest.MonkeyPatch, battery: Any, percent: Any) -> None:
    """On the mains, without a battery, or when nobody knows, there is no figure."""
    monkeypatch.setattr(machine_readings.psutil, "sensors_battery", lambda: battery, raising=False)

    assert machine_readings._battery_percent() == percent


def test_a_system_without_batteries_or_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is an error: the one is unknown, of the other the disk counts on which it would lie."""
    monkeypatch.delattr(machine_readings.psutil, "sensors_battery", raising=False)
    reading = MachineReadings(tmp_path / "gone").take()

    assert reading.battery_percent is None and reading.free_disk_bytes


def test_without_the_package_there_are_no_gpu_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-ml-py is optional."""
    _package_is(None, monkeypatch)
    reading = MachineReadings(tmp_path).take()

    assert (reading.gpu_memory_percent, reading.gpu_percent) == (None, None)


def _package_is(package: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be nvidia-ml-py's module for what is loaded from now on; None: it is not installed."""
    monkeypatch.setitem(sys.modules, "pynvml", package)
    monkeypatch.setitem(sys.modules, "background_training.learner.gpu_readings", None)
    monkeypatch.delitem(sys.modules, "background_training.learner.gpu_readings")
    monkeypatch.delattr(background_training.learner, "gpu_readings", raising=False)


class _FakeNvml(types.ModuleType):
    """Two GPUs, one fuller, one busier."""

    class NVMLError(Exception):
        """As the package's."""

    def __init__(self, broken: str = "") -> None:
        super().__init__("pynvml")
        self._broken = broken

    def _step(self, name: str) -> None:
        if name == self._broken:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:  # noqa: N802
        self._step("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:  # noqa: N802
        self._step("memory")
        return types.SimpleNamespace(used=(1 + 2 * device) * 10**9, total=4 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:  # noqa: N802
        return types.SimpleNamespace(gpu=90 - 50 * device)


@pytest.mark.parametrize(("broken", "seen"), [("", (75.0, 90.0)), ("init", (None, None)), ("memory", (None, None))])
def test_the_fullest_and_the_busiest_gpu_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, seen: Any) -> None:
    """Each figure is that of the GPU that has most; without a driver, or when it does not tell, both are unknown."""
    _package_is(_FakeNvml(broken), monkeypatch)
    reading = MachineReadings(tmp_path).take()

    assert (reading.gpu_memory_percent, reading.gpu_percent) == seen


def test_a_reading_is_cheap(tmp_path: Path) -> None:
    """One a second is to be unnoticed: less than two thousandths of a processor, looking for our own processes apart."""
    readings = MachineReadings(tmp_path)
    readings.take()
    begun = time.process_time()
    for _ in range(50):
        readings.take()

    assert (time.process_time() - begun) / 50 < 0.002
