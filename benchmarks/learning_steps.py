"""How many steps of a game learning takes: games, stale policies and batches as in the live loop, in one process.

    python benchmarks/learning_steps.py --game LunarLander-v3 --seeds 5 --batch 1 --set replay_ratio=0

Two games are played step by step in turn; each takes up a policy `--delay` versions older than the newest, between its
episodes. An update is made as soon as `--batch` episodes wait. The newest policy is judged by greedy games from time to
time: 10, and 20 more if those reach the target; their mean must reach it. Time is CPU time of everything, play included.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from background_training.ipc.process_limits import limit_blas_threads

limit_blas_threads()

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402

from background_training.algo import policy, train_step  # noqa: E402
from background_training.episodes.episode import Episode  # noqa: E402
from background_training.settings import LearningSettings  # noqa: E402
from background_training.spaces import Discrete  # noqa: E402

TARGETS = {"CartPole-v1": (475, 500, 20_000), "Acrobot-v1": (-100, 1_000, 50_000), "LunarLander-v3": (200, 5_000, 150_000)}
"""Greedy mean return to reach, steps between two judgements, steps at most."""

GAMES_AT_A_TIME = 2


class Player:
    """One game that is played over and over; `step` returns an episode when one has ended."""

    def __init__(self, name, seed):
        self.game = gymnasium.make(name, disable_env_checker=True)
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.begun = 0

    def begin(self, network, version):
        state, _ = self.game.reset(seed=self.seed * 100_003 + self.begun)
        self.begun += 1
        self.network, self.version, self.state, self.steps = network, version, np.asarray(state, np.float32), []

    def step(self, recorded):
        choice = policy.choose(self.network, self.state, None, self.rng)
        state, reward, terminated, truncated, _ = self.game.step(choice.action)
        self.steps.append((self.state, choice.action, reward, choice.log_prob))
        self.state = np.asarray(state, np.float32)
        if not (terminated or truncated):
            return None
        states, actions, rewards, log_probs = zip(*self.steps, strict=True)
        log_probs = np.array(log_probs, np.float32) if recorded else None
        version = self.version if recorded else None
        arrays = np.stack(states), np.array(actions), np.array(rewards, np.float32), log_probs, version
        return Episode(*arrays, terminated=bool(terminated), final_state=self.state)


def as_taken(episode, network, version, options):
    """How the learner is given an episode, None for not at all: as it is, or by one of the ways staleness is not corrected."""
    if options.old_games == "skipped" and version - episode.policy_version >= options.old_lag:
        return None
    if options.old_games != "taken for fresh":
        return episode
    log_pi = policy.log_softmax(policy.forward(network, episode.states))
    played = log_pi[np.arange(episode.steps), episode.actions].astype(np.float32)
    return dataclasses.replace(episode, log_probs=played, policy_version=version)


def greedy_return(game, network, games, first_seed):
    """Mean return of greedy games."""
    total = 0.0
    for seed in range(first_seed, first_seed + games):
        state, over = game.reset(seed=seed)[0], False
        while not over:
            action = policy.choose(network, np.asarray(state, np.float32), None, None, greedy=True).action
            state, reward, terminated, truncated, _ = game.step(action)
            total += reward
            over = terminated or truncated
    return total / games


def steps_to_target(options, seed, settings):
    """(steps played when the target was reached or None, CPU seconds)."""
    target, every, most = TARGETS[options.game]
    settings = dataclasses.replace(settings, seed=seed)
    judge = gymnasium.make(options.game, disable_env_checker=True)
    state = train_step.new_state(judge.observation_space.shape[0], Discrete(int(judge.action_space.n)), settings)
    policies, history, waiting, started = [state.policy], [], [], time.process_time()
    players = [Player(options.game, seed * 1000 + number + 1) for number in range(GAMES_AT_A_TIME)]
    chance = np.random.default_rng(seed + 99)

    def begin(player):
        lag = options.old_lag if options.old_share and chance.random() < options.old_share else options.delay
        version = max(0, len(policies) - 1 - lag)
        player.begin(policies[version], version)

    for player in players:
        begin(player)
    for steps in range(1, most + 1):
        player = players[steps % len(players)]
        episode = player.step(not options.plain)
        if episode is not None:
            taken = as_taken(episode, policies[-1], len(policies) - 1, options)
            waiting += [taken] if taken is not None else []
            if len(waiting) >= options.batch:
                state, _ = train_step.learn(state, waiting, settings, len(policies), history)
                history, waiting = [*history, *waiting][-max(settings.replay_episodes, 1) :], []
                policies.append(state.policy)
            begin(player)
        if steps % every == 0:
            first = greedy_return(judge, policies[-1], 10, 10_000_000)
            if first >= target and (first + 2 * greedy_return(judge, policies[-1], 20, 20_000_000)) / 3 >= target:
                return steps, time.process_time() - started
    return None, time.process_time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="CartPole-v1", choices=sorted(TARGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="episodes per update")
    parser.add_argument("--delay", type=int, default=1, help="versions between the newest policy and the one taken up")
    parser.add_argument("--old-share", type=float, default=0.0, help="share of games that take up a much older policy")
    parser.add_argument("--old-lag", type=int, default=8, help="how many versions older that one is")
    ways = ("corrected", "skipped", "taken for fresh")
    parser.add_argument("--old-games", choices=ways, default=ways[0], help="what the learner does with them")
    parser.add_argument("--plain", action="store_true", help="episodes without log-probabilities")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="a learning setting")
    options = parser.parse_args()
    given = {name: float(number) for name, number in (text.split("=") for text in options.set)}
    defaults = LearningSettings()
    settings = dataclasses.replace(defaults, **{name: type(getattr(defaults, name))(value) for name, value in given.items()})
    results = [steps_to_target(options, seed, settings) for seed in range(options.first_seed, options.first_seed + options.seeds)]
    reached = [steps if steps is not None else float("inf") for steps, _ in results]
    target, each = TARGETS[options.game][0], [steps for steps, _ in results]
    print(f"{options.game}: steps to {target}: median {statistics.median(reached):g}, each {each}")
    print(f"CPU seconds: median {statistics.median(seconds for _, seconds in results):.1f}")


if __name__ == "__main__":
    main()
