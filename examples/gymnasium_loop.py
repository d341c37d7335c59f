"""An existing Gymnasium loop, converted: python examples/gymnasium_loop.py [GAMES] (pip install "gymnasium[classic-control]")

Five lines differ from the loop without learning; they are marked.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))  # not needed once the project is installed

import gymnasium

from background_training import BackgroundParallelLearner, RLAgent


def main() -> None:
    games = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    env = gymnasium.make("CartPole-v1")
    returns = []
    with BackgroundParallelLearner(root="cartpole_loop", verbose=False):  # <- the learner, for as long as the games last
        agent = RLAgent(root="cartpole_loop", action_names=["left", "right"])  # <- the agent
        for game in range(1, games + 1):
            observation, _ = env.reset(seed=game)
            episode_return, terminated, truncated = 0.0, False, False
            while not (terminated or truncated):
                action, _, _ = agent.get_action(observation)  # <- in place of the former choice
                observation, reward, terminated, truncated, _ = env.step(action)
                agent.update_reward(reward)  # <- the reward
                episode_return += float(reward)
            agent.end_episode(terminated=terminated, final_state=observation)  # <- the end: the episode is in the buffer
            returns.append(episode_return)
            if game % 10 == 0:
                print(f"game {game}: mean return {sum(returns[-10:]) / 10:.1f}, model version {agent.model_version}", flush=True)
    env.close()


if __name__ == "__main__":
    main()
