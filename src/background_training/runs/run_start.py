"""Which run begins: a new one, or what a crash has left of the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from background_training.errors import RunStateError, SettingsError
from background_training.runs.learning_curve import GameLog
from background_training.runs.run_state import RunKeeper, RunPlan, RunState
from background_training.settings import Settings


def begun(keeper: RunKeeper, log: GameLog, asked: Settings, flags: Mapping[str, Any]) -> tuple[RunState, str]:
    """The run to play, by the command line: a new one, or with --resume the one that was broken off here; as `chosen`.

    Args:
        asked: the settings under these flags.
        flags: game, seed, games, instances, learning_rate, no_training and resume, as they were given.
    """
    fresh = RunPlan(
        game=asked.games.game,
        seed=asked.learning.seed,
        games=flags["games"],
        instances=asked.games.instances,
        training=not flags["no_training"],
        learning_rate=flags["learning_rate"],
        first_number=log.played_before + 1,
    )
    given = {key: flags[key] for key in ("game", "seed", "games", "instances", "learning_rate")}
    given["training"] = False if flags["no_training"] else None
    return chosen(keeper, log, fresh, given, flags["resume"])


def chosen(keeper: RunKeeper, log: GameLog, fresh: RunPlan, given: Mapping[str, Any], resume: bool) -> tuple[RunState, str]:
    """The run that begins now, and a sentence about it if there is something to tell.

    Args:
        fresh: what a new run would be.
        given: flags of today by the plan's keys; None values count as not given.
        resume: whether to go on with a run that was broken off, if there is one.

    Raises:
        SettingsError: flags that fit no such run, or it is still at work.
        RunStateError: what is kept of it can't be read.
    """
    if resume and not keeper.is_mine:
        raise SettingsError("--resume", True, "a run that is not at work is needed, and this root's is", "command line")
    try:
        state = keeper.unfinished()
    except RunStateError as error:
        if resume:
            raise
        return RunState.new(fresh), f"[WARNING] {error}"
    if state is None:
        return RunState.new(fresh), "[INFO] No run was broken off in this root: a new one begins" if resume else ""
    for number, _, _ in log.rows_before:
        if number >= state.plan.first_number:
            state.played.add(number)  # since the state was saved last
    if not resume:
        told = f"[INFO] A run was broken off here after {state.progress}; --resume would have gone on with it. A new one begins"
        return RunState.new(fresh), told
    state.plan = state.plan.continued(given)
    return state, f"[INFO] Going on after {state.progress}; without --resume a new run would begin"
