"""Speed of vector envs, as ratios within one run: `python benchmarks/vector.py [--seconds 2] [--rounds 3]`.

Three workloads: CartPole-v1 x 8 (cheap steps), images of 384x260x3 with 1 ms of work x 8, and a game server that answers
in 2 ms x 16 (pure waiting). For each: the raw limit (one process per core, or per env where it waits, with no
communication at all), Gymnasium's Sync and Async, and ours. Rounds are interleaved. Each turn is cut into windows of a
quarter of a second; the medians are those of windows in which other programs used less than an eighth of a core, where
there were any ("alone" says in how many of them). The last column is the processor time per env step of all our processes.
At last CartPole-v1 x 8 beside a program that keeps a core busy (`--only beside`): how fast we are, and what is left to it.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from harness import processor_seconds  # noqa: E402

from background_training.envs import make_vector_env  # noqa: E402
from background_training.envs.half_batches import HalfBatches  # noqa: E402
from background_training.envs.vector_settings import usable_cores  # noqa: E402

WINDOW_SECONDS = 0.25
SETTLE_SECONDS = 1.2
OTHERS_CORES = 0.125


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


@dataclass
class Contender:
    """Steps a second in each window, whether others were idle then, and processor time per step of each turn."""

    rates: list[float] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def add(self, rate: float, others: float) -> None:
        self.rates.append(rate)
        self.alone.append(others < OTHERS_CORES)

    def median(self) -> float:
        undisturbed = [rate for rate, alone in zip(self.rates, self.alone, strict=True) if alone]
        return statistics.median(undisturbed or self.rates)


def busy_seconds() -> float:
    """What all programs of this machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def ours_seconds() -> float:
    """What this process and its workers have used."""
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return sum(processor_seconds(pid) for pid in pids)


def alone(make: Callable[[], gymnasium.Env], actions: int, seconds: float, start: Any, results: Any) -> None:
    """One raw process: step an env until the time is up."""
    env = make()
    env.reset()
    chosen = np.random.default_rng(0).integers(0, actions, 1024).tolist()
    steps = 0
    start.wait()
    used, begun = time.process_time(), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for action in chosen[:16]:
            _, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated:
                env.reset()
    results.put((steps / (time.perf_counter() - begun), time.process_time() - used))


def raw_limit(make: Callable[[], gymnasium.Env], actions: int, processes: int, seconds: float) -> tuple[float, float]:
    """Steps a second of processes that never speak, and how many cores others used meanwhile."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(processes + 1), context.Queue()
    workers = [context.Process(target=alone, args=(make, actions, seconds, start, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    start.wait()
    busy, own, begun = busy_seconds(), time.process_time(), time.perf_counter()
    found = [results.get() for _ in workers]
    elapsed = time.perf_counter() - begun
    others = busy_seconds() - busy - (time.process_time() - own) - sum(used for _, used in found)
    for worker in workers:
        worker.join()
    return float(sum(rate for rate, _ in found)), others / elapsed


def measure(contender: Contender, play: Callable[[], int], seconds: float) -> None:
    """Call `play`, which returns how many steps it has played, for so many seconds, after a time to settle."""
    settled = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < settled:
        play()
    end = time.perf_counter() + seconds
    steps_in_all, used_in_all = 0, ours_seconds()
    while time.perf_counter() < end:
        busy, ours, steps, begun = busy_seconds(), ours_seconds(), 0, time.perf_counter()
        while time.perf_counter() - begun < WINDOW_SECONDS:
            steps += play()
        elapsed = time.perf_counter() - begun
        contender.add(steps / elapsed, (busy_seconds() - busy - (ours_seconds() - ours)) / elapsed)
        steps_in_all += steps
    contender.costs.append((ours_seconds() - used_in_all) / steps_in_all * 1e6)


def player(envs: Any, actions: np.ndarray) -> Callable[[], int]:
    """Plays a vector env a few steps at a time."""
    envs.reset(seed=0)

    def play() -> int:
        for row in actions[:4]:
            envs.step(row)
        return 4 * actions.shape[1]

    return play


def half_player(halves: HalfBatches, actions: np.ndarray) -> Callable[[], int]:
    """The same for half batches and smaller parts."""
    size, observations = actions.shape[1] // len(halves.parts), halves.reset(seed=0)

    def play() -> int:
        halves.play(observations, lambda _, __: actions[0, :size], 32, lambda told: None)
        return 32 * actions.shape[1]

    return play


def compare(name: str, seconds: float, rounds: int) -> None:
    """Run one workload and print its table."""
    make, count, action_count = WORKLOADS[name]
    actions = np.random.default_rng(0).integers(0, action_count, (64, count))
    waits = name.startswith("server")
    makers = [make] * count
    auto = partial(make_vector_env, makers, rebuild_episodes=0)
    envs: dict[str, Any] = {
        "Gymnasium Sync": SyncVectorEnv(makers),
        "Gymnasium Async": AsyncVectorEnv(makers, context="fork"),
        "ours, auto": auto(),
        "ours, auto, no copy": auto(copy=False),
        "ours, auto, no looking": auto(spin_microseconds=0),
        "ours, one worker per core": make_vector_env(makers, "pool", rebuild_episodes=0),
        "ours, one worker per env": make_vector_env(makers, "async", rebuild_episodes=0),
    }
    players = {label: player(each, actions) for label, each in envs.items()}
    for label, parts in (("ours, half batches", 2), ("ours, batches of two", count // 2)):
        workers = count if waits else usable_cores()
        envs[label] = HalfBatches(makers, parts=parts, num_workers=workers, rebuild_episodes=0, copy=False)
        players[label] = half_player(envs[label], actions)
    found = {label: Contender() for label in ("raw limit", *players)}
    for _ in range(rounds):
        found["raw limit"].add(*raw_limit(make, action_count, count if waits else usable_cores(), seconds))
        for label, play in players.items():
            measure(found[label], play, seconds)
    for each in envs.values():
        each.close()
    print(f"\n{name:26s} {'steps/s':>9s} {'of raw':>7s} {'of Async':>8s} {'of Sync':>8s} {'alone':>9s} {'CPU us/step':>12s}")
    for label, contender in found.items():
        ratios = (contender.median() / found[other].median() for other in ("raw limit", "Gymnasium Async", "Gymnasium Sync"))
        cost = f"{statistics.median(contender.costs):12.1f}" if contender.costs else ""
        share = f"{sum(contender.alone)}/{len(contender.alone)}"
        print("{:26s} {:9.0f} {:7.2f} {:8.2f} {:8.2f} {:>9s} {}".format(label, contender.median(), *ratios, share, cost).rstrip())


def keep_busy(rounds: Any) -> None:
    """Another program, which never waits."""
    while True:
        for _ in range(1000):
            pass
        rounds.value += 1


def compare_beside(seconds: float, rounds: int) -> None:
    """CartPole-v1 x 8 beside another program, which keeps a core busy: how fast we are, and what is left to it."""
    make, count, action_count = WORKLOADS["cartpole x 8"]
    actions = np.random.default_rng(0).integers(0, action_count, (64, count))
    auto = partial(make_vector_env, [make] * count, rebuild_episodes=0)
    envs: dict[str, Any] = {
        "Gymnasium Sync": SyncVectorEnv([make] * count),
        "ours, auto": auto(),
        "ours, auto, no looking": auto(spin_microseconds=0),
    }
    players: dict[str, Callable[[], int]] = {"nobody": lambda: time.sleep(0.01) or 0}
    players.update({label: player(each, actions) for label, each in envs.items()})
    context = multiprocessing.get_context("fork")
    done = context.Value("q", 0, lock=False)
    other = context.Process(target=keep_busy, args=(done,), daemon=True)
    other.start()
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in players}
    for _ in range(rounds):
        for label, play in players.items():
            settled = time.perf_counter() + SETTLE_SECONDS
            while time.perf_counter() < settled:
                play()
            before, steps, begun = done.value, 0, time.perf_counter()
            while time.perf_counter() - begun < seconds:
                steps += play()
            elapsed = time.perf_counter() - begun
            found[label].append((steps / elapsed, (done.value - before) / elapsed))
    other.kill()
    for each in envs.values():
        each.close()
    free = statistics.median(speed for _, speed in found["nobody"])
    print(f"\n{'beside a busy program':26s} {'steps/s':>9s} {'its speed, of that alone':>25s}")
    for label, figures in found.items():
        rate, speed = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{label:26s} {rate:9.0f} {speed / free:25.2f}")


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
    if arguments.only in "beside":
        compare_beside(arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
