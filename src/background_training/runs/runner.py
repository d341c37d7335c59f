"""Plays a run: games beside a learner, which they wait for when they are too far ahead, and a summary at the end."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Callable

from background_training import command_lines, printable
from background_training.errors import BackgroundTrainingError, GameFailedError, WorkerError
from background_training.ipc.load_hints import LoadHints
from background_training.learner import console, training_log
from background_training.learner.background_learner import BackgroundParallelLearner
from background_training.learner.training_log import TrainingLog
from background_training.records import back_pressure, disk_forecast, pause_file
from background_training.records.back_pressure import BackPressure
from background_training.runs import greedy_games, learning_curve, progress
from background_training.runs.game_runner import GameRunner
from background_training.runs.greedy_games import GreedyProcess
from background_training.runs.gymnasium_game import LostGame
from background_training.runs.progress import RunView
from background_training.runs.run_log import RunLog
from background_training.settings import Settings

REPORT_EVERY_GAMES, REPORT_SECONDS = 5, 30.0
"""The statistics are reported every five games, at most every 30 s."""
WAIT_SECONDS = 3.0
"""After waiting for the learner for this long the run prints the reason; again when three times as long has passed, and so on."""
_YEAR_DAYS = 365.0


class TrainingRun:
    """One run, new or resumed: plays its games, prints their progress, and the summary."""

    def __init__(
        self,
        settings: Settings,
        learner: BackgroundParallelLearner | None,
        log: RunLog,
        games: GameRunner,
        greedy: GreedyProcess | None,
        *,
        quiet: bool,
        report: Callable[[str], None],
    ) -> None:
        """Prepare the run.

        Args:
            learner: started; None if there is none, and then no game waits.
            greedy: the process that plays greedy games beside the run, if there is one.
            quiet: print the summary, warnings and errors only.
            report: takes the statistics.
        """
        self._settings = settings
        self._learner = learner
        self._log = log
        self._games = games
        self._greedy = greedy
        self._quiet = quiet
        self._report_to = report
        self._report_due = 0.0
        self._losses = TrainingLog(settings.paths.lost_games_log, settings.learner.log_bytes)
        self._wait_began, self._report_wait_after = time.monotonic(), WAIT_SECONDS
        self._load_hints = LoadHints(settings.paths)
        self._load_hints.register()
        most = back_pressure.most_waiting(settings.games.max_episodes_ahead, settings.games.instances)
        self._back_pressure = BackPressure(settings.paths, most if self._learner is not None else 0)

    def run(self) -> None:
        """Play all games of the run, or until Ctrl+C, and print the summary.

        Raises:
            GameFailedError, WorkerError: the game kept failing; after the summary.
        """
        failure: BackgroundTrainingError | None = None
        spec = self._log.spec
        view = RunView(
            game=spec.game,
            games=spec.games,
            root=self._settings.root,
            returns=self._log.returns,
            version=self._version,
            learner=self._learner_sentence,
            lag=self._starvation,
        )
        with progress.display(view, quiet=self._quiet) as show:
            try:
                try:
                    self._play(show)
                    self._log.check_any_was_played()
                except (GameFailedError, WorkerError) as error:
                    failure = error  # raised after the summary
                self._games.close()
                if self._learner is not None:
                    self._learner.drain(self._load_hints.free)
                if self._greedy is not None:
                    self._greedy.finish()
            except KeyboardInterrupt:
                pass  # the usual way to end a run
            finally:
                self._log.save()
                self._load_hints.close()
        self._summarise()
        if failure is not None:
            raise failure
        # Last; otherwise a run that is killed during the summary could not be resumed, and would be played again.
        self._log.close()

    def _play(self, show: Callable[[], None]) -> None:
        log = self._log
        for result in self._games.play(log.spec, self._settings.paths, log.numbers(), self._may_start):
            if isinstance(result, LostGame):
                printable.say(f"[WARNING] {result.sentence}")
                self._losses.add(training_log.line(time.time(), f"{result.sentence}\n{result.trace}"))
                log.add_loss(result)
                continue
            log.add(result)
            show()
            self._report(len(log.returns))

    def _may_start(self) -> bool:
        """Whether the next game may start: not while a learner that runs has too many episodes to train on.

        Prints the reason after WAIT_SECONDS, and then after ever longer times.
        """
        moment = time.monotonic()
        if not self._waits():
            self._wait_began, self._report_wait_after = moment, WAIT_SECONDS
            return True
        self._load_hints.free()
        is_silent = self._quiet or progress.has_panel()  # the panel shows it
        if moment - self._wait_began >= self._report_wait_after and not is_silent:
            self._report_wait_after *= 3
            printable.say(f"[GAME] The next game waits for the learner; {self._starvation() or 'its batch takes long'}")
        return False

    def _waits(self) -> bool:
        learner = self._learner
        trains = learner is not None and learner.running and self._settings.learner.enable_model_training
        if not trains or not self._back_pressure.is_needed():
            return False
        return pause_file.read(self._settings.paths) is None  # a pause is meant for the learner, not for the games

    def _starvation(self) -> str:
        if self._learner is None:
            return ""
        waiting = back_pressure.waiting_episodes(self._settings.paths)
        return back_pressure.starvation(self._learner.get_stats(), self._learner.running, waiting, time.time())

    def _version(self) -> int:
        return int(self._learner.get_stats()["model_version"]) if self._learner is not None else 0

    def _learner_sentence(self) -> str:
        """What the learner does, and why it waits."""
        if self._learner is None:
            return "none: the games are only played" if not self._log.spec.training else "it did not start; episodes wait"
        if (pause := pause_file.read(self._settings.paths)) is not None:
            return f"paused: {pause.words}; {command_lines.command('monitor', self._settings.root)} --resume ends it"
        if reason := self._starvation():
            return reason
        waiting, stats = back_pressure.waiting_episodes(self._settings.paths), self._learner.get_stats()
        if not self._learner.running:
            return "it has stopped" + (f" ({stats['last_error']})" if stats["last_error"] else "")
        if not stats["active_workers"]:
            return "its process is starting"
        if not waiting:
            return "waits for the next game to end"
        return f"trains, {back_pressure.counted(waiting)} to go" + ("; the next game waits for it" if self._waits() else "")

    def _report(self, games: int) -> None:
        moment = time.monotonic()
        if self._learner is not None and games % REPORT_EVERY_GAMES == 0 and moment >= self._report_due:
            self._report_due = moment + REPORT_SECONDS
            self._report_to(console.statistics(self._learner.get_stats()))

    def _summarise(self) -> None:
        paths, returns, state = self._settings.paths, self._log.returns, self._log.state
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
        waiting = back_pressure.waiting_episodes(paths) if state.spec.training else 0
        rows += [("Episodes still waiting", console.still_waiting(waiting, paths.root))] if waiting else []
        if state.spec.games is not None and not state.is_over:
            rows += [("Not played yet", f"{state.spec.games - len(state.played)} games: --resume plays them")]
        disk = disk_forecast.look(paths, self._settings.retention) if self._learner is not None else None
        rows += [("Disk", f"{disk.sentence}. {disk.remedy}")] if disk is not None and disk.days < _YEAR_DAYS else []
        rows += [("Model", str(paths.model)), ("Games as CSV", str(paths.games_log))]
        rows += [("" if number else "Next", sentence) for number, sentence in enumerate(self._next_steps(waiting))]
        picture = learning_curve.draw(paths, state.spec.game) if returns else None
        rows += [("Learning curve", str(picture))] if picture else []
        lines = [line for key, value in rows for line in _summary_lines(key, value)]
        printable.say("\n".join([console.RULE, "SUMMARY", console.RULE, *lines]))

    def _next_steps(self, waiting: int) -> list[str]:
        """Commands that make sense after this run."""
        root, state = self._settings.root, self._log.state
        if state.spec.games is not None and not state.is_over:
            return [f"{command_lines.command('run', root)} --resume"]
        steps = [] if waiting or not self._log.returns else [f"{command_lines.command('evaluate', root)} (how good it is)"]
        steps += [f"{command_lines.command('watch', root)} (see it play)"] if self._version() else []
        return [*steps, f"{command_lines.command('run', root)} (continue)"]


def _summary_lines(key: str, value: str) -> list[str]:
    """A row of the summary; on a terminal it is broken between words."""
    row = f"  {key + ':' if key else '':<27}{value}"
    if sys.stdout is None or not sys.stdout.isatty():
        return [row]
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        row, width, subsequent_indent=" " * 29, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
