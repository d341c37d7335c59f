"""Stable-Baselines3's PPO and A2C with the settings that rl-baselines3-zoo has tuned for each game, judged as ours is.

Source of the settings: hyperparams/ppo.yml and a2c.yml of rl-baselines3-zoo; LunarLander's are those of LunarLander-v2. PyTorch
gets one thread: with networks this small more of them cost more and bring nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.learning_cases import TARGETS, Account, Judge


def _falling(first: float) -> Callable[[float], float]:
    """From `first` at the beginning to 0 at the end, as the zoo's "lin_" does."""
    return lambda left: left * first


TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("PPO", "CartPole-v1"): {
        "envs": 8, "steps": 100_000, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "ent_coef": 0.0, "learning_rate": _falling(0.001), "clip_range": _falling(0.2),
    },
    ("PPO", "Acrobot-v1"): {
        "envs": 16, "steps": 1_000_000, "normalize": True, "n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4,
        "ent_coef": 0.0,
    },
    ("PPO", "LunarLander-v3"): {
        "envs": 16, "steps": 1_000_000, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4,
        "ent_coef": 0.01,
    },
    ("A2C", "CartPole-v1"): {"envs": 8, "steps": 500_000, "ent_coef": 0.0},
    ("A2C", "Acrobot-v1"): {"envs": 16, "steps": 500_000, "normalize": True, "ent_coef": 0.0},
    ("A2C", "LunarLander-v3"): {
        "envs": 8, "steps": 200_000, "gamma": 0.995, "n_steps": 5, "learning_rate": _falling(0.00083), "ent_coef": 0.00001,
    },
}  # fmt: skip


def peer(algorithm: str, game: str, seed: int) -> Account:
    """Train until the target is reached or the steps are spent; they are the tuned number, or the target's bound."""
    torch.set_num_threads(1)
    tuned = dict(TUNED[algorithm, game])
    envs = make_vec_env(game, n_envs=tuned.pop("envs"), seed=seed)
    steps, normalize = tuned.pop("steps"), tuned.pop("normalize", False)
    if normalize:
        envs = VecNormalize(envs, gamma=tuned.get("gamma", 0.99))
    maker: type[BaseAlgorithm] = {"PPO": PPO, "A2C": A2C}[algorithm]
    watching = _Watching(game)
    model = maker("MlpPolicy", envs, seed=seed, device="cpu", **tuned)
    try:
        model.learn(steps, callback=watching)
    finally:
        envs.close()
    return watching.account


class _Watching(BaseCallback):
    """Judges the policy whenever a rollout begins and enough steps have passed; the clocks stand still meanwhile."""

    def __init__(self, game: str) -> None:
        super().__init__()
        self.account = Account()
        self._judge = Judge(game)
        self._most = TARGETS[game].most_of_peers
        self._due = 0
        # All that the process has cost, imports too: ours is counted from the start of its command.
        self._begun = (0.0, psutil.Process().create_time())
        self._judging = (0.0, 0.0)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self._due or self.account.reached:
            return
        self._due = self.num_timesteps + self._judge.target.every
        before = (time.process_time(), time.time())
        cpu, wall = (now - begun - judging for now, begun, judging in zip(before, self._begun, self._judging, strict=True))
        self._judge.judge(self.account, (self.num_timesteps, cpu, wall), self._greedy)
        after = (time.process_time(), time.time())
        self._judging = tuple(sum(part) for part in zip(self._judging, after, (-begun for begun in before), strict=True))

    def _on_step(self) -> bool:
        return not self.account.reached and self.num_timesteps < self._most

    def _greedy(self, state: np.ndarray) -> int:
        envs = self.model.get_env()
        seen = envs.normalize_obs(state) if isinstance(envs, VecNormalize) else state
        return int(self.model.predict(seen, deterministic=True)[0])
