"""The process of one instance of a run: plays the games whose numbers its parent sends, and reports each outcome.

Messages from the parent: `run` (spec, root) once, then `play` (number) for each game. Messages to it: `ready` (facts) or
`refused` (the SettingsError's arguments), then `steps` at intervals during a game, and `over` or `lost` with its outcome.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from background_training.errors import SettingsError
from background_training.ipc import json_lines
from background_training.ipc.json_lines import Message, Send
from background_training.paths import Paths
from background_training.runs.game_runner import SingleGameRunner
from background_training.runs.gymnasium_game import GameResult
from background_training.runs.run_state import RunSpec

STEPS_SECONDS = 0.25
"""Time between two reports of a game's steps, which are also its heartbeat."""

ORPHAN_SECONDS = 60.0
"""A game that hangs ends its process after this time, even if the parent, which would kill it sooner, has been killed."""


def main() -> None:
    """Run as `python -m background_training.runs.game_process GAME`, until stdin ends."""
    channel = json_lines.parent_channel()
    orders: SimpleQueue[Message] = SimpleQueue()
    channel.listen(orders.put, json_lines.exit_at_once)
    try:
        runner = SingleGameRunner(sys.argv[1], on_step=_StepReport(channel.send).add)
    except SettingsError as error:
        channel.send("refused", arguments=list(error.args))
        return
    facts = runner.facts
    channel.send("ready", id=facts.id, state_width=facts.state_width, actions=facts.actions.as_json())
    run = orders.get()
    for outcome in runner.play(RunSpec(**run["spec"]), Paths(Path(run["root"])), _numbers(orders), lambda: True):
        faulthandler.cancel_dump_traceback_later()
        channel.send("over" if isinstance(outcome, GameResult) else "lost", outcome=dataclasses.asdict(outcome))


def _numbers(orders: SimpleQueue[Message]) -> Iterator[int]:
    while True:
        yield orders.get()["number"]


class _StepReport:
    """Reports the steps of a game, so that the parent can see that it does not hang, and how far it came if it dies."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._due = 0.0
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115  # faulthandler needs it as long as the process runs

    def add(self, steps: int) -> None:
        moment = time.monotonic()
        if moment >= self._due or steps == 0:
            self._due = moment + STEPS_SECONDS
            # Not a Python thread: a game that hangs in a library may never release the interpreter.
            faulthandler.dump_traceback_later(ORPHAN_SECONDS, exit=True, file=self._nowhere)
            self._send("steps", steps=steps)


if __name__ == "__main__":
    main()
