"""The vector env that fits: in this process, one worker per env, or several envs per worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from gymnasium.vector import SyncVectorEnv, VectorEnv

from background_training.envs import presets, step_probe
from background_training.envs.env_host import EnvFactory
from background_training.envs.presets import usable_cores
from background_training.envs.resilient_game import ResilientGame
from background_training.envs.vector_env import ResilientAsyncVectorEnv
from background_training.envs.vector_settings import VectorSettings
from background_training.errors import SettingsError, WorkerError

log = logging.getLogger(__name__)

MODES = ("auto", "sync", "async", "pool")
_SYNC_OPTIONS = ("copy", "observation_mode", "autoreset_mode")


def make_vector_env(
    env_fns: Sequence[EnvFactory], mode: str = "auto", *, preset: str | None = None, **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Make a vector env.

    Args:
        env_fns: functions that make the envs.
        mode: sync: in this process, exceptions end episodes. async: one worker per env. pool: one worker per core.
            auto: one env means sync; otherwise one env is measured in a process of its own: envs that wait get a
            worker each; envs that work share one per core, or fewer where their steps are cheaper than waking it.
        preset: conservative, balanced or aggressive; sized by the machine at hand.
        options: whatever ResilientAsyncVectorEnv takes; they win over the preset.

    Raises:
        SettingsError: an unknown mode, preset or option.
        ValueError: no env_fns.
    """
    if mode not in MODES:
        raise SettingsError("mode", mode, "one of " + ", ".join(MODES) + " is needed", "make_vector_env")
    if preset is not None:
        chosen = presets.preset(preset, len(env_fns), presets.this_machine())
        options = {"settings": chosen, **options}
    if mode == "sync" or (mode == "auto" and len(env_fns) == 1):
        return _in_process(env_fns, options)
    workers = _workers(env_fns, mode, options)
    return ResilientAsyncVectorEnv(env_fns, **{**options, "num_workers": workers})


def _workers(env_fns: Sequence[EnvFactory], mode: str, options: dict[str, Any]) -> int:
    """How many workers; 0: one per env."""
    if "num_workers" in options:
        return int(options["num_workers"])
    settings: VectorSettings | None = options.get("settings")
    if mode == "async" or not env_fns:
        return 0
    shared = usable_cores() if settings is None or not settings.num_workers else settings.num_workers
    if mode == "pool":
        return shared
    kept = {name: value for name, value in options.items() if name in VectorSettings.__dataclass_fields__}
    try:
        cost = step_probe.measure(env_fns[0], settings=settings, **kept)
    except WorkerError as error:
        log.warning("an env could not be measured, so each gets a worker of its own: %s", error)
        return 0
    log.info("a step takes %.0f us, waits in %.0f %% of steps", cost.wall_seconds * 1e6, 100 * min(1.0, cost.waiting_share))
    return 0 if cost.waits else cost.workers_for(len(env_fns), shared)


class InProcessVectorEnv(SyncVectorEnv[Any, Any]):
    """Gymnasium's SyncVectorEnv over ResilientGames, with a `health()` like the others'."""

    def health(self) -> dict[str, Any]:
        """How many exceptions the games have raised."""
        errors = [env.errors for env in self.envs if isinstance(env, ResilientGame)]
        return {
            "failures": sum(errors),
            "failures_by_env": errors,
            "envs": self.num_envs,
            "in_process": list(range(self.num_envs)),
        }


def _in_process(env_fns: Sequence[EnvFactory], options: dict[str, Any]) -> InProcessVectorEnv:
    VectorSettings().with_options(**{name: value for name, value in options.items() if name not in (*_SYNC_OPTIONS, "settings")})
    if not env_fns:
        raise ValueError("there are no env_fns; at least one is needed")
    kept = {name: value for name, value in options.items() if name in _SYNC_OPTIONS}
    return InProcessVectorEnv([lambda make=make: ResilientGame(make(), rebuild=make) for make in env_fns], **kept)  # type: ignore[misc]
