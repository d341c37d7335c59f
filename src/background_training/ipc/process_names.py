"""What a forked process is called in a list of processes, which else shows what it was forked from."""

from __future__ import annotations

import contextlib

FORK_SERVER = "fork-server"
GAME_WORKER = "game-worker"
GREEDY_GAMES = "greedy-games"
LEARNER_WORKER = "learner-worker"


def call_this_process(name: str) -> None:
    """Name it, with 15 letters at most."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
