"""A Stable-Baselines3 VecEnv over our vector envs: `pip install stable-baselines3`, then `python examples/sb3_adapter.py`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from background_training.envs import StableProcessPoolEnv


class ResilientVecEnv(VecEnv):
    """SB3's view of a vector env in SAME_STEP mode.

    SB3 wants a list of infos, `terminal_observation` and `TimeLimit.truncated`. The first row of a failed env reaches it as
    a truncated step without reward, those until the env is back as steps without reward.
    """

    def __init__(self, envs: Any) -> None:
        self._envs = envs
        self._seed: int | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        observations, _ = self._envs.reset(seed=self._seed)
        self._seed = None
        return observations

    def step_async(self, actions: Any) -> None:
        self._envs.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, terminations, truncations, infos = self._envs.step_wait()
        rows: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            row = {
                key: values[index]
                for key, values in infos.items()
                if not key.startswith("_") and infos["_" + key][index] and not isinstance(values, dict)
            }
            if terminations[index] or truncations[index]:
                row["terminal_observation"] = row.pop("final_obs")
                row["TimeLimit.truncated"] = bool(truncations[index] and not terminations[index])
            rows.append(row)
        return observations, rewards.astype(np.float32), terminations | truncations, rows

    def seed(self, seed: int | None = None) -> list[int | None]:
        self._seed = seed
        return [None if seed is None else seed + index for index in range(self.num_envs)]

    def close(self) -> None:
        self._envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        values = self._envs.get_attr(attr_name)
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        if indices is not None:
            raise NotImplementedError("an attribute is set for all envs")
        self._envs.set_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        values = self._envs.call(method_name, *method_args, **method_kwargs)
        return [values[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def main() -> None:
    """Train PPO for a moment."""
    envs = ResilientVecEnv(StableProcessPoolEnv([lambda: gymnasium.make("CartPole-v1")] * 4, autoreset_mode="SameStep"))
    PPO("MlpPolicy", envs, n_steps=128, device="cpu", verbose=1).learn(2048)
    envs.close()


if __name__ == "__main__":
    main()
