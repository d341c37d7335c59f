"""Settings of a vector env: limits, budgets, rebuilds; and presets of them for a machine.

They are frozen, and checked when made.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import psutil

from background_training.errors import SettingsError
from background_training.settings import check, setting


@dataclass(frozen=True)
class VectorSettings:
    """Everything that can be set about ResilientAsyncVectorEnv and StableProcessPoolEnv."""

    start_method: str = setting(
        "forkserver",
        "How a worker process is started: forkserver: as a fork of one new interpreter of this vector env (Linux; elsewhere as "
        "spawn); spawn: in a new interpreter; fork: as a fork of this process. None runs the caller's main module again.",
        choices=("forkserver", "spawn", "fork"),
    )
    num_workers: int = setting(0, "Worker processes; 0: one per env, which isolates best.", at_least=0)
    step_in_threads: bool = setting(
        False,
        "Whether a worker steps its envs at the same time, in a thread each: for envs that wait, and may be stepped by another "
        "thread than the one that built them. When such a worker dies, the fault counts for one of the envs under way.",
    )
    step_seconds: float = setting(15.0, "Time one env's step may take before its worker counts as hung.", above=0.0)
    reset_seconds: float = setting(15.0, "Time one env's reset may take before its worker counts as hung.", above=0.0)
    start_seconds: float = setting(60.0, "Time a worker may take to start and to build its envs.", above=0.0)
    call_seconds: float = setting(60.0, "Time call, get_attr, set_attr and render may take.", above=0.0)
    close_seconds: float = setting(3.0, "Time the envs get to close before their workers are killed.", at_least=0.0)

    memory_limit_bytes: int = setting(0, "Resident memory at which a worker is replaced at once; 0: no limit.", at_least=0)
    rebuild_memory_bytes: int = setting(0, "Resident memory at which a worker is rebuilt between episodes; 0: never.", at_least=0)
    rebuild_episodes: int = setting(100, "Episodes after which a worker is rebuilt between episodes; 0: never.", at_least=0)
    rebuild_share: float = setting(
        0.02,
        "Share of the time that rebuilds by episode count may cost, at most; they wait while it is spent.",
        above=0.0,
        at_most=1.0,
    )
    check_episodes: int = setting(
        50, "Episodes between two looks at the memory of all workers; a clock makes one each second too.", at_least=1
    )

    restarts_per_env: int = setting(20, "Restarts of one env within the window before it is given up.", at_least=0)
    restarts_in_all: int = setting(
        1000, "Restarts of all envs within the window before those that fail are given up.", at_least=0
    )
    restart_window_seconds: float = setting(600.0, "The window in which restarts are counted.", above=0.0)
    same_fault_limit: int = setting(
        3,
        "Times in a row, without a step between, that building or resetting an env raises the same exception at the same place "
        "before the env is given up; 0: as often as the restarts allow.",
        at_least=0,
    )
    backoff_seconds: float = setting(
        0.1, "Wait before the second restart in a row without progress; doubles with each further.", at_least=0.0
    )
    backoff_limit_seconds: float = setting(30.0, "Longest wait between two restarts.", at_least=0.0)
    on_exhausted: str = setting(
        "raise",
        "When the budget is spent: raise an error; shrink: continue without the env; sync: with the env in this process.",
        choices=("raise", "shrink", "sync"),
    )
    wait_for_restart: bool = setting(False, "Whether step waits for envs that are being rebuilt instead of masking their rows.")

    reduce_after: int = setting(3, "Failures within the reduction window after which failing envs rest; 0: never.", at_least=0)
    reduce_window_seconds: float = setting(2.0, "The window in which failures count towards a reduction.", above=0.0)
    calm_seconds: float = setting(5.0, "Time without a failure after which one resting env comes back.", at_least=0.0)

    spin_microseconds: int = setting(
        200,
        "Time a worker polls before it sleeps, the vector env twice as long, if there are more cores than workers; 0: none.",
        at_least=0,
        at_most=1000,
    )
    capture_stderr: bool = setting(True, "Whether a worker's stderr is kept for error reports; otherwise it goes to ours.")

    def __post_init__(self) -> None:
        check(self, type(self).__name__)

    def with_options(self, **options: Any) -> VectorSettings:
        """A copy with the named settings replaced.

        Raises:
            SettingsError: an unknown name, or a value out of its range.
        """
        known = {entry.name: str(entry.type) for entry in dataclasses.fields(self)}
        for name, value in options.items():
            if name not in known:
                raise SettingsError(name, value, "known settings are " + ", ".join(sorted(known)), "VectorSettings")
        floats = {
            name: float(value) if known[name] == "float" and type(value) is int else value for name, value in options.items()
        }
        return dataclasses.replace(self, **floats)  # type: ignore[arg-type]  # checked when made


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
    """Settings for `env_count` envs on a machine. Pure.

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
