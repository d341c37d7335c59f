"""Episodes to measure with: the sizes of LunarLander-v3, made up from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

STATE_WIDTH, ACTION_COUNT = 8, 4


def arrays(rng: np.random.Generator, steps: int, *, log_probs: bool) -> dict[str, Any]:
    """The arrays of one episode file; with log-probabilities it is what our agent writes, without what a stranger does."""
    made: dict[str, Any] = {
        "states": rng.standard_normal((steps, STATE_WIDTH), dtype=np.float32),
        "actions": rng.integers(0, ACTION_COUNT, steps),
        "rewards": rng.standard_normal(steps, dtype=np.float32),
    }
    if log_probs:
        made["log_probs"] = np.full(steps, -np.log(ACTION_COUNT), np.float32)
        made["meta"] = {"action_count": ACTION_COUNT}
    return made
