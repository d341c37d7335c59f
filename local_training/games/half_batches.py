"""Two halves of a batch that take turns: one half plays while the policy thinks about the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from local_training.games.env_host import EnvFactory
from local_training.games.presets import usable_cores
from local_training.games.vector_env import ResilientAsyncVectorEnv

Transition = tuple[int, Any, Any, Any, Any, dict[str, Any]]
"""half (0 or 1), observations, rewards, terminations, truncations, infos."""


class HalfBatches:
    """Two vector envs of half the envs each, with workers of their own.

    While the caller handles the results of one half, the other half's workers are busy, so that no core waits for
    the policy. Each half is a whole ResilientAsyncVectorEnv, with all its promises.
    """

    def __init__(self, env_fns: Sequence[EnvFactory], *, num_workers: int = 0, **options: Any) -> None:
        """Start both halves.

        Args:
            env_fns: an even number of functions that make the envs; the first half of them is half 0.
            num_workers: worker processes of both halves together; 0: one per core.
            options: everything else ResilientAsyncVectorEnv takes.
        """
        if len(env_fns) < 2 or len(env_fns) % 2:
            raise ValueError(f"there are {len(env_fns)} env_fns; an even number is needed")
        middle = len(env_fns) // 2
        workers = max(1, (num_workers or usable_cores()) // 2)
        if 2 * workers >= usable_cores():  # each half sees its own workers only
            options = {"spin_microseconds": 0, **options}
        first = ResilientAsyncVectorEnv(env_fns[:middle], num_workers=workers, **options)
        try:
            second = ResilientAsyncVectorEnv(env_fns[middle:], num_workers=workers, **options)
        except BaseException:
            first.close()
            raise
        self.halves = (first, second)

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        """Reset all envs, seeded as one batch would be; the observations of both halves."""
        middle = self.halves[0].num_envs
        seeds = (seed, None if seed is None else seed + middle)
        for half, half_seed in zip(self.halves, seeds, strict=True):
            half.reset_async(seed=half_seed)
        first, second = (half.reset_wait()[0] for half in self.halves)
        return first, second

    def play(
        self, observations: tuple[Any, Any], choose: Callable[[int, Any], Any], steps: int, learn: Callable[[Transition], None]
    ) -> None:
        """Play so many steps of every env.

        Args:
            observations: of both halves, from `reset`.
            choose: (half, observations) to actions.
            steps: per half.
            learn: is told every half's results; the other half plays meanwhile.
        """
        for half, seen in enumerate(observations):
            self.halves[half].step_async(choose(half, seen))
        for number in range(steps):
            for half, envs in enumerate(self.halves):
                results = envs.step_wait()
                if number + 1 < steps:
                    envs.step_async(choose(half, results[0]))
                learn((half, *results))

    def health(self) -> list[dict[str, Any]]:
        """The health of both halves."""
        return [half.health() for half in self.halves]

    def close(self) -> None:
        """Close both halves."""
        for half in self.halves:
            half.close()

    def __enter__(self) -> HalfBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
