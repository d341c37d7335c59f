"""The same update in PyTorch, as one writes it: clipped policy gradient, value loss, entropy bonus, Adam, short gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def update(games: list[Episode], settings: LearningSettings, action_count: int) -> Callable[[], None]:
    """One batch, a lesson for each game; advantages and targets are there already."""
    torch.manual_seed(0)
    width = games[0].states.shape[1]
    actor, critic = network(width, settings.hidden_size, action_count), network(width, settings.hidden_size, 1)
    optimisers = [torch.optim.Adam(part.parameters(), lr=settings.learning_rate, fused=True) for part in (actor, critic)]
    lessons = [
        (
            torch.from_numpy(game.states),
            torch.from_numpy(game.actions),
            torch.from_numpy(game.log_probs),
            torch.randn(len(game.actions)),
            torch.randn(len(game.actions)),
        )
        for game in games
    ]

    def step(
        states: torch.Tensor, actions: torch.Tensor, played: torch.Tensor, advantages: torch.Tensor, targets: torch.Tensor
    ) -> None:
        log_pi = torch.log_softmax(actor(states), dim=1)
        weights = torch.exp(log_pi.gather(1, actions[:, None])[:, 0] - played)
        clipped = torch.clamp(weights, 1 - settings.clip_range, 1 + settings.clip_range)
        entropy = -(log_pi.exp() * log_pi).sum(1).mean()
        loss = -torch.min(weights * advantages, clipped * advantages).mean() - settings.ent_coef * entropy
        loss = loss + 0.5 * ((critic(states)[:, 0] - targets) ** 2).mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for part, optimiser in zip((actor, critic), optimisers, strict=True):
            nn.utils.clip_grad_norm_(part.parameters(), settings.max_grad_norm)
            optimiser.step()

    def batch() -> None:
        for lesson in lessons:
            steps = len(lesson[0])
            for _ in range(settings.n_epochs):
                for rows in torch.tensor_split(torch.randperm(steps), math.ceil(steps / settings.minibatch_size)):
                    step(*(part[rows] for part in lesson))

    return batch
