"""Check on this very machine that the background training works: python tools/test_background_training.py

Four checks in a temporary folder, in less than 20 s; nothing of the user's own data is touched. Each is a function of
the class that it checks, so that a test can hand it a broken one and see it fail.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml  # noqa: F401  # each check needs it: better one line at the start than checks that fail

from background_training import command_lines
from background_training.agent import GUIDE_ACTIONS, RLAgent
from background_training.commands import common
from background_training.episodes import buffer
from background_training.errors import AnotherLearnerError, BackgroundTrainingError
from background_training.learner.background_learner import BackgroundParallelLearner
from background_training.records.status import EMPTY_STATS
from background_training.settings import LearningSettings, Settings

RULE = "=" * 70
STATE_WIDTH = 15
REWARDED = GUIDE_ACTIONS.index("DEFENSIVE")
DRAWS_PER_STATE = 25
TRAINED_WITHIN_SECONDS = 60.0
STOPPED_WITHIN_SECONDS = 2.0
_STOPS = 3
"""A machine that is busy with other things may be late once; a learner that is slow is late each time."""

MakeAgent = Callable[..., RLAgent]
MakeLearner = Callable[..., BackgroundParallelLearner]


class CheckFailedError(BackgroundTrainingError):
    """A check has failed; the message names what was expected."""


def require(condition: object, sentence: str) -> None:
    """Fail the check unless the condition holds.

    Raises:
        CheckFailedError: it does not.
    """
    if not condition:
        raise CheckFailedError(sentence)


def check_experience(root: Path, make_agent: MakeAgent = RLAgent) -> str:
    """A game that was played is saved, and read back as it was played."""
    agent = _agent(make_agent, root)
    states = np.random.default_rng(1).normal(size=(20, STATE_WIDTH)).astype(np.float32)
    actions = []
    for step, state in enumerate(states):
        action, name, probability = agent.get_action(state)
        require(name == GUIDE_ACTIONS[action], f"action {action} is called {name}, not {GUIDE_ACTIONS[action]}")
        require(0.0 < probability <= 1.0, f"the probability of an action that was drawn is {probability}")
        agent.update_reward(step)
        agent.update_reward(0.5)
        actions.append(action)
    path = root / "saved game.npz"
    require(agent.save_experience_data(path) is True, "save_experience_data did not return True")
    require(path.is_file(), "save_experience_data returned True, and there is no file")
    with np.load(path, allow_pickle=False) as file:
        require(np.array_equal(file["states"], states), "the states in the file are not those that were played")
        require(file["actions"].tolist() == actions, "the actions in the file are not those that were played")
        rewards = file["rewards"].tolist()
    require(rewards == [step + 0.5 for step in range(20)], f"rewards in the file are not those of their actions: {rewards}")
    return f"{len(actions)} steps saved and read back, {path.stat().st_size} bytes"


def check_batch_training(root: Path, make_agent: MakeAgent = RLAgent) -> str:
    """Training makes the rewarded action likelier, and the saved model plays as the one in memory."""
    # Each action is answered at once, so a short sight and long steps learn it within a second.
    agent = _agent(make_agent, root, learning_rate=0.01, gamma=0.5)
    states = np.random.default_rng(2).normal(size=(40, STATE_WIDTH)).astype(np.float32)
    before = _share_of_rewarded(agent, states)
    for seed in range(20):
        report = agent.train_from_batch([_game(seed, number) for number in range(3)])
        require(math.isfinite(report["loss"]), f"the loss is {report['loss']}")
        require(report["games"] == 3, f"3 games were given, {report['games']} were trained on")
        require(report["steps"] == 120, f"120 steps were given, {report['steps']} were trained on")
    after = _share_of_rewarded(agent, states)
    require(after > 2 * before, f"a rewarded action was taken in {before:.0%} of the steps before, {after:.0%} after training")
    path = root / "trained model.npz"
    require(agent.save_model(path) is True, "save_model did not return True")
    require(path.is_file(), "save_model returned True, and there is no file")
    reloaded = make_agent(model_path=path, root=root, settings=LearningSettings(), seed=0)
    for state in states:
        trained, loaded = agent.get_action(state, training=False), reloaded.get_action(state, training=False)
        require(trained == loaded, f"the saved model answers {loaded}, the one in memory {trained}")
    return f"a rewarded action went from {before:.0%} to {after:.0%} of the steps; the saved model plays the same"


def check_background(root: Path, make_learner: MakeLearner = BackgroundParallelLearner) -> str:
    """Five games in the buffer are trained on, archived, and the model changes."""
    settings = Settings(root=root)
    learner = make_learner(settings=settings, verbose=False)
    paths = settings.paths
    names = {buffer.deposit(paths, _game(seed), "Victory").name for seed in range(5)}
    started = time.monotonic()
    learner.start()
    try:
        _wait_until(lambda: learner.get_stats()["files_processed"] >= 5, TRAINED_WITHIN_SECONDS, "5 files were not processed")
        seconds = time.monotonic() - started
        stats = learner.get_stats()
    finally:
        learner.stop()
    archived = {path.name for path in paths.archive.glob("*.npz")}
    waiting = [path.name for path in paths.buffer.iterdir()]
    require(archived == names, f"{len(archived & names)} of 5 files are in the archive")
    require(not waiting, f"the buffer still holds {waiting}")
    require(stats["errors"] == 0, f"there were errors: {stats['last_error']}")
    require(stats["total_samples"] == 200, f"200 steps were delivered, {stats['total_samples']} were trained on")
    agent = RLAgent(root=root, settings=LearningSettings())
    require(agent.model_version >= 1, "there is no model that an agent can play with")
    require(agent.model_version == stats["model_version"], "the model's version differs from the one in the learner's statistics")
    require("Batch Training Complete" in _text(paths.training_log), "the training log has no batch")
    return f"5 of 5 files trained on and archived within {seconds:.1f} s; model version {agent.model_version}"


def check_lifecycle(root: Path, make_learner: MakeLearner = BackgroundParallelLearner) -> str:
    """A learner starts once, keeps others out, stops in time, leaves no process behind, and starts again."""
    settings = Settings(root=root)
    learner = make_learner(settings=settings, verbose=False)
    before = _children()
    try:
        require(learner.start() is True, "the first start did not return True")
        require(learner.running, "a started learner is not `running`")
        require(learner.start() is False, "the second start of a running learner did not return False")
        _require_alone(settings)
        _wait_until(lambda: learner.get_stats()["active_workers"] >= 1, TRAINED_WITHIN_SECONDS, "no worker came up")
        missing = sorted(set(EMPTY_STATS) - set(learner.get_stats()))
        require(not missing, f"get_stats() lacks {missing}")
    finally:
        seconds = _seconds_to_stop(learner)
    for _ in range(_STOPS - 1):
        if seconds >= STOPPED_WITHIN_SECONDS and not learner.running and learner.start():
            seconds = min(seconds, _seconds_to_stop(learner))
    require(not learner.running, "a stopped learner is still `running`")
    require(seconds < STOPPED_WITHIN_SECONDS, f"stop took {seconds:.1f} s")
    left = _children() - before
    require(not left, f"processes {sorted(left)} are left after stop")
    require(learner.start() is True, "a stopped learner could not be started again")
    learner.stop()
    return f"started, alone, stopped in {seconds:.2f} s with no process left, started again"


def _seconds_to_stop(learner: BackgroundParallelLearner) -> float:
    begun = time.monotonic()
    learner.stop()
    return time.monotonic() - begun


@dataclass(frozen=True)
class Check:
    """One of the four: `work` gets an empty folder and returns what was seen."""

    title: str
    work: Callable[[Path], str]


CHECKS = (
    Check("Experience saving and loading", check_experience),
    Check("Batch training", check_batch_training),
    Check("Background processing of five files", check_background),
    Check("Learner lifecycle", check_lifecycle),
)


def run_checks(checks: tuple[Check, ...] = CHECKS, *, debug: bool = False) -> int:
    """Run the checks, print the report, and return how many have failed."""
    print(f"{RULE}\nBACKGROUND TRAINING SELF-CHECK\n{RULE}", flush=True)
    begun, failed = time.monotonic(), 0
    for number, check in enumerate(checks, 1):
        verdict, sentence = _outcome(check, debug)
        failed += verdict == "FAILED"
        print(f"Test {number}: {check.title}\n  {verdict}  {sentence}", flush=True)
    total = f"{len(checks) - failed}/{len(checks)} tests passed in {time.monotonic() - begun:.1f} s"
    print(f"{RULE}\n{'FAILED' if failed else 'PASSED'}: {total}\n{RULE}", flush=True)
    return failed


def _outcome(check: Check, debug: bool) -> tuple[str, str]:
    """PASSED or FAILED, and what was seen. Whatever goes wrong is a failure of the check, never of the report."""
    with tempfile.TemporaryDirectory(prefix="background training check ") as folder:
        try:
            return "PASSED", check.work(Path(folder))
        except CheckFailedError as error:
            sentence = str(error)
        except Exception as error:  # noqa: BLE001  # a broken part may raise anything; the other checks still run
            sentence = f"{type(error).__name__}: {error}"
            if debug:
                traceback.print_exc()
    return "FAILED", sentence


def _agent(make_agent: MakeAgent, root: Path, **more: float) -> RLAgent:
    return make_agent(root=root, settings=LearningSettings(), action_names=GUIDE_ACTIONS, seed=0, **more)


def _game(seed: int, number: int = 0) -> dict[str, Any]:
    """A game of 40 steps in which one action earns 1 and the others nothing."""
    rng = np.random.default_rng([seed, number])
    actions = rng.integers(0, len(GUIDE_ACTIONS), 40)
    return {
        "states": rng.normal(size=(40, STATE_WIDTH)).astype(np.float32),
        "actions": actions,
        "rewards": (actions == REWARDED).astype(np.float32),
        "meta": json.dumps({"action_count": len(GUIDE_ACTIONS)}),
    }


def _share_of_rewarded(agent: RLAgent, states: Any) -> float:
    """Share of the games' actions that are the rewarded one, counted here and not taken from the agent's own statistics."""
    choices = [agent.get_action(state)[0] for state in states for _ in range(DRAWS_PER_STATE)]
    agent.end_episode(save_experience=False)
    return choices.count(REWARDED) / len(choices)


def _require_alone(settings: Settings) -> None:
    rival = BackgroundParallelLearner(settings=settings, verbose=False)
    try:
        rival.start()
    except AnotherLearnerError:
        return
    rival.stop()
    raise CheckFailedError("a second learner was let into the same folder")


def _wait_until(condition: Callable[[], bool], timeout_seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        require(time.monotonic() < deadline, f"{complaint} within {timeout_seconds:g} s")
        time.sleep(0.01)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 when all checks passed, else 1."""
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("selfcheck"), description="Check on this machine that the background training works."
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return common.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> int:
    common.need_packages("yaml", "watchdog")  # which no check would miss in this process
    return 1 if run_checks(debug=options.debug) else 0
