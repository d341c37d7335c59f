"""Play a game with the learner beside it: python run_with_training.py --help

Composes both sides: the games deposit episodes, the background learner trains on them, and the games pick the newer
model up. It is the only file that knows both.
"""

from __future__ import annotations

if __name__ == "__main__":
    from tools import as_script

    as_script.run(__file__)

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_training import blas_threads, pausing
from local_training.errors import BackgroundTrainingError, SettingsError
from local_training.game_voice import GameVoice
from local_training.paths import CHECKOUT
from local_training.settings import Settings
from tools import command_line
from tools.background_parallel_learner import BackgroundParallelLearner
from tools.learner import child_process, console

if TYPE_CHECKING:
    from local_training.games.greedy_games import Beside
    from local_training.games.learning_curve import GameLog
    from local_training.games.play_order import PlayOrder
    from local_training.games.progress import Show
    from local_training.games.run_account import RunAccount
    from local_training.games.run_state import RunKeeper, RunState

REPORT_EVERY_GAMES = 5
LAST_BATCHES_SECONDS = 10.0
STALLED_SECONDS = 5.0
FIRST_COUNTS_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    # Before NumPy is loaded, here and in the games' processes: two cores serve a game and a learner, not a BLAS pool.
    blas_threads.limit_blas_threads()
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_with_training.py", description="Play a game; a learner beside it makes the bot better."
    )
    command_line.add_common(parser)
    parser.add_argument("--game", metavar="ID", help="Gymnasium id of the game (LunarLander-v3)")
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
    from local_training.games import learning_curve, run_account, run_state

    asked = _settings(options, {})
    with run_state.RunKeeper(asked.paths) as keeper:
        log = learning_curve.GameLog(keeper.paths, is_mine=keeper.is_mine)
        state = _begun(options, asked, keeper, log)
        settings = _settings(options, dataclasses.asdict(state.plan))
        if options.watch and settings.games.instances != 1:
            raise SettingsError("--watch", True, "one instance is needed", "command line")
        learner = _started_learner(settings, options.quiet) if state.plan.training else None
        try:
            account = run_account.RunAccount(keeper, log, state, settings.training.save_freq)
            with _greedy_games(settings) if learner is not None and not options.watch else nullcontext() as greedy:
                return _Session(settings, learner, options, account, greedy).run()
        finally:
            if learner is not None:
                learner.stop()


def _settings(options: argparse.Namespace, plan: Mapping[str, Any]) -> Settings:
    """The settings under the command line's flags, or under those of a run's plan."""
    flags = {**vars(options), **plan}
    return command_line.settings_of(
        options,
        games={key: flags[key] for key in ("game", "instances")},
        learning={key: flags[key] for key in ("learning_rate", "seed")},
        learner={"verbose": False if options.quiet else None},
    )


def _begun(options: argparse.Namespace, asked: Settings, keeper: RunKeeper, log: GameLog) -> RunState:
    """The run to play: a new one, or with --resume the one that was broken off here."""
    from local_training.games import beginning
    from local_training.games.run_state import RunPlan

    fresh = RunPlan(
        game=asked.games.game,
        seed=asked.learning.seed,
        games=options.games,
        instances=asked.games.instances,
        training=not options.no_training,
        learning_rate=options.learning_rate,
        first_number=log.played_before + 1,
    )
    given = {key: getattr(options, key) for key in ("game", "seed", "games", "instances", "learning_rate")}
    given["training"] = False if options.no_training else None
    state, told = beginning.chosen(keeper, log, fresh, given, options.resume)
    if told:
        _say(told)
    return state


def _started_learner(settings: Settings, quiet: bool) -> BackgroundParallelLearner | None:
    say = (lambda sentence: None) if quiet else _say
    learner = BackgroundParallelLearner(settings=settings)
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


def _greedy_games(settings: Settings) -> AbstractContextManager[Beside | None]:
    """Games without exploring beside the others, for the summary and the curve."""
    from local_training.games import greedy_games

    command = [sys.executable, str(CHECKOUT / "tools" / "evaluate.py"), "--follow", "--root", str(settings.root)]
    options = child_process.apart_from_terminal() | {"env": child_process.child_environment(dict(os.environ))}
    return greedy_games.beside([*command, "--game", settings.games.game], **options)


class _Session:
    """One run, or what a crash has left of it: the games that are played, and what is said about them."""

    def __init__(
        self,
        settings: Settings,
        learner: BackgroundParallelLearner | None,
        options: argparse.Namespace,
        account: RunAccount,
        greedy: Beside | None,
    ) -> None:
        self._settings = settings
        self._learner = learner
        self._options = options
        self._account = account
        self._greedy = greedy
        self._deposited = 0
        self._first_fates = 0
        self._last_fates = -1
        self._progress_at = time.monotonic()
        self._voice = GameVoice(settings.paths)

    def run(self) -> int:
        from local_training.games import play_order, progress

        plan = self._account.plan
        order = play_order.PlayOrder(
            game=plan.game,
            root=Path(self._settings.root),
            seed=plan.seed,
            training=plan.training,
            render_mode="human" if self._options.watch else None,
            run_id=plan.run_id,
        )
        with progress.display(plan.games, quiet=self._options.quiet, before=len(self._account.returns)) as show:
            try:
                self._first_fates = self._fates_before()
                self._play(order, show)
                self._wait_for_learner()
                if self._greedy is not None:
                    self._greedy.finish()
            except KeyboardInterrupt:
                pass  # the usual way to end a run; the summary follows
            finally:
                self._account.save()
                self._voice.close()
        self._summarise()
        self._account.close()  # last: who is killed over the summary and resumed shall not play a whole run again
        return 0

    def _play(self, order: PlayOrder, show: Show) -> None:
        from local_training.games import play_order, players

        account = self._account
        for result in players.play(order, account.numbers(), account.plan.instances, self._may_go_on):
            if isinstance(result, play_order.LostGame):
                account.lose(result)
                reason = f"{result.reason}. Its process is replaced"
                _say(f"[WARNING] Game {result.number} was lost after {result.steps} steps: {reason}")
                continue
            account.add(result)
            self._deposited += result.saved
            show(result, account.returns, self._learner.get_stats()["model_version"] if self._learner else 0)
            self._report(len(account.returns))

    def _may_go_on(self) -> bool:
        """Whether the next game may start: these games are faster than any learner, and old data teach little.

        A learner that makes no headway holds nothing up for longer than a few seconds.
        """
        lead = self._settings.games.lead
        if self._learner is None or not self._learner.running or lead == 0:
            return True
        fates = self._fates()
        behind = self._deposited - (fates - self._first_fates)
        if fates != self._last_fates:
            self._last_fates, self._progress_at = fates, time.monotonic()
        if behind < lead * self._settings.games.instances:
            return True
        self._voice.free()
        return time.monotonic() - self._progress_at > STALLED_SECONDS

    def _fates_before(self) -> int:
        """Fates of former runs, once the worker has read them from the root's records.

        Otherwise they would count as this run's as soon as it has: nobody would wait for the last batches then.
        """
        deadline = time.monotonic() + FIRST_COUNTS_SECONDS
        while self._learner is not None and self._learner.running and time.monotonic() < deadline:
            if self._learner.get_stats()["active_workers"]:
                break
            time.sleep(0.01)
        return self._fates()

    def _fates(self) -> int:
        """Episodes of which the learner knows what became."""
        if self._learner is None:
            return 0
        stats = self._learner.get_stats()
        return int(sum(stats[key] for key in ("files_processed", "files_skipped_old", "files_rejected", "files_duplicate")))

    def _report(self, games: int) -> None:
        if self._learner is not None and not self._options.quiet and games % REPORT_EVERY_GAMES == 0:
            _say(console.statistics(self._learner.get_stats()))

    def _wait_for_learner(self) -> None:
        """Let the last games' episodes be trained on, if that does not take long."""
        deadline = time.monotonic() + LAST_BATCHES_SECONDS
        while self._learner is not None and self._learner.running and time.monotonic() < deadline:
            if self._fates() - self._first_fates >= self._deposited:
                return
            self._voice.free()
            time.sleep(0.01)

    def _summarise(self) -> None:
        from local_training.games import greedy_games, learning_curve

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
            pause = pausing.read(paths)
            rows += [("Training is paused", f"{pause.words}; episodes wait, --resume of the monitor ends it")] if pause else []
            rows += [("Errors", f"{stats['errors']} {stats['last_error']}".strip())] if stats["errors"] else []
        if state.lost:
            rows += [("Games lost", f"{state.lost}; the last one, {state.last_loss}")]
        if state.undelivered:
            rows += [("Episodes not delivered", f"{state.undelivered}: the buffer refused them")]
        if state.plan.games is not None and not state.is_over:
            rows += [("Not played yet", f"{state.plan.games - len(state.played)} games: --resume goes on with them")]
        rows += [("Model", str(paths.model)), ("Games as CSV", str(learning_curve.csv_path(paths)))]
        picture = learning_curve.draw(paths, state.plan.game) if returns else None
        rows += [("Learning curve", str(picture))] if picture else []
        _say("\n".join([console.RULE, "SUMMARY", console.RULE, *(f"  {key + ':':<27}{value}" for key, value in rows)]))


def _say(sentence: str) -> None:
    print(sentence, flush=True)
