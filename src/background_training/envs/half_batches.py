"""A batch in parts that take turns: one is stepped while the policy computes for another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from background_training.envs.env_host import EnvFactory
from background_training.envs.vector_env import ResilientAsyncVectorEnv
from background_training.envs.vector_settings import usable_cores

Transition = tuple[int, Any, Any, Any, Any, dict[str, Any]]
"""number of the part, observations, rewards, terminations, truncations, infos."""


class HalfBatches:
    """Two vector envs of half the envs each, or more of fewer, with workers of their own.

    While the caller handles the results of one part, the others' workers are busy, so that no core waits for the policy, and only
    the envs of the same part wait for the slowest. Each part is a whole ResilientAsyncVectorEnv, with all its promises. Two parts
    suit games that compute; where games wait, parts of two envs each are fastest.
    """

    def __init__(self, env_fns: Sequence[EnvFactory], *, parts: int = 2, num_workers: int = 0, **options: Any) -> None:
        """Start all parts.

        Args:
            env_fns: functions that make the envs, as many for each part; the first of them are part 0.
            parts: how many.
            num_workers: worker processes of all parts together, one for each part at least; 0: one per core.
            options: everything else ResilientAsyncVectorEnv takes.

        Raises:
            ValueError: `env_fns` can't be divided evenly.
        """
        if parts < 2 or not env_fns or len(env_fns) % parts:
            raise ValueError(f"{len(env_fns)} env_fns in {parts} parts: at least two parts of equal size are needed")
        size = len(env_fns) // parts
        workers = max(1, (num_workers or usable_cores()) // parts)
        if parts * workers >= usable_cores():  # each part sees its own workers only
            options = {"spin_microseconds": 0, **options}
        started: list[ResilientAsyncVectorEnv] = []
        try:
            for first in range(0, len(env_fns), size):
                started.append(ResilientAsyncVectorEnv(env_fns[first : first + size], num_workers=workers, **options))
        except BaseException:
            for part in started:
                part.close()
            raise
        self.parts = tuple(started)

    def reset(self, *, seed: int | None = None) -> tuple[Any, ...]:
        """Reset all envs, seeded as one batch would be; the observations of each part."""
        for number, part in enumerate(self.parts):
            part.reset_async(seed=None if seed is None else seed + number * part.num_envs)
        return tuple(part.reset_wait()[0] for part in self.parts)

    def play(
        self, observations: tuple[Any, ...], choose: Callable[[int, Any], Any], steps: int, learn: Callable[[Transition], None]
    ) -> None:
        """Play `steps` steps of every env.

        Args:
            observations: of each part, from `reset`.
            choose: (part, observations) to actions.
            steps: per part.
            learn: is called with every part's results; the others are stepped meanwhile.
        """
        for number, seen in enumerate(observations):
            self.parts[number].step_async(choose(number, seen))
        for left in reversed(range(steps)):
            for number, envs in enumerate(self.parts):
                results = envs.step_wait()
                if left:
                    envs.step_async(choose(number, results[0]))
                learn((number, *results))

    def health(self) -> list[dict[str, Any]]:
        """The health of each part."""
        return [part.health() for part in self.parts]

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()

    def __enter__(self) -> HalfBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
