"""Play a game at random and name what will keep a bot from learning it: background-training check-game --help"""

from __future__ import annotations

import argparse

from background_training import command_lines
from background_training.commands import common
from background_training.errors import SettingsError
from background_training.ipc import process_limits


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    process_limits.limit_blas_threads()
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("check-game"),
        description="Play a game at random before anything is trained on it, and name what will keep a bot from learning it. "
        "Nothing is recorded. The exit code is 1 if there is a problem.",
    )
    parser.add_argument("name", nargs="?", metavar="GAME", help="as --game")
    common.add_game_options(parser, "needed, here or as GAME")
    parser.add_argument("--games", type=int, default=200, metavar="N", help="most games to play (200)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="X", help="most time to play (15)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same games (0)")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return parser


def _run(options: argparse.Namespace) -> int:
    for flag, value, least in (("--games", options.games, 1), ("--seed", options.seed, 0), ("--seconds", options.seconds, 0)):
        if value < least:
            raise SettingsError(flag, value, f"a number, at least {least}, is needed", "command line")
    given = options.name or options.game
    if not given or (options.name and options.game):
        raise SettingsError("--game", given or "", "the name of one game is needed", "command line")
    common.find_modules_of_current_folder()
    from background_training.runs import game_check
    from background_training.runs.game_spec import GameSpec
    from background_training.runs.gymnasium_game import GymnasiumGame

    text = GameSpec.parse(given).with_options(common.game_words(options)).text
    game = GymnasiumGame(text)
    try:
        findings = game_check.check(game, options.games, options.seconds, options.seed)
        head = f"{text}: states of {game.state_width:,} numbers, {game.actions.words}"
    finally:
        game.close()
    lines = [f"[{one.level}] {one.found}" + (f". {one.cure}" if one.cure else "") for one in findings]
    problems = sum(one.level == game_check.PROBLEM for one in findings)
    last = f"{problems} problem{'s' if problems != 1 else ''} found" if problems else "No problem found"
    common.answer("\n".join([head, *lines, last]))
    return 1 if problems else 0
