"""Settings of a vector env for a machine: how many cores there are, how careful, how many workers, how much memory each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from background_training.envs.vector_settings import VectorSettings
from background_training.errors import SettingsError

NAMES = ("conservative", "balanced", "aggressive")

_SMALLEST_LIMIT_BYTES = 512 << 20


@dataclass(frozen=True)
class Machine:
    """What a preset is sized by."""

    cores: int
    available_bytes: int


def usable_cores() -> int:
    """Cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def this_machine() -> Machine:
    """The machine at hand."""
    return Machine(usable_cores(), int(psutil.virtual_memory().available))


def preset(name: str, env_count: int, machine: Machine) -> VectorSettings:
    """Settings for so many envs on that machine. Pure.

    conservative: half the cores; rests early and long. balanced: all cores. aggressive: two workers per core, which
    pays where games wait; no rests, rare rebuilds. The memory limit shares out half, 70 % or 90 % of what is free.

    Raises:
        SettingsError: there is no preset of that name.
    """
    if name not in NAMES:
        raise SettingsError("preset", name, "one of " + ", ".join(NAMES) + " is needed", "make_vector_env")
    wanted = {"conservative": max(1, machine.cores // 2), "balanced": machine.cores, "aggressive": 2 * machine.cores}[name]
    workers = max(1, min(wanted, env_count))
    share = {"conservative": 0.5, "balanced": 0.7, "aggressive": 0.9}[name]
    limit = max(_SMALLEST_LIMIT_BYTES, int(machine.available_bytes * share) // workers)
    base = VectorSettings(num_workers=workers, memory_limit_bytes=limit, rebuild_memory_bytes=int(0.8 * limit))
    if name == "conservative":
        return base.with_options(reduce_window_seconds=60.0, calm_seconds=30.0, restarts_per_env=10, rebuild_share=0.05)
    if name == "balanced":
        return base.with_options(reduce_window_seconds=10.0, calm_seconds=10.0)
    return base.with_options(reduce_after=0, rebuild_episodes=1000, rebuild_memory_bytes=0)
