"""Samples a second of the update: with the value network's thread and without, against PyTorch and bare matrix products.

A sample is one step gone through once, by both networks. The peers are given advantages and targets ready made; ours makes
them, keeps its normalisers and measures how far the policy has moved, on the clock. The worker uses the thread from
`ppo_update.THREAD_HIDDEN` units on; here it is measured below that, too.
`python benchmarks/training_speed.py [--quick]`
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import harness
from harness import Row

from background_training.spaces import Discrete

import numpy as np  # isort: skip  # harness sets the number of its threads first

from background_training.algo import network, policy, ppo_update, train_step
from background_training.algo.network import PART_STEPS, Passes, Sizes
from background_training.episodes import episode
from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings

STATE_WIDTH, ACTION_COUNT = 50, 5
GAMES = {200: 10, 1792: 2}
"""How many games of how many steps: short ones, and as many steps as the learner goes through for a game of 256 steps and
what it replays with it."""
LONG = 1792
PEERS_HIDDEN = (64, 256)


def rows(quick: bool) -> list[Row]:
    """The thread's gain for each network and length of games; for two of the networks the peers."""
    rounds, found = 2 if quick else 9, []
    for hidden in (64, 128, 256, 512):
        # No replay and no early stop, so that all sides go through the same number of samples.
        settings = LearningSettings(hidden_size=hidden, replay_ratio=0.0, target_kl=1e9)
        for steps in GAMES:
            found += _rows_of(settings, steps, rounds)
    return found


def _rows_of(settings: LearningSettings, steps: int, rounds: int) -> list[Row]:
    what = f"update of {STATE_WIDTH}→{settings.hidden_size}→{settings.hidden_size}→{ACTION_COUNT}, games of {steps} steps"
    games = _games(steps)
    measures = {"one": _ours(games, settings, in_thread=False), "two": _ours(games, settings, in_thread=True)}
    if steps == LONG and settings.hidden_size in PEERS_HIDDEN:
        measures |= {"products": _products(settings), "products, two": _products(settings, threads=2)}
        measures |= _torch(games, settings)
    for measure in measures.values():
        measure()
    figures = dict(zip(measures, harness.take_turns(rounds, *measures.values()), strict=True))
    one, two = figures["one"], figures["two"]
    found = [Row(f"{what}, with value thread", "samples/s", two, one, "one thread")]
    if "products" in figures:
        found += [
            Row(f"{what}, one thread", "samples/s", one, figures["products"], "bare matrix products, one thread"),
            Row(f"{what}, with value thread", "samples/s", two, figures["products, two"], "bare matrix products, two threads"),
        ]
    for name in (name for name in figures if name.startswith("PyTorch")):
        for label, mine in (("one thread", one), ("with value thread", two)):
            found.append(Row(f"{what}, {label}", "samples/s", mine, figures[name], name))
    return found


def _games(steps: int) -> list[Episode]:
    rng = np.random.default_rng(2)
    return [
        episode.from_arrays(
            {
                "states": rng.standard_normal((steps, STATE_WIDTH), dtype=np.float32),
                "actions": rng.integers(0, ACTION_COUNT, steps),
                "rewards": rng.standard_normal(steps, dtype=np.float32),
                "log_probs": np.full(steps, -np.log(ACTION_COUNT), np.float32),
            }
        )
        for _ in range(GAMES[steps])
    ]


def _rate(action: Callable[[], object], samples: int) -> float:
    return samples / harness.seconds_of(action)


def _ours(games: list[Episode], settings: LearningSettings, in_thread: bool) -> harness.Measure:
    state = train_step.new_state(STATE_WIDTH, Discrete(ACTION_COUNT), settings)
    _, report = train_step.learn(state, games, settings, 1)
    assert report.epochs == settings.n_epochs, "otherwise samples are counted that were not gone through"
    samples = sum(game.steps for game in games) * settings.n_epochs

    def measure() -> float:
        usual = ppo_update.THREAD_HIDDEN
        ppo_update.THREAD_HIDDEN = 1 if in_thread else settings.hidden_size + 1
        try:
            return _rate(lambda: train_step.learn(state, games, settings, 1), samples)
        finally:
            ppo_update.THREAD_HIDDEN = usual

    return measure


def _products(settings: LearningSettings, threads: int = 1) -> harness.Measure:
    """The matrix products of both networks' passes, forward and backward, and nothing else; `threads` share the passes."""
    rng = np.random.default_rng(4)

    def passes_of(outputs: int) -> Callable[[], None]:
        sizes = Sizes(STATE_WIDTH, settings.hidden_size, outputs)
        vector = rng.standard_normal(policy.size_of(*sizes), dtype=np.float32)
        layers, into = network.layers_of(vector, sizes), network.layers_of(np.empty_like(vector), sizes)
        room = Passes(sizes)._workspace(PART_STEPS)
        states = rng.standard_normal((PART_STEPS, STATE_WIDTH + 1), dtype=np.float32)
        slope = rng.standard_normal((PART_STEPS, outputs), dtype=np.float32)

        def products() -> None:
            np.matmul(layers.first.T, states.T, out=room.units1)
            np.matmul(layers.second.T, room.hidden1, out=room.units2)
            np.matmul(layers.third.T, room.hidden2, out=room.outputs)
            np.matmul(room.hidden2, slope, out=into.third)
            np.matmul(layers.third[:-1], slope.T, out=room.gradient)
            np.matmul(room.hidden1, room.gradient.T, out=into.second)
            np.matmul(layers.second[:-1], room.gradient, out=room.other_gradient)
            np.matmul(states.T, room.other_gradient.T, out=into.first)
            # Otherwise they would grow from pass to pass until they are infinite, which is slower.
            room.units1.fill(0.5)
            room.units2.fill(0.5)

        return products

    kits = [[passes_of(ACTION_COUNT), passes_of(1)] for _ in range(threads)]
    samples = GAMES[LONG] * LONG * settings.n_epochs
    repeats = samples // PART_STEPS

    def all_passes() -> None:
        def share(kit: list[Callable[[], None]]) -> None:
            for _ in range(repeats // threads):
                for products in kit:
                    products()

        helpers = [threading.Thread(target=share, args=(kit,)) for kit in kits[1:]]
        for helper in helpers:
            helper.start()
        share(kits[0])
        for helper in helpers:
            helper.join()

    return lambda: _rate(all_passes, samples)


def _torch(games: list[Episode], settings: LearningSettings) -> dict[str, harness.Measure]:
    """With one thread and with all; none where PyTorch is not installed."""
    try:
        import torch_peer
    except ImportError:
        return {}
    update = torch_peer.update(games, settings, ACTION_COUNT)
    samples = sum(game.steps for game in games) * settings.n_epochs

    def with_threads(count: int) -> harness.Measure:
        def measure() -> float:
            torch_peer.set_threads(count)
            return _rate(update, samples)

        return measure

    return {f"PyTorch, {count} thread{'s' if count > 1 else ''}": with_threads(count) for count in (1, os.cpu_count() or 1)}


if __name__ == "__main__":
    harness.main(rows, "Measure the update that the worker makes of a batch.")
