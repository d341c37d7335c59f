"""Play a game with the learner beside it: python run_with_training.py --help

Composes both sides: the games deposit episodes, the background learner trains on them, and the games pick the newer
model up. It is the only file that knows both.
"""

from __future__ import annotations

if __name__ == "__main__":
    from tools import as_script

    as_script.run(__file__)

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from local_training import blas_threads
from local_training.errors import BackgroundTrainingError, SettingsError
from local_training.game_voice import GameVoice
from local_training.settings import Settings
from tools import command_line
from tools.background_parallel_learner import BackgroundParallelLearner
from tools.learner import console

if TYPE_CHECKING:
    from local_training.games.play_order import LostGame

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
    parser.add_argument("--game", metavar="ID", help="Gymnasium id of the game (CartPole-v1)")
    parser.add_argument(
        "--games", "--max_games", type=int, metavar="N", dest="games", help="games to play; without: until Ctrl+C"
    )
    parser.add_argument("--instances", type=int, metavar="N", help="games at a time, each in a process of its own")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the games and of the first policy")
    parser.add_argument("--learning_rate", type=float, metavar="X", help="step size of the learner")
    parser.add_argument("--no-training", action="store_true", help="only play, with the model as it is; nothing is recorded")
    parser.add_argument("--watch", action="store_true", help="show the game in a window (one instance)")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = command_line.settings_of(
        options,
        games={"game": options.game, "instances": options.instances},
        learning={"learning_rate": options.learning_rate, "seed": options.seed},
        learner={"verbose": False if options.quiet else None},
    )
    if options.games is not None and options.games < 1:
        raise SettingsError("--games", options.games, "a whole number, at least 1, is needed", "command line")
    if options.watch and settings.games.instances != 1:
        raise SettingsError("--watch", True, "one instance is needed", "command line")
    learner = None if options.no_training else _started_learner(settings, options.quiet)
    try:
        return _Session(settings, learner, options).run()
    finally:
        if learner is not None:
            learner.stop()


def _started_learner(settings: Settings, quiet: bool) -> BackgroundParallelLearner | None:
    say = _silent if quiet else _say
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


class _Session:
    """One run: the games that are played in it, and what is said about them."""

    def __init__(self, settings: Settings, learner: BackgroundParallelLearner | None, options: argparse.Namespace) -> None:
        from local_training.games import learning_curve

        self._settings = settings
        self._learner = learner
        self._options = options
        self._log = learning_curve.GameLog(settings.paths)
        self._curve = learning_curve
        self._returns: list[float] = []
        self._deposited = 0
        self._undelivered = 0
        self._lost: list[LostGame] = []
        self._first_fates = 0
        self._last_fates = -1
        self._progress_at = time.monotonic()
        self._voice = GameVoice(settings.paths)

    def run(self) -> int:
        from local_training.games import play_order, players, progress

        order = play_order.PlayOrder(
            game=self._settings.games.game,
            root=Path(self._settings.root),
            seed=self._settings.learning.seed,
            training=not self._options.no_training,
            render_mode="human" if self._options.watch else None,
        )
        with progress.display(self._options.games, quiet=self._options.quiet) as show:
            try:
                self._first_fates = self._fates_before()
                for result in players.play(order, self._numbers(), self._settings.games.instances, self._may_go_on):
                    if isinstance(result, play_order.LostGame):
                        self._note_loss(result)
                        continue
                    self._log.add(result)
                    self._returns.append(result.episode_return)
                    self._deposited += result.saved
                    self._undelivered += order.training and not result.saved
                    show(result, self._returns, self._version())
                    self._report(len(self._returns))
                self._wait_for_learner()
            except KeyboardInterrupt:
                pass  # the usual way to end a run; the summary follows
            finally:
                self._voice.close()
        self._summarise()
        return 0

    def _note_loss(self, lost: LostGame) -> None:
        self._lost.append(lost)
        _say(f"[WARNING] Game {lost.number} was lost after {lost.steps} steps: {lost.reason}. Its process is replaced")

    def _numbers(self) -> Iterator[int]:
        start = self._log.played_before + 1
        return iter(range(start, start + self._options.games)) if self._options.games else itertools.count(start)

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

    def _version(self) -> int:
        return int(self._learner.get_stats()["model_version"]) if self._learner else 0

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
        paths, games = self._settings.paths, len(self._returns)
        rows = [("Games", str(games))]
        if games:
            first, last = self._curve.tenths(self._returns)
            rows += [("Mean return, first tenth", f"{first:.1f}"), ("Mean return, last tenth", f"{last:.1f}")]
        if self._learner is not None:
            stats = self._learner.get_stats()
            rows += [("Versions trained", str(stats["models_trained"])), ("Model version", str(stats["model_version"]))]
            rows += [("Episodes that do not fit", console.misfits(stats))] if stats["files_misfit"] else []
            rows += [("Warning", stats["traps"])] if stats["traps"] else []
            rows += [("Errors", f"{stats['errors']} {stats['last_error']}".strip())] if stats["errors"] else []
        if self._lost:
            rows += [("Games lost", f"{len(self._lost)}; the last one, game {self._lost[-1].number}: {self._lost[-1].reason}")]
        if self._undelivered:
            rows += [("Episodes not delivered", f"{self._undelivered}: the buffer refused them")]
        rows += [("Model", str(paths.model)), ("Games as CSV", str(self._curve.csv_path(paths)))]
        picture = self._curve.draw(paths, self._settings.games.game) if games else None
        rows += [("Learning curve", str(picture))] if picture else []
        _say("\n".join([console.RULE, "SUMMARY", console.RULE, *(f"  {key + ':':<27}{value}" for key, value in rows)]))


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _silent(sentence: str) -> None:
    """Say nothing."""
