"""Inject faults into vector envs and say what is left: `python benchmarks/faults.py [--faults 500] [--steps 1000000]`.

Part 1: faults of every kind over 8 envs; healthy envs must get every step, faulty ones must come back.
Part 2: many steps with preventive rebuilds; memory and descriptors must stay flat.
Part 3: the same single faults given to Gymnasium's AsyncVectorEnv.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import psutil

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "tests")]

import vector_games as games  # noqa: E402

from background_training.envs import ResilientAsyncVectorEnv  # noqa: E402

ENVS = 8
LONG = 10**9
FACTORY = "factory fails"
"""The fault whose env is killed, and whose factory raises when the new worker calls it."""


def segments() -> set[str]:
    """Named shared memory; other programs keep files of other names there."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "torch_", "sem."))}


def inject(count: int, seed: int) -> None:
    """Part 1."""
    with tempfile.TemporaryDirectory() as markers:
        _inject(count, seed, Path(markers))


def _inject(count: int, seed: int, markers: Path) -> None:
    rng = np.random.default_rng(seed)
    shared = segments()
    makers = [partial(games.BuildFault, number, str(markers / str(number)), games.RAISE, length=LONG) for number in range(ENVS)]
    limits = {"step_seconds": 0.5, "memory_limit_bytes": 250 << 20, "restarts_per_env": 10**6, "restarts_in_all": 10**6}
    envs = ResilientAsyncVectorEnv(makers, reduce_after=0, **limits)
    envs.reset(seed=seed)
    kinds: Counter[str] = Counter()
    down: dict[int, tuple[str, float]] = {}
    back: dict[str, list[float]] = {}
    expected, wrong, steps = np.zeros(ENVS), 0, 0
    names = [*games.FAULTS, FACTORY]
    while sum(kinds.values()) < count or down:
        actions = np.zeros(ENVS, int)
        free = [index for index in range(ENVS) if index not in down and expected[index] >= 1]
        if sum(kinds.values()) < count and len(free) > ENVS // 2 and steps % 20 == 0:
            for index in rng.choice(free, size=rng.integers(1, 3), replace=False).tolist():  # two at once, half the time
                name = names[sum(kinds.values()) % len(names)]
                if name == FACTORY:
                    (markers / str(index)).touch()
                actions[index] = games.FAULTS.get(name, games.KILL)
                kinds[name] += 1
                down[index] = (name, 0.0)
        observations, rewards, _, truncations, infos = envs.step(actions)
        restarted = infos.get("worker_restarted", np.zeros(ENVS, bool))
        steps += 1
        now = time.perf_counter()
        for index in range(ENVS):
            if index not in down:
                expected[index] += 1
                wrong += not (rewards[index] == expected[index] == observations[index, 3] and not truncations[index])
            elif down[index][1] == 0.0:
                wrong += not (truncations[index] and rewards[index] == 0 and restarted[index])
                down[index] = (down[index][0], now)
                expected[index] = -1
            elif restarted[index]:
                wrong += truncations[index] or rewards[index] != 0
            else:
                name, since = down.pop(index)
                back.setdefault(name, []).append(now - since)
                expected[index] = 0
                wrong += observations[index, 3] != 0
    every = [seconds for times in back.values() for seconds in times]
    print(f"{sum(kinds.values())} faults in {steps} steps of {ENVS} envs: {wrong} rows wrong")
    print(f"from the fault's row to the first observation: median {statistics.median(every):.3f} s, longest {max(every):.3f} s")
    for name in names:
        print(f"  {name:13s} {kinds[name]:4d}  median {statistics.median(back[name]):.3f} s")
    envs.close()
    left = psutil.Process().children(recursive=True)
    print(f"factories that have failed: {kinds[FACTORY] - len(list(markers.iterdir()))} of {kinds[FACTORY]}")
    print(f"left behind: {len(left)} processes, {len(segments() - shared)} shared memory segments")


def run_long(steps: int) -> None:
    """Part 2."""
    makers = [partial(gymnasium.make, "CartPole-v1")] * ENVS
    envs = ResilientAsyncVectorEnv(makers, num_workers=2, rebuild_episodes=100, rebuild_share=0.1)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (512, ENVS))
    total, marks = 0, []
    start = time.perf_counter()
    while total < steps:
        for row in actions:
            envs.step(row)
        total += len(actions) * ENVS
        if total >= steps * (len(marks) + 1) // 5:
            health = envs.health()
            workers = max(worker["memory_bytes"] for worker in health["workers"]) >> 10
            marks.append((total, psutil.Process().memory_info().rss >> 10, len(os.listdir("/proc/self/fd")), workers))
            print("  steps {:8d}  parent {:6d} KiB  descriptors {:3d}  largest worker {:6d} KiB".format(*marks[-1]), end="")
            print(f"  rebuilds {health['preventive_rebuilds']}")
    print(f"{total} steps at {total / (time.perf_counter() - start):.0f} a second, {envs.health()['failures']} failures")
    envs.close()


def peers() -> None:
    """Part 3."""
    for name in ("kill", "exit", "raise"):
        envs = gymnasium.vector.AsyncVectorEnv([partial(games.FaultyGame, number) for number in range(2)], context="spawn")
        envs.reset()
        said = []
        for doing, call in (("step", lambda: envs.step([games.FAULTS[name], 0])), ("reset", envs.reset), ("close", envs.close)):  # noqa: B023
            try:
                call()
                said.append(f"{doing} works")
            except BaseException as error:  # noqa: BLE001  # whatever it raises is the result
                said.append(f"{doing}: {type(error).__name__}")
        left = [process for process in envs.processes if process.is_alive()]
        print(f"  Gymnasium Async, {name}: {', '.join(said)}; {len(left)} processes left, closed={envs.closed}")
        envs.closed = True
        for process in left:
            process.kill()


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    gymnasium.logger.min_level = 50
    if arguments.faults:
        inject(arguments.faults, arguments.seed)
    if arguments.steps:
        run_long(arguments.steps)
    peers()


if __name__ == "__main__":
    main()
