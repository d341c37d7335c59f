"""Play a game that has a loop of its own with RLAgent: python examples/play_with_rl_agent.py [GAMES] [--root DIR]

Game and agent are independent of each other: three lines connect them. Start a learner, before or after it:
python tools/background_parallel_learner.py
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # not needed once the project is installed

from background_training import RLAgent

WIDTH, HEIGHT, STONES = 7, 8, 5
MOVES = {"LEFT": -1, "STAY": 0, "RIGHT": 1}


def play_one_game(agent: RLAgent) -> float:
    """Catch falling stones with a basket; return the reward of the whole game."""
    basket, total = WIDTH // 2, 0.0
    for _ in range(STONES):
        stone = random.randrange(WIDTH)
        for height in range(HEIGHT, 0, -1):
            state = [basket / WIDTH, stone / WIDTH, (stone - basket) / WIDTH, height / HEIGHT]
            _, move, _ = agent.get_action(state)  # <- the first of three lines that a game needs
            basket = min(max(basket + MOVES[move], 0), WIDTH - 1)
        reward = 1.0 if basket == stone else -1.0
        agent.update_reward(reward)  # <- the second
        total += reward
    agent.end_episode(result="Victory" if total > 0 else "Defeat")  # <- the third: the episode is in the buffer
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Catch stones; the background learner makes the catcher better.")
    parser.add_argument("games", type=int, nargs="?", default=20, help="games to play (20)")
    parser.add_argument("--root", type=Path, help="folder with data/, models/ and logs/")
    options = parser.parse_args()
    agent = RLAgent(root=options.root, action_names=list(MOVES))
    returns = [play_one_game(agent) for _ in range(options.games)]
    print(f"model version {agent.model_version}: mean return {sum(returns) / len(returns):+.2f} of {STONES}")


if __name__ == "__main__":
    main()
