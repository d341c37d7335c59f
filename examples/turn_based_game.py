"""A turn-based game with illegal moves: python examples/turn_based_game.py [GAMES]

A trader between five towns: goods are cheap in town 0 and dear in town 4, and the days are few.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))  # not needed once the project is installed

from background_training import BackgroundParallelLearner, RLAgent

MOVES = ["LEFT", "RIGHT", "BUY", "SELL"]
DAYS = 40


class Trader:
    def __init__(self) -> None:
        self.town, self.gold, self.cargo, self.day = 2, 10, 0, 0

    def price(self) -> int:
        return 4 + 4 * self.town

    def state(self) -> list[float]:
        return [*(float(self.town == town) for town in range(5)), self.gold / 50, self.cargo / 3, self.day / DAYS]

    def legal(self) -> list[bool]:
        return [self.town > 0, self.town < 4, self.gold >= self.price() and self.cargo < 3, self.cargo > 0]

    def play(self, move: str) -> float:
        """Play a day; the gold won or lost, in tens."""
        before = self.gold
        self.town += {"LEFT": -1, "RIGHT": 1}.get(move, 0)
        trade = {"BUY": 1, "SELL": -1}.get(move, 0)
        self.cargo, self.gold, self.day = self.cargo + trade, self.gold - trade * self.price(), self.day + 1
        return (self.gold - before) / 10


def main() -> None:
    games = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with BackgroundParallelLearner(root="trader", verbose=False):
        agent, gold = RLAgent(root="trader", action_names=MOVES), []
        for number in range(1, games + 1):
            game = Trader()
            while game.day < DAYS:
                _, move, _ = agent.get_action(game.state(), action_mask=game.legal())  # illegal moves are never chosen
                agent.update_reward(game.play(move))
            agent.end_episode(result="Victory" if game.gold > 10 else "Defeat")
            gold.append(game.gold)
            if number % 10 == 0:
                print(f"game {number}: mean gold {sum(gold[-10:]) / 10:.1f}, model version {agent.model_version}", flush=True)


if __name__ == "__main__":
    main()
