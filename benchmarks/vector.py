"""Speed of vector envs, as ratios within one run: `python benchmarks/vector.py [--seconds 2] [--rounds 3]`.

Three workloads: CartPole-v1 x 8 (cheap steps), images of 384x260x3 with 1 ms of work x 8, and a game server that answers
in 2 ms x 16 (pure waiting). For each: the raw limit (one process per core, or per env where it waits, with no
communication at all), Gymnasium's Sync and Async, and ours. Rounds are interleaved, the medians are printed. The last
column, processor time per env step of all processes together, depends little on who else uses the machine.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local_training.games import make_vector_env
from local_training.games.half_batches import HalfBatches
from local_training.games.pool import usable_cores


class ImageGame(gymnasium.Env):
    """An image of 384x260x3 after 1 ms of work."""

    observation_space, action_space = spaces.Box(0, 255, (384, 260, 3), np.uint8), spaces.Discrete(4)

    def __init__(self) -> None:
        self.image = np.zeros((384, 260, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.image, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass
        return self.image, 1.0, False, False, {}


class ServerGame(gymnasium.Env):
    """A game server that answers in 2 ms."""

    observation_space, action_space = spaces.Box(0, 1, (8,), np.float32), spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(8, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.002)
        return np.zeros(8, np.float32), 1.0, False, False, {}


WORKLOADS: dict[str, tuple[Callable[[], gymnasium.Env], int, int]] = {
    "cartpole x 8": (partial(gymnasium.make, "CartPole-v1"), 8, 2),
    "image x 8": (ImageGame, 8, 4),
    "server x 16": (ServerGame, 16, 4),
}


def alone(make: Callable[[], gymnasium.Env], actions: int, seconds: float, start: Any, results: Any) -> None:
    """One raw process: step an env until the time is up."""
    env = make()
    env.reset()
    chosen = np.random.default_rng(0).integers(0, actions, 1024).tolist()
    steps = 0
    start.wait()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for action in chosen[:16]:
            _, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated:
                env.reset()
    results.put(steps / seconds)


def raw_limit(make: Callable[[], gymnasium.Env], actions: int, processes: int, seconds: float) -> float:
    """Steps a second of processes that never speak."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=alone, args=(make, actions, seconds, start, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(total)


def rate(envs: Any, actions: np.ndarray, seconds: float) -> float:
    """Steps a second of a vector env, all envs counted."""
    envs.reset(seed=0)
    for row in actions[:32]:
        envs.step(row)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for row in actions[:16]:
            envs.step(row)
        steps += 16
    return steps * actions.shape[1] / (time.perf_counter() - start)


def half_rate(halves: HalfBatches, actions: np.ndarray, seconds: float) -> float:
    """The same for half batches."""
    half = actions.shape[1] // 2
    observations, steps, start = halves.reset(seed=0), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        halves.play(observations, lambda _, __: actions[0, :half], 32, lambda told: None)
        steps += 32
    return steps * actions.shape[1] / (time.perf_counter() - start)


def processor_seconds() -> float:
    """What this process and its workers have used; idle contenders add nothing."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def compare(name: str, seconds: float, rounds: int) -> None:
    """Run one workload and print its table."""
    make, count, action_count = WORKLOADS[name]
    actions = np.random.default_rng(0).integers(0, action_count, (64, count))
    waits = name.startswith("server")
    makers = [make] * count
    auto = partial(make_vector_env, makers, rebuild_episodes=0)
    contenders = {
        "Gymnasium Sync": SyncVectorEnv(makers),
        "Gymnasium Async": AsyncVectorEnv(makers, context="fork"),
        "ours, auto": auto(),
        "ours, auto, no copy": auto(copy=False),
        "ours, auto, spin 50 us": auto(spin_microseconds=50),
        "ours, one per env": make_vector_env(makers, "async", rebuild_episodes=0),
    }
    halves = HalfBatches(makers, num_workers=count if waits else usable_cores(), rebuild_episodes=0, copy=False)
    results: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for _ in range(rounds):
        results.setdefault("raw limit", []).append(raw_limit(make, action_count, count if waits else usable_cores(), seconds))
        for label, envs in contenders.items():
            used = processor_seconds()
            results.setdefault(label, []).append(rate(envs, actions, seconds))
            costs.setdefault(label, []).append((processor_seconds() - used) / (results[label][-1] * seconds) * 1e6)
        results.setdefault("ours, half batches", []).append(half_rate(halves, actions, seconds))
    for envs in (*contenders.values(), halves):
        envs.close()
    medians = {label: statistics.median(values) for label, values in results.items()}
    print(f"\n{name:24s} {'steps/s':>9s} {'of raw':>7s} {'of Async':>8s} {'of Sync':>8s} {'CPU us/step':>12s}")
    for label, value in medians.items():
        ratios = (value / medians[other] for other in ("raw limit", "Gymnasium Async", "Gymnasium Sync"))
        cost = f"{statistics.median(costs[label]):12.1f}" if label in costs else ""
        print("{:24s} {:9.0f} {:7.2f} {:8.2f} {:8.2f} {}".format(label, value, *ratios, cost).rstrip())


def main() -> None:
    """Run all workloads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in WORKLOADS:
        if arguments.only in name:
            compare(name, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
