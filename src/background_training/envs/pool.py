"""More games than worker processes: the games live on inside their workers between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from background_training.envs.env_host import EnvFactory
from background_training.envs.presets import usable_cores
from background_training.envs.vector_env import ResilientAsyncVectorEnv


class StableProcessPoolEnv(ResilientAsyncVectorEnv):
    """ResilientAsyncVectorEnv with several envs per worker.

    The same promises hold, with one difference: a worker that dies or hangs takes the running episodes of all its envs
    with it. An exception concerns only the env that raised it.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFactory],
        max_workers: int | None = None,
        timeout: float = 15.0,
        *,
        copy: bool = True,
        **options: Any,
    ) -> None:
        """Start the workers and build the envs.

        Args:
            env_fns: functions that make the envs.
            max_workers: worker processes, at most; None: one per core this process may use.
            timeout: seconds one env's step or reset may take.
            copy: as ResilientAsyncVectorEnv's.
            options: everything else ResilientAsyncVectorEnv takes.
        """
        workers = usable_cores() if max_workers is None else max_workers
        if workers < 1:
            raise ValueError(f"max_workers is {max_workers}; at least 1 is needed")
        limits = {"step_seconds": timeout, "reset_seconds": timeout, "num_workers": min(workers, max(1, len(env_fns)))}
        super().__init__(env_fns, copy=copy, **{**limits, **options})
