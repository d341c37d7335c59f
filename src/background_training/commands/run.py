"""Play a game with the learner beside it: python run_with_training.py --help

Composes both sides: the games deposit episodes, the background learner trains on them, and the games pick the newer
model up. It is the only file that knows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from background_training import command_lines
from background_training.commands import common
from background_training.episodes import buffer
from background_training.errors import BackgroundTrainingError, GameFailedError, SettingsError, WorkerError
from background_training.ipc import blas_threads, child_process, process_names
from background_training.ipc.load_hints import GameVoice
from background_training.learner import console, training_log
from background_training.learner.back_pressure import Lead
from background_training.learner.background_learner import BackgroundParallelLearner
from background_training.learner.training_log import TrainingLog
from background_training.paths import PACKAGE_PARENT
from background_training.records import pause_file
from background_training.settings import Settings

if TYPE_CHECKING:
    from background_training.envs.fork_server import ForkServer
    from background_training.envs.forked_command import ForkedCommand
    from background_training.ipc.child import PipedProcess
    from background_training.runs.game_runner import Player
    from background_training.runs.greedy_games import Beside, PlayingProcess
    from background_training.runs.learning_curve import GameLog
    from background_training.runs.progress import Show
    from background_training.runs.run_log import RunAccount
    from background_training.runs.run_spec import PlayOrder
    from background_training.runs.run_state import RunKeeper, RunState

_YEAR_DAYS = 365.0
REPORT_EVERY_GAMES = 5
WAIT_SECONDS = 3.0
"""Games that wait for the learner for longer say so."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    # Before NumPy is loaded, here and in the games' processes: two cores serve a game and a learner, not a BLAS pool.
    blas_threads.limit_blas_threads()
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("run"), description="Play a game; a learner beside it makes the bot better."
    )
    common.add_common(parser)
    parser.add_argument("--game", metavar="ID", help="Gymnasium id of the game (the root's; LunarLander-v3 for a new root)")
    parser.add_argument(
        "--games", "--max_games", type=int, metavar="N", dest="games", help="games to play; without: until Ctrl+C"
    )
    parser.add_argument("--instances", type=int, metavar="N", help="games at a time, each in a process of its own")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that was broken off in this root, if one was: its game and seed"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the games and of the first policy")
    parser.add_argument("--learning_rate", type=float, metavar="X", help="step size of the learner")
    parser.add_argument("--no-training", action="store_true", help="only play, with the model as it is; nothing is recorded")
    parser.add_argument("--watch", action="store_true", help="show the game in a window (one instance)")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.games is not None and options.games < 1:
        raise SettingsError("--games", options.games, "a whole number, at least 1, is needed", "command line")
    from background_training.runs import game_runner, learning_curve, root_game, run_log, run_state

    asked = _asked(options)
    if options.watch and asked.games.instances != 1:
        raise SettingsError("--watch", True, "one instance is needed", "command line")
    render_mode, game = "human" if options.watch else None, asked.games.game
    # The fork server before anything is opened or locked: what is forked has it open too. And the game before the first
    # folder and the learner: one that can't be made leaves nothing behind.
    with (
        _forks(options, asked) as forks,
        closing(game_runner.opened(game, asked.games.instances, render_mode, "forkserver" if forks else "spawn")) as player,
    ):
        root_game.check(asked.paths, game, player.facts)
        common.make_root(asked.root)
        with run_state.RunKeeper(asked.paths) as keeper:
            log = learning_curve.GameLog(keeper.paths, is_mine=keeper.is_mine)
            state = _begun(options, asked, keeper, log)
            root_game.record(asked.paths, game, player.facts)
            settings = _settings(options, dataclasses.asdict(state.plan))
            learner = _started_learner(settings, options.quiet, forks) if state.plan.training else None
            try:
                account = run_log.RunAccount(keeper, log, state, settings.training.save_freq)
                with _greedy_games(settings, forks) if learner is not None and not options.watch else nullcontext() as greedy:
                    return _Session(settings, learner, options, account, greedy, player).run()
            finally:
                if learner is not None:
                    learner.stop()


def _asked(options: argparse.Namespace) -> Settings:
    """The settings of this run, with the game of its root, and the instances of the run that is resumed.

    Raises:
        SettingsError: the user names another game than the root's.
    """
    from background_training.runs import root_game, run_state

    settings = _settings(options, {})
    games: dict[str, Any] = {"game": root_game.of_settings(settings, options.game)}
    state = run_state.unfinished(settings.paths) if options.resume else None
    if state is not None:
        if root_game.is_same(state.plan.game, games["game"]):
            games["game"] = options.game = state.plan.game
        if options.instances is None:
            games["instances"] = state.plan.instances
    return settings.with_values("command line", games=games)


def _settings(options: argparse.Namespace, plan: Mapping[str, Any]) -> Settings:
    """The settings under the command line's flags, or under those of a run's plan."""
    flags = {**vars(options), **plan}
    return common.settings_of(
        options,
        games={key: flags[key] for key in ("game", "instances")},
        learning={key: flags[key] for key in ("learning_rate", "seed")},
        learner={"verbose": False if options.quiet else None},
    )


def _begun(options: argparse.Namespace, asked: Settings, keeper: RunKeeper, log: GameLog) -> RunState:
    """The run to play: a new one, or with --resume the one that was broken off here."""
    from background_training.runs import run_start

    state, told = run_start.begun(keeper, log, asked, vars(options))
    if told:
        _say(told)
    return state


def _forks(options: argparse.Namespace, settings: Settings) -> AbstractContextManager[ForkServer | None]:
    """Where that is safe, what forks this run's processes: each of them would load the same things again otherwise."""
    if options.no_training:
        return nullcontext()
    from background_training.envs import fork_of_ours  # for all
    from background_training.learner import worker  # noqa: F401
    from background_training.runs import evaluation, gymnasium_game, parallel_games  # noqa: F401  # for all

    gymnasium_game.load(settings.games.game)
    return fork_of_ours.serving()


def _forked(
    forks: ForkServer | None, main: str, name: str, arguments: list[str], streams: tuple[int | None, int]
) -> ForkedCommand | None:
    """A process of this run, forked; None where nothing forks, and it has to be started in a new interpreter."""
    if forks is None:
        return None
    from background_training.envs.forked_command import Command, ForkedCommand

    theirs = {key: value for key, value in child_process.worker_environment().items() if os.environ.get(key) != value}
    with suppress(OSError):
        return ForkedCommand(forks, Command(main, name, arguments, theirs, str(PACKAGE_PARENT)), *streams)
    return None


def _started_learner(settings: Settings, quiet: bool, forks: ForkServer | None) -> BackgroundParallelLearner | None:
    def start_worker(stderr: IO[bytes]) -> PipedProcess:
        streams = (None, stderr.fileno())
        forked = _forked(forks, f"{child_process.WORKER}:main", process_names.LEARNER_WORKER, [], streams)
        return forked or child_process.start_worker(stderr)

    say = (lambda sentence: None) if quiet else _say
    learner = BackgroundParallelLearner(settings=settings, start_worker=start_worker)
    try:
        learner.start()
    except (BackgroundTrainingError, OSError) as error:
        # A game without a learner is still a game; its episodes wait in the buffer.
        _say(f"[WARNING] Failed to start background learner: {error}")
        return None
    say("[OK] Background parallel learner initialized and started")
    say("[INFO] Experience replay training will run in background")
    say(f"[INFO] Monitoring directory: {learner.data_dir}")
    return learner


def _greedy_games(settings: Settings, forks: ForkServer | None) -> AbstractContextManager[Beside | None]:
    """Games without exploring beside the others, for the summary and the curve."""
    from background_training.runs import greedy_games

    arguments = ["--follow", "--root", str(settings.root), "--game", settings.games.game]

    def start() -> PlayingProcess:
        with open(os.devnull, "wb") as nowhere:
            streams = (nowhere.fileno(), nowhere.fileno())
            if forked := _forked(
                forks, "background_training.commands.evaluate:main", process_names.GREEDY_GAMES, arguments, streams
            ):
                return forked
            command = [sys.executable, "-m", "background_training", "evaluate", *arguments]
            options = child_process.apart_from_terminal() | {"env": child_process.child_environment(dict(os.environ))}
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, **options)

    return greedy_games.beside(start)


class _Session:
    """One run, or what a crash has left of it: the games that are played, and what is said about them."""

    def __init__(
        self,
        settings: Settings,
        learner: BackgroundParallelLearner | None,
        options: argparse.Namespace,
        account: RunAccount,
        greedy: Beside | None,
        player: Player,
    ) -> None:
        self._settings = settings
        self._learner = learner
        self._options = options
        self._account = account
        self._greedy = greedy
        self._player = player
        self._losses = TrainingLog(settings.paths.lost_games_log, settings.learner.log_bytes)
        self._say_wait_at = time.monotonic() + WAIT_SECONDS
        self._voice = GameVoice(settings.paths)
        # Two at least, so that one is played while another is learnt from.
        most = max(2, settings.games.max_episodes_ahead * settings.games.instances) if settings.games.max_episodes_ahead else 0
        self._lead = Lead(learner, most, self._voice.free)

    def run(self) -> int:
        from background_training.runs import progress, run_spec

        plan = self._account.plan
        order = run_spec.PlayOrder(
            game=plan.game,
            root=Path(self._settings.root),
            seed=plan.seed,
            training=plan.training,
            run_id=plan.run_id,
        )
        failure: BackgroundTrainingError | None = None
        with progress.display(plan.games, quiet=self._options.quiet, before=len(self._account.returns)) as show:
            try:
                self._lead.begin()
                try:
                    self._play(order, show)
                    self._account.check_any_was_played()
                except (GameFailedError, WorkerError) as error:
                    failure = error  # told behind the summary
                self._player.close()
                if pause_file.read(self._settings.paths) is None:
                    self._lead.wait_for_the_last()
                if self._greedy is not None:
                    self._greedy.finish()
            except KeyboardInterrupt:
                pass  # the usual way to end a run; the summary follows
            finally:
                self._account.save()
                self._voice.close()
        self._summarise()
        if failure is not None:
            raise failure
        self._account.close()  # last: who is killed over the summary and resumed shall not play a whole run again
        return 0

    def _play(self, order: PlayOrder, show: Show) -> None:
        from background_training.runs import run_spec

        account = self._account
        for result in self._player.play(order, account.numbers(), self._may_go_on):
            if isinstance(result, run_spec.LostGame):
                _say(f"[WARNING] {result.sentence}")
                self._losses.add(training_log.line(time.time(), f"{result.sentence}\n{result.trace}"))
                account.lose(result)
                continue
            account.add(result)
            self._lead.deposited += result.saved
            version = self._learner.get_stats()["model_version"] if self._learner else 0
            show(result, account.returns, version, self._starvation())
            self._report(len(account.returns))

    def _may_go_on(self) -> bool:
        """Whether the next game may begin; says now and then why it may not."""
        moment = time.monotonic()
        if self._lead.may_grow():
            self._say_wait_at = moment + WAIT_SECONDS
            return True
        if moment >= self._say_wait_at and not self._options.quiet:
            self._say_wait_at = moment + WAIT_SECONDS
            _say(f"[GAME] The next game waits for the learner; {self._starvation() or 'its batch takes long'}")
        return False

    def _starvation(self) -> str:
        if self._learner is None:
            return ""
        return console.starvation(self._learner.get_stats(), self._learner.running, self._lead.waiting, time.time())

    def _report(self, games: int) -> None:
        if self._learner is not None and not self._options.quiet and games % REPORT_EVERY_GAMES == 0:
            _say(console.statistics(self._learner.get_stats()))

    def _summarise(self) -> None:
        from background_training.records import disk_forecast
        from background_training.runs import greedy_games, learning_curve

        paths, returns, state = self._settings.paths, self._account.returns, self._account.state
        rows = [("Games", str(len(returns)))]
        if returns:
            first, last = learning_curve.tenths(returns)
            rows += [("Mean return, first tenth", f"{first:.1f}"), ("Mean return, last tenth", f"{last:.1f}")]
        greedy = greedy_games.words(paths) if self._greedy is not None else ""
        rows += [("Greedy, without exploring", greedy)] if greedy else []
        if self._learner is not None:
            stats = self._learner.get_stats()
            rows += [("Versions trained", str(stats["models_trained"])), ("Model version", str(stats["model_version"]))]
            rows += [("Episodes that do not fit", console.misfits(stats))] if stats["files_misfit"] else []
            rows += [("Warning", stats["traps"])] if stats["traps"] else []
            pause = pause_file.read(paths)
            rows += [("Training is paused", f"{pause.words}; episodes wait, --resume of the monitor ends it")] if pause else []
            rows += [("Errors", f"{stats['errors']} {stats['last_error']}".strip())] if stats["errors"] else []
        if state.lost:
            rows += [("Games lost", f"{state.lost}; the last one, {state.last_loss}")]
            rows += [("Tracebacks", str(paths.lost_games_log))] if paths.lost_games_log.exists() else []
        if state.undelivered:
            rows += [("Episodes not delivered", f"{state.undelivered}: the buffer refused them")]
        waiting = 0
        with suppress(OSError):  # there is no buffer, or it can't be listed
            waiting = len(buffer.waiting_names(paths)) if state.plan.training else 0
        rows += [("Episodes still waiting", console.still_waiting(waiting, paths.root))] if waiting else []
        if state.plan.games is not None and not state.is_over:
            rows += [("Not played yet", f"{state.plan.games - len(state.played)} games: --resume goes on with them")]
        disk = disk_forecast.look(paths, self._settings.retention) if self._learner is not None else None
        rows += [("Disk", f"{disk.sentence}. {disk.remedy}")] if disk is not None and disk.days < _YEAR_DAYS else []
        rows += [("Model", str(paths.model)), ("Games as CSV", str(learning_curve.csv_path(paths)))]
        picture = learning_curve.draw(paths, state.plan.game) if returns else None
        rows += [("Learning curve", str(picture))] if picture else []
        _say("\n".join([console.RULE, "SUMMARY", console.RULE, *(f"  {key + ':':<27}{value}" for key, value in rows)]))


def _say(sentence: str) -> None:
    print(sentence, flush=True)
