"""How good a model is, and whether one is better than another, with confidence intervals. python tools/evaluate.py --help"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from background_training import command_lines
from background_training.commands import common
from background_training.ipc import process_limits

if TYPE_CHECKING:
    from background_training.algo.intervals import Estimate
    from background_training.paths import Paths
    from background_training.runs.evaluation import Contender

GREEDY, SAMPLED = "greedy", "sampled"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    # Before NumPy is loaded; otherwise an evaluation beside a game and a learner uses all cores.
    process_limits.limit_blas_threads()
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("evaluate"),
        description="Play games with a model and estimate its mean return, or which of two models is better. Nothing is trained "
        "on them; the result is appended to logs/evaluations.jsonl.",
    )
    common.add_common(parser)
    common.add_game_options(parser, "the root's; LunarLander-v3 if it has none")
    which = "a file, or the number of a version of the root's model"
    parser.add_argument("--model", metavar="MODEL", help=f"{which}; by default the root's newest")
    parser.add_argument("--against", metavar="MODEL", help=f"compare with this one, on the same seeds: {which}")
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help="games to play with each (20)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--sampled", action="store_true", help="draw actions as while learning, instead of the likeliest ones")
    how.add_argument("--both", action="store_true", help="greedy games, and as many sampled ones")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same games (0)")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="play one greedy game with each new version, 5 %% of the time at most, until stdin ends; for logs/greedy_games.csv",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run(options: argparse.Namespace) -> int:
    common.find_modules_of_current_folder()
    from background_training.ipc.process_limits import lower_priority
    from background_training.runs import evaluation, root_game
    from background_training.runs.gymnasium_game import GymnasiumGame

    common.check_at_least(episodes=(options.episodes, 1), seed=(options.seed, 0))
    settings = common.settings_of(options, games={"game": options.game})
    paths, name = settings.paths, root_game.of_settings(settings, options.game, common.game_words(options))
    if options.follow:
        return _follow(name, paths)
    asked = [options.model or str(paths.model), *([options.against] if options.against else [])]
    contenders = [evaluation.contender(paths, text) for text in asked]
    lower_priority()
    first_seed = evaluation.FIRST_SEED + options.seed
    seeds = range(first_seed, first_seed + options.episodes)
    returns: dict[str, list[list[float]]] = {}
    game = GymnasiumGame(name)
    try:
        for model, source in contenders:
            evaluation.check_fits(model, source, game, name)
        for mode in [GREEDY, SAMPLED] if options.both else [SAMPLED if options.sampled else GREEDY]:
            returns[mode] = [evaluation.returns_of(game, one.model, seeds, greedy=mode == GREEDY) for one in contenders]
    finally:
        game.close()
    facts = {"game": name, "episodes": options.episodes, "seed": options.seed, **_facts(contenders, returns)}
    evaluation.record(paths, facts)
    if options.json:
        common.answer(json.dumps({**facts, "returns": {mode: lists[0] for mode, lists in returns.items()}}))
        return 0
    common.answer("\n".join(_sentences(facts)))
    return 0


def _follow(name: str, paths: Paths) -> int:
    from background_training.ipc import json_lines
    from background_training.ipc.process_limits import lower_priority
    from background_training.runs import greedy_games
    from background_training.runs.gymnasium_game import GymnasiumGame

    lower_priority()
    orders = greedy_games.Orders(json_lines.parent_channel())
    game = GymnasiumGame(name)
    try:
        greedy_games.follow(paths, game, name, orders)
    finally:
        game.close()
    return 0


def _facts(contenders: list[Contender], returns: dict[str, list[list[float]]]) -> dict[str, Any]:
    """The recorded result: each model with its means, and their differences."""
    from background_training.algo import intervals
    from background_training.runs import evaluation

    described = [
        {
            "model": one.source,
            "version": one.model.version,
            **{mode: evaluation.summary(lists[place]) for mode, lists in returns.items()},
        }
        for place, one in enumerate(contenders)
    ]
    if len(described) == 1:
        return described[0]
    differences = {}
    for mode, (first, second) in returns.items():
        difference = intervals.difference_of(first, second)
        half_width = (difference.high - difference.low) / 2 if difference.games > 1 else None
        word = intervals.verdict(difference)
        differences[mode] = {"mean": difference.value, "half_width_95": half_width, "verdict": word}
        differences[mode]["sentence"] = _verdict(_names(contenders), difference, word)
    return {**described[0], "against": described[1], "difference": differences}


def _names(contenders: list[Contender]) -> list[str]:
    """Names of the models; with their files, if two roots have versions of one number."""
    numbers = [f"version {one.model.version}" for one in contenders]
    sources = [f"{number} ({one.source})" for number, one in zip(numbers, contenders, strict=True)]
    return sources if numbers[0] == numbers[1] else numbers


def _verdict(names: list[str], difference: Estimate, word: str) -> str:
    from background_training.algo import intervals

    first, second = names
    pairs = f"on the same {difference.games} seeds"
    if difference.games < intervals.FEWEST_FOR_A_VERDICT:
        return f"{difference.games} games are too few to compare; play at least {intervals.FEWEST_FOR_A_VERDICT} (--episodes)"
    amount = f"{abs(difference.value):.1f} +- {(difference.high - difference.low) / 2:.1f} a game (95 %, {pairs})"
    if word in ("better", "worse"):
        return f"{first} is {word} than {second}, by {amount}"
    if word == "alike":
        return f"{first} and {second} have the same returns {pairs}"
    more = intervals.games_needed(difference)
    advice = f"; if that is the true difference, about {more} games would show it" if more else ""
    side = "above" if difference.value > 0 else "below" if difference.value < 0 else "off"
    return f"no significant difference between {first} and {second}: it is {amount} {side}{advice}"


def _sentences(facts: dict[str, Any]) -> list[str]:
    lines = []
    for one in (facts, facts.get("against", {})):
        for mode in (GREEDY, SAMPLED):
            if mode in one:
                spread = "" if one[mode]["half_width_95"] is None else f" +- {one[mode]['half_width_95']:.1f} (95 %)"
                over = f"over {facts['episodes']} games of {facts['game']}"
                lines.append(f"[OK] Version {one['version']}: {mode} mean return {one[mode]['mean_return']:.1f}{spread} {over}")
    for mode, difference in facts.get("difference", {}).items():
        lines.append(f"[OK] {mode.capitalize()}: {difference['sentence']}")
    return lines
