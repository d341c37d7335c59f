"""The self-check passes on a healthy project, and fails when a part of it is broken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS

from background_training import BackgroundParallelLearner, RLAgent
from background_training.commands import selfcheck as self_check
from background_training.commands.selfcheck import Check, CheckFailedError
from background_training.paths import CHECKOUT

pytestmark = pytest.mark.slow  # real processes

SCRIPT = CHECKOUT / "tools" / "test_background_training.py"


class AgentThatSavesNothing(RLAgent):
    def save_experience_data(self, path: str | os.PathLike[str]) -> bool:
        return True


class AgentThatShiftsRewards(RLAgent):
    """Credits each reward to the action before the right one."""

    def save_experience_data(self, path: str | os.PathLike[str]) -> bool:
        self._recording.rewards = [*self._recording.rewards[1:], 0.0]
        return super().save_experience_data(path)


class AgentThatReplacesRewards(RLAgent):
    """Lets a second reward for the same action overwrite the first."""

    def update_reward(self, reward: float) -> None:
        self._recording.rewards[-1] = 0.0
        super().update_reward(reward)


class AgentWithWrongSign(RLAgent):
    """Goes up the gradient where it should go down."""

    def train_from_batch(self, experiences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return super().train_from_batch([{**game, "rewards": -game["rewards"]} for game in experiences])


class AgentThatOnlyReports(RLAgent):
    """Returns fine figures, and learns nothing."""

    def train_from_batch(self, experiences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"loss": 0.1, "games": len(experiences), "steps": sum(len(game["rewards"]) for game in experiences)}


class AgentWithNaNLoss(RLAgent):
    def train_from_batch(self, experiences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**super().train_from_batch(experiences), "loss": float("nan")}


class AgentThatSavesNoModel(RLAgent):
    def save_model(self, path: str | os.PathLike[str] | None = None) -> bool:
        return True


class AgentThatSavesTheFirstModel(RLAgent):
    """Saves a model that is not the trained one."""

    def save_model(self, path: str | os.PathLike[str] | None = None) -> bool:
        untrained = RLAgent(root=self._paths.root, settings=self.settings, action_names=self.action_labels)
        untrained.get_action(np.zeros(self_check.STATE_WIDTH))
        return untrained.save_model(path)


class LearnerThatDoesNotTrain(BackgroundParallelLearner):
    def __init__(self, **more: Any) -> None:
        super().__init__(enable_model_training=False, **more)


class LearnerThatCountsOnly(BackgroundParallelLearner):
    """Says that all is done, and does nothing."""

    def start(self) -> bool:
        return True

    def get_stats(self) -> dict[str, Any]:
        return {**super().get_stats(), "files_processed": 5, "model_version": 1, "total_samples": 200}


class LearnerThatLetsOthersIn(BackgroundParallelLearner):
    def start(self) -> bool:
        started = super().start()
        if self._lock is not None:
            self._lock.release()
        return started


class LearnerThatStartsTwice(BackgroundParallelLearner):
    def start(self) -> bool:
        super().start()
        return True


class SlowToStop(BackgroundParallelLearner):
    def stop(self) -> None:
        super().stop()
        time.sleep(self_check.STOPPED_WITHIN_SECONDS + 0.1)


class LearnerThatLeavesAProcess(BackgroundParallelLearner):
    left: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.running:
            type(self).left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        super().stop()


def test_self_check_passes_and_touches_nothing_of_the_user(root: Path) -> None:
    """Run as its user runs it: four PASSED within seconds, exit code 0, and the user's root stays as it was."""
    environment = {**os.environ, "LOCAL_TRAINING_ROOT": str(root), "LOCAL_TRAINING_LEARNER_BATCH_SIZE": "1"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begun < 3 * PROMPT_SECONDS
    assert done.stdout.count("  PASSED  ") == 4 and "FAILED" not in done.stdout
    assert "PASSED: 4/4 tests passed" in done.stdout
    assert os.listdir(root) == []


@pytest.mark.parametrize(
    ("agent", "complaint"),
    [
        (AgentThatSavesNothing, "there is no file"),
        (AgentThatShiftsRewards, "rewards in the file"),
        (AgentThatReplacesRewards, "rewards in the file"),
    ],
)
def test_broken_saving_is_found(root: Path, agent: type[RLAgent], complaint: str) -> None:
    """An agent that loses a game, or what it earned, fails the first check."""
    with pytest.raises(CheckFailedError, match=complaint):
        self_check.check_experience(root, agent)


@pytest.mark.parametrize(
    ("agent", "complaint"),
    [
        (AgentWithWrongSign, "a rewarded action was taken"),
        (AgentThatOnlyReports, "a rewarded action was taken"),
        (AgentWithNaNLoss, "the loss is nan"),
        (AgentThatSavesNoModel, "there is no file"),
        (AgentThatSavesTheFirstModel, "the saved model answers"),
    ],
)
def test_broken_learning_is_found(root: Path, agent: type[RLAgent], complaint: str) -> None:
    """An agent that learns the wrong way, or not at all, or saves something else, fails the second check."""
    with pytest.raises(CheckFailedError, match=complaint):
        self_check.check_batch_training(root, agent)


@pytest.mark.parametrize(
    ("learner", "complaint"),
    [(LearnerThatDoesNotTrain, "5 files were not processed"), (LearnerThatCountsOnly, "0 of 5 files are in the archive")],
)
def test_broken_processing_is_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, learner: type[BackgroundParallelLearner], complaint: str
) -> None:
    """A learner that leaves the files where they are fails the third check, whatever it counts."""
    monkeypatch.setattr(self_check, "TRAINED_WITHIN_SECONDS", 1.0)
    with pytest.raises(CheckFailedError, match=complaint):
        self_check.check_background(root, learner)


@pytest.mark.parametrize(
    ("learner", "complaint"),
    [
        (LearnerThatLetsOthersIn, "a second learner was let into"),
        (LearnerThatStartsTwice, "the second start"),
        (SlowToStop, "stop took [0-9]"),
    ],
)
def test_broken_lifecycle_is_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, learner: type[BackgroundParallelLearner], complaint: str
) -> None:
    """A learner that does not keep to its rules of starting and stopping fails the fourth check."""
    monkeypatch.setattr(self_check, "STOPPED_WITHIN_SECONDS", 0.5)
    with pytest.raises(CheckFailedError, match=complaint):
        self_check.check_lifecycle(root, learner)


def test_left_process_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that leaves a process running fails the fourth check."""
    monkeypatch.setattr(self_check, "STOPPED_WITHIN_SECONDS", PATIENCE_SECONDS)
    try:
        with pytest.raises(CheckFailedError, match="are left after stop"):
            self_check.check_lifecycle(root, LearnerThatLeavesAProcess)
    finally:
        LearnerThatLeavesAProcess.left.communicate()


def test_report_counts_failures_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that fails, or that breaks in an unforeseen way, is reported, and the ones after it still run."""

    def broken(root: Path) -> str:
        raise ZeroDivisionError("somewhere deep inside")

    def failing(root: Path) -> str:
        raise CheckFailedError("the sky is green")

    def fine(root: Path) -> str:
        return "the sky is blue"

    failed = self_check.run_checks((Check("One", broken), Check("Two", failing), Check("Three", fine)))

    said = capsys.readouterr().out
    assert failed == 2
    assert "FAILED  ZeroDivisionError: somewhere deep inside" in said
    assert "FAILED  the sky is green" in said and "PASSED  the sky is blue" in said
    assert "FAILED: 1/3 tests passed" in said


def test_exit_code_tells_of_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that runs the self-check learns from the exit code how it went."""

    def failing(root: Path) -> str:
        raise CheckFailedError("the sky is green")

    monkeypatch.setattr(self_check.run_checks, "__defaults__", ((Check("Sky", failing),),))
    assert self_check.main([]) == 1
    assert "the sky is green" in capsys.readouterr().out
