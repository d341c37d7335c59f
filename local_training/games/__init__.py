"""Producers: games that play with the present model and deposit what they lived through."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_training.games.making import make_vector_env
    from local_training.games.pool import StableProcessPoolEnv
    from local_training.games.recorder import EpisodeRecorder
    from local_training.games.resilient_game import ResilientGame
    from local_training.games.vector_env import ResilientAsyncVectorEnv

__all__ = ["EpisodeRecorder", "ResilientAsyncVectorEnv", "ResilientGame", "StableProcessPoolEnv", "make_vector_env"]

_MODULES = {
    "EpisodeRecorder": "recorder",
    "ResilientAsyncVectorEnv": "vector_env",
    "ResilientGame": "resilient_game",
    "StableProcessPoolEnv": "pool",
    "make_vector_env": "making",
}


def __getattr__(name: str) -> Any:
    # Gymnasium is optional, and a game that only deposits episodes should not pay for it.
    if name in _MODULES:
        return getattr(importlib.import_module(f"local_training.games.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
