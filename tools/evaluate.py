"""How good a model is: greedy games, their mean and its confidence interval. python tools/evaluate.py --help"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from local_training import blas_threads
from local_training.errors import ModelError, SettingsError
from tools import command_line

FIRST_SEED = 1_000_000
"""Far from the seeds that run_with_training.py plays with, so that no game of an evaluation was trained on."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    # Before NumPy is loaded: an evaluation beside a game and a learner has one core at most.
    blas_threads.limit_blas_threads()
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Play greedy games with a model and say how good it is.")
    command_line.add_common(parser)
    parser.add_argument("--game", metavar="ID", help="Gymnasium id of the game (CartPole-v1)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="the model; by default the root's")
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help="games to play (20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same games (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run(options: argparse.Namespace) -> int:
    from local_training import model_store
    from local_training.games.gymnasium_game import GymnasiumGame
    from local_training.rl_agent import RLAgent
    from tools.learner.quiet_process import lower_priority

    if options.episodes < 1:
        raise SettingsError("--episodes", options.episodes, "a whole number, at least 1, is needed", "command line")
    settings = command_line.settings_of(options, games={"game": options.game})
    model = (options.model or settings.paths.model).absolute()
    sizes = model_store.read(model, model_store.POLICY_KEYS)
    lower_priority()
    game = GymnasiumGame(settings.games.game)
    try:
        if (sizes.state_width, sizes.action_count) != (game.state_width, game.action_count):
            found = f"it takes states of {sizes.state_width} numbers and knows {sizes.action_count} actions"
            raise ModelError(str(model), found, f"this game has {game.state_width} and {game.action_count}")
        agent = RLAgent(model_path=model, root=settings.root, action_names=game.action_names, state_width=game.state_width)
        seeds = range(FIRST_SEED + options.seed, FIRST_SEED + options.seed + options.episodes)
        returns = [game.play(agent, number, seed, training=False).episode_return for number, seed in enumerate(seeds)]
    finally:
        game.close()
    mean, half_width = confidence(returns)
    facts = {"game": settings.games.game, "model": str(model), "version": agent.model_version, "episodes": len(returns)}
    if options.json:
        print(json.dumps({**facts, "mean_return": mean, "half_width_95": half_width, "returns": returns}))
        return 0
    spread = f" +- {half_width:.1f} (95 %)" if half_width is not None else ""
    over = f"over {len(returns)} games of {settings.games.game}"
    print(f"[OK] Version {agent.model_version}: greedy mean return {mean:.1f}{spread} {over}")
    return 0


def confidence(returns: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval (normal approximation); None for a single game.

    1.96 s / sqrt(n), with s the sample's standard deviation.
    """
    mean = statistics.fmean(returns)
    return mean, 1.96 * statistics.stdev(returns) / math.sqrt(len(returns)) if len(returns) > 1 else None
