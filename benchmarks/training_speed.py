"""Samples a second of the update, against a plain PyTorch loop and against the bare matrix products of the same steps.

A sample is one step gone through once, by both networks. The peers are given advantages and targets ready made; ours makes
them, keeps its normalisers and measures how far the policy has moved, on the clock.
`python benchmarks/training_speed.py [--quick]`
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import harness
from harness import Row

from local_training.actions import Discrete

import numpy as np  # isort: skip  # harness sets the number of its threads first

from local_training import episode, learning, passes, policy, shared_work
from local_training.episode import Episode
from local_training.passes import PART_STEPS, WIDE_HIDDEN, Passes, Sizes
from local_training.settings import LearnerSettings, LearningSettings
from tools.learner.crew import Crew

STATE_WIDTH, ACTION_COUNT = 50, 5
GAMES, STEPS = 2, 1792
"""As many steps as the learner goes through for a game of 256 steps and what it replays with it."""


def rows(quick: bool) -> list[Row]:
    """For each network: ours with one process and with two (with four too if they can share it), against the peers."""
    found = []
    for hidden in (64, 256):
        # No replay and no early stop, so that all sides go through the same number of samples.
        settings = LearningSettings(hidden=hidden, replay_ratio=0.0, kl_limit=1e9)
        found += _rows_of(settings, 2 if quick else 9)
    return found


def _rows_of(settings: LearningSettings, rounds: int) -> list[Row]:
    what = f"update of {STATE_WIDTH}→{settings.hidden}→{settings.hidden}→{ACTION_COUNT}"
    games = _games()
    is_wide = settings.hidden >= WIDE_HIDDEN
    with _crew(2) as crew, _crew(4 if is_wide else 1) as four:
        measures = {"one": _ours(games, settings, None), "two": _ours(games, settings, crew)}
        measures |= {"four": _ours(games, settings, four)} if is_wide else {}
        measures |= {"products": _products(settings), "products, two": _products(settings, threads=2)}
        measures |= _torch(games, settings)
        for measure in measures.values():
            measure()
        figures = dict(zip(measures, harness.take_turns(rounds, *measures.values()), strict=True))
    one, two = figures["one"], figures["two"]
    found = [
        Row(f"{what}, one process", "samples/s", one, figures["products"], "bare matrix products, one thread"),
        Row(f"{what}, two processes", "samples/s", two, figures["products, two"], "bare matrix products, two threads"),
    ]
    if is_wide:
        found.append(Row(f"{what}, four processes", "samples/s", figures["four"], one, "ours, one process"))
    for name in ("PyTorch, 1 thread", f"PyTorch, {os.cpu_count()} threads"):
        for label, mine in (("one process", one), ("two processes", two)):
            if name in figures:
                found.append(Row(f"{what}, {label}", "samples/s", mine, figures[name], name))
    return found


def _games() -> list[Episode]:
    rng = np.random.default_rng(2)
    return [
        episode.from_arrays(
            {
                "states": rng.standard_normal((STEPS, STATE_WIDTH), dtype=np.float32),
                "actions": rng.integers(0, ACTION_COUNT, STEPS),
                "rewards": rng.standard_normal(STEPS, dtype=np.float32),
                "log_probs": np.full(STEPS, -np.log(ACTION_COUNT), np.float32),
            }
        )
        for _ in range(GAMES)
    ]


def _rate(action: Callable[[], object], settings: LearningSettings) -> float:
    return GAMES * STEPS * settings.epochs / harness.seconds_of(action)


@contextmanager
def _crew(processes: int) -> Iterator[Crew]:
    crew = Crew(LearnerSettings(share_from=0, max_workers=processes), print)
    try:
        crew.tend(processes, 1)
        yield crew
    finally:
        crew.close()


def _ours(games: list[Episode], settings: LearningSettings, crew: Crew | None) -> harness.Measure:
    state = learning.new_state(STATE_WIDTH, Discrete(ACTION_COUNT), settings)
    _, report = learning.learn(state, games, settings, 1)
    assert report.epochs == settings.epochs, "otherwise samples are counted that were not gone through"

    def measure() -> float:
        shared_work.share_with(crew)
        try:
            return _rate(lambda: learning.learn(state, games, settings, 1), settings)
        finally:
            shared_work.share_with(None)

    return measure


def _products(settings: LearningSettings, threads: int = 1) -> harness.Measure:
    """The matrix products of both networks' passes, forward and backward, and nothing else; `threads` share the passes."""
    rng = np.random.default_rng(4)

    def passes_of(outputs: int) -> Callable[[], None]:
        sizes = Sizes(STATE_WIDTH, settings.hidden, outputs)
        vector = rng.standard_normal(policy.size_of(*sizes), dtype=np.float32)
        layers, into = passes.layers_of(vector, sizes), passes.layers_of(np.empty_like(vector), sizes)
        room = Passes(sizes)._room(PART_STEPS)
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
    repeats = GAMES * STEPS * settings.epochs // PART_STEPS

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

    return lambda: _rate(all_passes, settings)


def _torch(games: list[Episode], settings: LearningSettings) -> dict[str, harness.Measure]:
    """With one thread and with all; none where PyTorch is not installed."""
    try:
        import torch_peer
    except ImportError:
        return {}
    update = torch_peer.update(games, settings, ACTION_COUNT)

    def with_threads(count: int) -> harness.Measure:
        def measure() -> float:
            torch_peer.set_threads(count)
            return _rate(update, settings)

        return measure

    return {f"PyTorch, {count} thread{'s' if count > 1 else ''}": with_threads(count) for count in (1, os.cpu_count() or 1)}


if __name__ == "__main__":
    harness.main(rows, "Measure the update that the worker makes of a batch.")
