"""Samples a second of the worker's update, against a plain PyTorch loop of the same networks, batch and steps.

A sample is one step gone through once. Both use one thread. The peer is given its advantages and targets ready made;
ours makes them, and keeps its normalisers, on the clock. `python benchmarks/training_speed.py [--quick]`
"""

from __future__ import annotations

import math
from collections.abc import Callable

import harness
from harness import Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import ACTION_COUNT, STATE_WIDTH, arrays

from local_training import episode, learning
from local_training.episode import Episode
from local_training.settings import LearningSettings

GAMES, STEPS = 10, 300

# No replay and no early stop, so that both sides go through the same number of samples.
SETTINGS = LearningSettings(replay_ratio=0.0, kl_limit=1e9)


def rows(quick: bool) -> list[Row]:
    """One row; without a peer where PyTorch is not installed."""
    rng = np.random.default_rng(2)
    made = [arrays(rng, STEPS, log_probs=True) for _ in range(GAMES)]
    games = [episode.from_arrays({name: value for name, value in each.items() if name != "meta"}) for each in made]
    what = f"update, {GAMES} games of {STEPS} steps, {SETTINGS.epochs} epochs, {SETTINGS.hidden} x {SETTINGS.hidden} units"
    ours, rounds = _ours(games), 3 if quick else 25
    ours()
    try:
        theirs = _torch(games)
    except ImportError:
        return [Row(what, "samples/s", harness.take_turns(rounds, ours)[0], peer_name="PyTorch is not installed: skipped")]
    theirs()
    mine, peer = harness.take_turns(rounds, ours, theirs)
    return [Row(what, "samples/s", mine, peer, "plain PyTorch loop")]


def _rate(action: Callable[[], object]) -> float:
    return GAMES * STEPS * SETTINGS.epochs / harness.seconds_of(action)


def _ours(games: list[Episode]) -> harness.Measure:
    state = learning.new_state(STATE_WIDTH, ACTION_COUNT, SETTINGS)
    state, _ = learning.learn(state, games, SETTINGS, 1)

    def measure() -> float:
        return _rate(lambda: learning.learn(state, games, SETTINGS, 2))

    _, report = learning.learn(state, games, SETTINGS, 2)
    assert report.epochs == SETTINGS.epochs, "otherwise samples are counted that were not gone through"
    return measure


def _torch(games: list[Episode]) -> harness.Measure:
    """The loop as one would write it: clipped policy gradient, value loss, entropy bonus, Adam, shortened gradient."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def network(outputs: int) -> nn.Sequential:
        width = SETTINGS.hidden
        return nn.Sequential(
            nn.Linear(STATE_WIDTH, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
        )

    actor, critic = network(ACTION_COUNT), network(1)
    optimisers = [torch.optim.Adam(part.parameters(), lr=SETTINGS.learning_rate) for part in (actor, critic)]
    lessons = [
        (
            torch.from_numpy(game.states),
            torch.from_numpy(game.actions),
            torch.from_numpy(game.log_probs),
            torch.randn(STEPS),
            torch.randn(STEPS),
        )
        for game in games
    ]

    def step(
        states: torch.Tensor, actions: torch.Tensor, played: torch.Tensor, advantages: torch.Tensor, targets: torch.Tensor
    ) -> None:
        log_pi = torch.log_softmax(actor(states), dim=1)
        weights = torch.exp(log_pi.gather(1, actions[:, None])[:, 0] - played)
        clipped = torch.clamp(weights, 1 - SETTINGS.clip, 1 + SETTINGS.clip)
        entropy = -(log_pi.exp() * log_pi).sum(1).mean()
        loss = -torch.min(weights * advantages, clipped * advantages).mean() - SETTINGS.entropy * entropy
        loss = loss + 0.5 * ((critic(states)[:, 0] - targets) ** 2).mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for part, optimiser in zip((actor, critic), optimisers, strict=True):
            nn.utils.clip_grad_norm_(part.parameters(), SETTINGS.gradient_norm)
            optimiser.step()

    def update() -> None:
        for lesson in lessons:
            for _ in range(SETTINGS.epochs):
                for rows_now in torch.tensor_split(torch.randperm(STEPS), math.ceil(STEPS / SETTINGS.minibatch_steps)):
                    step(*(part[rows_now] for part in lesson))

    return lambda: _rate(update)


if __name__ == "__main__":
    harness.main(rows, "Measure the update that the worker makes of a batch.")
