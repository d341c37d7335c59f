"""Plays several games at a time, each in a process that is replaced when it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from background_training.errors import SettingsError, WorkerError
from background_training.ipc import child
from background_training.ipc.child import Child, Inbox
from background_training.ipc.json_lines import Message
from background_training.ipc.supervision import LOOKS, RestartBudget
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GameFacts, GameResult, LostGame, Outcome
from background_training.runs.run_state import RunSpec
from background_training.spaces import registry

START_SECONDS = 60.0
HANG_SECONDS = 15.0
"""A process may be silent for this long while it makes its game, and while it plays (in one step or reset)."""
RESTARTS = 20
"""An instance whose process fails more often than this within ten minutes is given up."""
_POLL_SECONDS = 0.005
_LAST_MESSAGES_SECONDS = 1.0
_MOST_OUTPUTS = 1_000_000


@dataclass
class _Instance:
    """One game at a time, and the process that plays it.

    process: None while it waits to be started again, and after it was given up.
    is_ready: whether the process has made its game.
    has_spec: whether it was sent the spec of the run.
    number, steps: of the game that is being played; number is None between two games.
    start_at: when the process is started again, on the monotonic clock; None if it runs or was given up.
    exited_at: when it was first seen to have exited; None while it runs.
    """

    process: Child | None = None
    is_ready: bool = False
    has_spec: bool = False
    number: int | None = None
    steps: int = 0
    start_at: float | None = None
    exited_at: float | None = None
    budget: RestartBudget = field(default_factory=lambda: RestartBudget(RESTARTS))

    @property
    def is_free(self) -> bool:
        """Whether it can be sent a game."""
        return self.process is not None and self.is_ready and self.number is None


class ParallelGameRunner:
    """Plays several games at a time: one whole game in each process, which deposits the episode itself.

    A game whose process dies or hangs is lost, and the process is replaced; the others continue meanwhile. A game that raises is
    lost too, and its environment is made again in the same process. An instance whose process fails too often is given up; the
    loss of the last one is an error. A process that is killed between depositing an episode and reporting it counts as a lost
    game, although its episode is trained on; if it is played again after a resume, its second episode is a duplicate.
    """

    def __init__(self, game: str, instances: int) -> None:
        """Start the processes, and wait until the first has made the game.

        Raises:
            SettingsError: the game is unknown or can't be made.
            WorkerError: no process could be started.
        """
        self._game = game
        self._inbox: Inbox = queue.SimpleQueue()
        self._refusal: list[Any] = []
        self._instances = [_Instance() for _ in range(instances)]
        try:
            for instance in self._instances:
                self._start(instance)
            self.facts = self._wait_for_facts()
        except BaseException:
            self.close()
            raise

    def play(self, spec: RunSpec, paths: Paths, numbers: Iterator[int], may_start: Callable[[], bool]) -> Iterator[Outcome]:
        """See GameRunner."""
        run = {"spec": dataclasses.asdict(spec), "root": str(paths.root)}
        upcoming = next(numbers, None)
        while upcoming is not None or any(instance.number is not None for instance in self._instances):
            for instance in self._instances:
                if upcoming is not None and instance.is_free and may_start():
                    self._send_game(instance, run, upcoming)
                    upcoming = next(numbers, None)
            yield from self._outcomes()

    def _send_game(self, instance: _Instance, run: dict[str, Any], number: int) -> None:
        assert instance.process is not None
        if not instance.has_spec:
            instance.process.send("run", **run)
            instance.has_spec = True
        instance.process.send("play", number=number)
        instance.number, instance.steps = number, 0

    def _outcomes(self) -> Iterator[Outcome]:
        """Handle messages, deaths and hangs; wait a few milliseconds if there are none."""
        with contextlib.suppress(queue.Empty):
            process, message = self._inbox.get(timeout=_POLL_SECONDS)
            while True:
                yield from self._handle(process, message)
                process, message = self._inbox.get_nowait()
        for instance in self._instances:
            if instance.start_at is not None and time.monotonic() >= instance.start_at:
                self._start(instance)
            elif instance.process is not None and (reason := self._failure(instance, instance.process)):
                yield from self._replace(instance, reason)

    def _handle(self, process: Child, message: Message | None) -> Iterator[Outcome]:
        instance = next((one for one in self._instances if one.process is process), None)
        if instance is None:
            return  # of a process that has been replaced
        if message is None:
            yield from self._replace(instance, _death(process.close(exit_seconds=child.EXIT_SECONDS)))
        elif message["event"] == "ready":
            instance.is_ready = True
        elif message["event"] == "refused":
            self._refusal = message["arguments"]  # the process exits
        elif message["event"] == "steps":
            instance.steps = message["steps"]
        elif instance.number is not None:
            instance.number = None
            yield (GameResult if message["event"] == "over" else LostGame)(**message["outcome"])

    def _failure(self, instance: _Instance, process: Child) -> str:
        """Why a process has to be replaced whose output has not ended; "" if it need not be."""
        if process.exit_code is not None:
            instance.exited_at = instance.exited_at or time.monotonic()
            # Its last messages may still be on their way; later than that, a descendant keeps its output open.
            return _death(process.exit_code) if time.monotonic() - instance.exited_at > _LAST_MESSAGES_SECONDS else ""
        limit = HANG_SECONDS if instance.is_ready else START_SECONDS
        if (instance.number is not None or not instance.is_ready) and process.watchdog.has_expired(limit):
            return f"hung: it was silent for {limit:g} s"
        return ""

    def _replace(self, instance: _Instance, reason: str) -> Iterator[LostGame]:
        """End the process of an instance, and have it started again while the budget lasts.

        Raises:
            WorkerError: this was the last instance.
        """
        assert instance.process is not None
        instance.process.close()
        back_off = instance.budget.back_off(time.monotonic())
        number, instance.process, instance.number = instance.number, None, None
        instance.start_at = None if back_off is None else time.monotonic() + back_off
        if number is not None:
            yield LostGame(number, instance.steps, reason, kind=reason)
        if all(one.process is None and one.start_at is None for one in self._instances):
            raise WorkerError(f"the processes of all instances of {self._game} failed more than {RESTARTS} times: {reason}")

    def _start(self, instance: _Instance) -> None:
        """Start the process of an instance.

        Raises:
            WorkerError: the machine can't start another process.
        """
        try:
            process = child.start("background_training.runs.game_process", [self._game], stderr=_own_stderr())
        except OSError as error:
            raise WorkerError(f"no process for {self._game} could be started: {error}") from error
        instance.process = Child(process, inbox=self._inbox)
        instance.is_ready = instance.has_spec = False
        instance.start_at = instance.exited_at = None

    def _wait_for_facts(self) -> GameFacts:
        """The facts of the first process that has made the game; the messages behind it are left for `play`."""
        while True:
            with contextlib.suppress(queue.Empty):
                process, message = self._inbox.get(timeout=START_SECONDS / LOOKS)
                if message is not None and message["event"] == "ready":
                    self._inbox.put((process, message))
                    return GameFacts(message["id"], message["state_width"], registry.of_json(message["actions"], _MOST_OUTPUTS))
                for _ in self._handle(process, message):
                    pass  # no game is being played yet
            if self._refusal:
                raise SettingsError(*self._refusal)
            for instance in self._instances:
                if instance.process is not None and (reason := self._failure(instance, instance.process)):
                    raise WorkerError(f"the process of {self._game} failed before it had made the game: {reason}")
                if instance.process is None:
                    raise WorkerError(f"the process of {self._game} died before it had made the game")

    def close(self) -> None:
        """Kill all processes; unfinished games are dropped."""
        running = [instance.process for instance in self._instances if instance.process is not None]
        for process in running:
            process.kill()
        for process in running:
            process.close()
        for instance in self._instances:
            instance.process = instance.start_at = None


def _death(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"died: killed by {signal.Signals(-exit_code).name}"
    return f"died: exit code {exit_code}"


def _own_stderr() -> int:
    """Where a game's process writes what its libraries print: our own stderr, if there is one."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL
