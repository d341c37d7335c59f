"""Under which tags TensorBoard shows what the metrics history knows of a batch: the field's usual ones, and ours. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]
Floats = npt.NDArray[np.float64]

_FIELDS = {
    "rollout/ep_rew_mean": "mean_return",
    "rollout/ep_len_mean": "mean_length",
    "train/loss": "loss",
    "train/policy_gradient_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "kl",
    "train/clip_fraction": "clipped_share",
    "train/explained_variance": "explained_variance",
    "train/grad_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
    "train/n_epochs": "epochs",
    "time/load_seconds": "load_seconds",
    "time/train_seconds": "train_seconds",
    "time/commit_seconds": "commit_seconds",
    "time/archive_seconds": "archive_seconds",
    "time/batch_seconds": "total_seconds",
    "time/rested_seconds": "rested_seconds",
    "data/staleness_versions": "staleness_versions",
    "data/staleness_seconds": "staleness_seconds",
    "data/games": "games",
    "data/steps": "steps",
    "data/replayed_games": "replayed_games",
    "data/queue": "waiting",
    "data/set_aside": "set_aside",
    "system/cpu_percent": "cpu_percent",
    "system/memory_mb": "memory_mb",
    "system/others_cpu_percent": "others_cpu_percent",
}
"""By the tag, the field of a batch that it shows as it is."""


def columns(batches: Records) -> dict[str, Floats]:
    """By the tag, a value for each batch; NaN where nothing is known."""
    found = {tag: batches[field].astype(np.float64) for tag, field in _FIELDS.items()}
    return found | {tag: work_out(batches) for tag, work_out in _WORKED_OUT.items()}


def _total(field: str) -> Callable[[Records], Floats]:
    """The sum over all batches so far; a record that stands for several counts for several."""
    return lambda batches: np.cumsum(batches["weight"].astype(np.float64) * batches[field])


def _success_rate(batches: Records) -> Floats:
    won = batches["won"].astype(np.float64)
    decided = won + batches["lost"]
    rate = np.full(len(batches), np.nan)
    np.divide(won, decided, out=rate, where=decided > 0)
    return rate


_WORKED_OUT: dict[str, Callable[[Records], Floats]] = {
    "rollout/success_rate": _success_rate,
    "train/entropy_loss": lambda batches: -batches["entropy"].astype(np.float64),
    "time/total_timesteps": _total("steps"),
    "time/total_episodes": _total("games"),
}
