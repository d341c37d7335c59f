"""Vector environments whose workers may fail, and the recorder of their episodes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from background_training.envs.factory import make_vector_env
    from background_training.envs.half_batches import HalfBatches
    from background_training.envs.resilient_game import ResilientGame
    from background_training.envs.vector_env import ResilientAsyncVectorEnv, StableProcessPoolEnv
    from background_training.envs.vector_recorder import EpisodeRecorder

__all__ = [
    "EpisodeRecorder",
    "HalfBatches",
    "ResilientAsyncVectorEnv",
    "ResilientGame",
    "StableProcessPoolEnv",
    "make_vector_env",
]

_MODULES = {
    "EpisodeRecorder": "vector_recorder",
    "HalfBatches": "half_batches",
    "ResilientAsyncVectorEnv": "vector_env",
    "ResilientGame": "resilient_game",
    "StableProcessPoolEnv": "vector_env",
    "make_vector_env": "factory",
}


def __getattr__(name: str) -> Any:
    # Gymnasium is optional, and a game that only deposits episodes should not pay for it.
    if name in _MODULES:
        return getattr(importlib.import_module(f"background_training.envs.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
