"""Play a game with the learner beside it: python run_with_training.py --help

The command starts both sides: games that deposit episodes, and the learner that trains on them and publishes newer models.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from background_training import command_lines, printable
from background_training.commands import common
from background_training.errors import BackgroundTrainingError, SettingsError
from background_training.ipc import process_limits
from background_training.learner import training_log
from background_training.learner.background_learner import BackgroundParallelLearner
from background_training.learner.training_log import TrainingLog
from background_training.settings import Settings

if TYPE_CHECKING:
    from background_training.runs.run_log import GameLog
    from background_training.runs.run_state import RunState, RunStateFile


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    # Before NumPy is loaded, here and in the games' processes; otherwise BLAS threads compete with the game and the learner.
    process_limits.limit_blas_threads()
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("run"), description="Play a game; a learner beside it makes the bot better."
    )
    common.add_common(parser)
    common.add_game_options(parser, "the root's; LunarLander-v3 for a new root")
    parser.add_argument(
        "--games", "--max_games", type=int, metavar="N", dest="games", help="games to play; without: until Ctrl+C"
    )
    parser.add_argument("--instances", type=int, metavar="N", help="games at a time; if more than one, each has a process")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run that was interrupted in this root, if any, with its game and seed"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the games and of the first policy")
    parser.add_argument("--learning_rate", type=float, metavar="X", help="step size of the learner")
    parser.add_argument("--no-training", action="store_true", help="only play, with the model as it is; nothing is recorded")
    parser.add_argument(
        "--overnight", action="store_true", help="do not give way to other programs (governor.profile: overnight)"
    )
    parser.add_argument("--watch", action="store_true", help="show the game in a window (one instance)")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    parser.add_argument(
        "--reports", action="store_true", help="print the learner's reports on a terminal too; logs/reports.log has them anyway"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.games is not None:
        common.check_at_least(games=(options.games, 1))
    common.find_modules_of_current_folder()
    if not options.no_training:
        common.need_packages("psutil", "watchdog")  # which only the learner's process imports
    from background_training.runs import game_runner, greedy_games, progress, root_game, run_log, run_state
    from background_training.runs.runner import TrainingRun

    asked = _asked(options)
    if options.watch and asked.games.instances != 1:
        raise SettingsError("--watch", True, "one instance is needed", "command line")
    render_mode, game = "human" if options.watch else None, asked.games.game
    # The game is made before the folders and the learner; otherwise a game that can't be made would leave them behind.
    with closing(game_runner.open_runner(game, asked.games.instances, render_mode)) as games:
        root_game.check(asked.paths, game, games.facts)
        if not options.no_training:
            root_game.check_limits(asked.limits, game, games.facts)
        common.make_root(asked.root)
        with run_state.RunStateFile(asked.paths) as state_file:
            game_log = run_log.GameLog(asked.paths, is_mine=state_file.is_mine)
            state = _chosen_run(options, asked, state_file, game_log)
            root_game.record(asked.paths, game, games.facts)
            settings = _settings(options, dataclasses.asdict(state.spec))
            report = _report_to(settings, on_console=not options.quiet and (options.reports or not progress.has_panel()))
            learner = _started_learner(settings, options.quiet, report) if state.spec.training else None
            try:
                log = run_log.RunLog(state_file, game_log, state, settings.training.save_freq)
                with_greedy_games = learner is not None and not options.watch
                beside = greedy_games.process_beside(settings.root, settings.games.game) if with_greedy_games else nullcontext()
                with beside as greedy:
                    TrainingRun(settings, learner, log, games, greedy, quiet=options.quiet, report=report).run()
                return 0
            finally:
                if learner is not None:
                    learner.stop(report=False)  # the summary has it


def _asked(options: argparse.Namespace) -> Settings:
    """The settings of this run, with the game of its root, and the instances of the run that is resumed.

    Raises:
        SettingsError: the user names another game than the root's.
    """
    from background_training.runs import root_game, run_state

    settings = _settings(options, {})
    words = common.game_words(options)
    games: dict[str, Any] = {"game": root_game.of_settings(settings, options.game, words)}
    state = run_state.read(settings.paths) if options.resume else None
    if state is not None:
        if root_game.is_same(state.spec.game, games["game"]):
            # Otherwise options that differ from the interrupted run's would be ignored; so they are refused.
            games["game"] = options.game = games["game"] if words else state.spec.game
        if options.instances is None:
            games["instances"] = state.spec.instances
    return settings.with_values("command line", games=games)


def _settings(options: argparse.Namespace, spec: Mapping[str, Any]) -> Settings:
    """The settings under the command line's flags, or under the values of a run's spec."""
    flags = {**vars(options), **spec}
    return common.settings_of(
        options,
        games={key: flags[key] for key in ("game", "instances")},
        learning={key: flags[key] for key in ("learning_rate", "seed")},
        learner={"verbose": False if options.quiet else None},
        governor=common.governor_flags(options),
    )


def _chosen_run(options: argparse.Namespace, asked: Settings, file: RunStateFile, log: GameLog) -> RunState:
    """The run to play: a new one, or with --resume the one that was interrupted here."""
    from background_training.runs import run_state

    flags = vars(options)
    fresh = run_state.RunSpec.of_flags(asked, flags, log.last_number + 1)
    given = {key: flags[key] for key in ("game", "seed", "games", "instances", "learning_rate")}
    given["training"] = False if options.no_training else None
    state, sentence = run_state.choose(file, log.earlier_numbers, fresh, given, options.resume)
    if sentence:
        printable.say(sentence)
    return state


def _report_to(settings: Settings, *, on_console: bool) -> Callable[[str], None]:
    """What takes a report: it goes to logs/reports.log, and to the console if asked for."""
    log = TrainingLog(settings.paths.reports_log, settings.learner.log_bytes)

    def report(text: str) -> None:
        log.add(training_log.line(time.time(), text))
        if on_console:
            printable.say(text)

    return report


def _started_learner(settings: Settings, quiet: bool, report: Callable[[str], None]) -> BackgroundParallelLearner | None:
    say = (lambda sentence: None) if quiet else printable.say
    learner = BackgroundParallelLearner(settings=settings, report=report)
    try:
        learner.start()
    except (BackgroundTrainingError, OSError) as error:
        # The games are played all the same; their episodes wait in the buffer.
        printable.say(f"[WARNING] Failed to start background learner: {error}")
        return None
    say("[OK] Background parallel learner initialized and started")
    say("[INFO] Experience replay training will run in background")
    say(f"[INFO] Monitoring directory: {learner.data_dir}")
    return learner
