"""The thread that trains the value network beside the policy: the same bits with and without it, and nothing left of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from commands import run_tool
from conftest import living_threads, wait_until

from background_training.algo import ppo_update, train_step
from background_training.algo.losses import ActorObjective, CriticObjective
from background_training.episodes import episode
from background_training.episodes.episode import Episode
from background_training.paths import Paths
from background_training.settings import LearningSettings
from background_training.spaces import Discrete

WIDTH, ACTIONS = 5, 3
WIDE = LearningSettings(hidden_size=ppo_update.THREAD_HIDDEN, n_epochs=2)


def game(steps: int, seed: int, *, recorded: bool = True, masked: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "states": rng.normal(size=(steps, WIDTH)).astype(np.float32),
        "actions": rng.integers(0, ACTIONS, steps),
        "rewards": rng.normal(size=steps).astype(np.float32),
    }
    if recorded:
        arrays["log_probs"] = np.full(steps, -np.log(ACTIONS), np.float32)
    if masked:
        arrays["action_mask"] = np.ones((steps, ACTIONS), bool)
    return episode.from_arrays(arrays)


def trained(settings: LearningSettings = WIDE, batches: int = 1) -> tuple[dict[str, bytes], list[train_step.BatchReport]]:
    """The bytes of all arrays after some batches of games of every kind, and what was reported of the batches."""
    state, history, reports = train_step.new_state(WIDTH, Discrete(ACTIONS), settings), list[Episode](), []
    for version in range(1, batches + 1):
        games = [game(150 * version, version), game(700, 10 + version, masked=True), game(90, 20 + version, recorded=False)]
        state, report = train_step.learn(state, games, settings, version, history)
        history += games
        reports.append(report)
    return {name: array.tobytes() for name, array in train_step.to_arrays(state).items()}, reports


@pytest.mark.parametrize(
    "settings",
    [
        LearningSettings(hidden_size=64, n_epochs=3),
        LearningSettings(hidden_size=256, n_epochs=2),
        LearningSettings(hidden_size=128, n_epochs=5, target_kl=1e-9),
        LearningSettings(hidden_size=128, n_epochs=2, minibatch_size=5000),
    ],
    ids=["64 units", "256 units", "stops after one epoch", "one large minibatch"],
)
def test_the_thread_changes_no_bit(settings: LearningSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments, normalisers and all figures of the report are the same with the thread and without it."""
    monkeypatch.setattr(ppo_update, "THREAD_HIDDEN", 1)
    beside = trained(settings, batches=2)
    monkeypatch.setattr(ppo_update, "THREAD_HIDDEN", 10_000)

    assert beside == trained(settings, batches=2)


@pytest.mark.parametrize(("hidden", "threads"), [(ppo_update.THREAD_HIDDEN - 1, 1), (ppo_update.THREAD_HIDDEN, 2)])
def test_the_thread_is_used_by_wide_networks_alone(hidden: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below, it would be slower than one thread; it ends with the lesson, so none is left."""
    seen = set()
    for kind in (ActorObjective, CriticObjective):

        def arranged(self: Any, order: Any, arrange: Any = kind.arrange) -> None:
            seen.add((type(self), threading.current_thread()))
            arrange(self, order)

        monkeypatch.setattr(kind, "arrange", arranged)

    trained(LearningSettings(hidden_size=hidden))

    main = threading.main_thread()
    assert {thread for kind, thread in seen if kind is ActorObjective} == {main}
    assert len({thread is main for _, thread in seen}) == threads
    assert living_threads() == {main}


class _BrokenError(Exception):
    """What a part of the arithmetic dies of."""


def test_what_the_thread_raises_is_raised_by_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on with half a value network."""

    def broken(self: Any, outputs: Any, start: int) -> Any:
        raise _BrokenError

    monkeypatch.setattr(CriticObjective, "gradient", broken)

    with pytest.raises(_BrokenError):
        trained()
    assert living_threads() == {threading.main_thread()}


def test_when_the_policy_fails_the_value_network_does_not_finish_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl+C in the middle of a long epoch is not answered at its end only."""
    begun, parts, gradient = threading.Event(), list[int](), CriticObjective.gradient

    def interrupted(self: Any, outputs: Any, start: int) -> Any:
        assert begun.wait(60.0)
        raise KeyboardInterrupt

    def slow(self: Any, outputs: Any, start: int) -> Any:
        parts.append(start)
        begun.set()
        wait_until(lambda: abandoned or len(parts) > 1)
        return gradient(self, outputs, start)

    abandoned: list[bool] = []
    abandon = ppo_update.NetworkTraining.abandon

    def noted(self: Any) -> None:
        abandon(self)
        abandoned.append(True)

    monkeypatch.setattr(ActorObjective, "gradient", interrupted)
    monkeypatch.setattr(CriticObjective, "gradient", slow)
    monkeypatch.setattr(ppo_update.NetworkTraining, "abandon", noted)

    with pytest.raises(KeyboardInterrupt):
        train_step.learn(train_step.new_state(WIDTH, Discrete(ACTIONS), WIDE), [game(5000, 1)], WIDE, 1)
    assert len(parts) <= 2, "of a minibatch of two parts"
    assert living_threads() == {threading.main_thread()}


def test_numbers_that_overflow_in_the_thread_are_found_by_the_check_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the policy are: the lesson is refused, and NumPy does not warn."""
    gradient, huge = CriticObjective.gradient, np.array([3e38], np.float32)
    monkeypatch.setattr(CriticObjective, "gradient", lambda self, outputs, start: gradient(self, outputs, start) * huge * huge)

    _, report = train_step.learn(train_step.new_state(WIDTH, Discrete(ACTIONS), WIDE), [game(600, 1)], WIDE, 1)

    assert report.refused


def test_both_threads_stand_still_together() -> None:
    """While one is held at a yield point, the other one comes to its own and no further; the time counts once."""
    at_rest, go_on, threads = threading.Event(), threading.Event(), living_threads()
    reached: list[int] = []

    def rest() -> float:
        reached.append(threading.get_ident())
        if len(reached) == 5:
            at_rest.set()
            assert go_on.wait(60.0)
            return 1.0
        return 0.0

    before = ppo_update.rested_seconds()
    ppo_update.set_rest(rest)
    update = threading.Thread(target=trained)
    try:
        update.start()
        assert at_rest.wait(60.0)
        threading.Event().wait(0.2)  # for many parts of a gradient, were there nothing to hold the other one
        held = len(reached)
        go_on.set()
        update.join()
    finally:
        go_on.set()
        ppo_update.set_rest(None)

    assert held == 5
    assert len(set(reached)) > 1 and len(reached) > 20
    assert ppo_update.rested_seconds() - before == 1.0
    assert living_threads() == threads


KILL_TWICE = """
import pathlib, signal
from background_training.storage import model_store
pids, model = pathlib.Path(os.environ["KILLED"]), pathlib.Path(os.environ["MODEL"])
deaths = len(pids.read_text().splitlines()) if pids.exists() else 0
if deaths < 2 and model.exists() and model_store.read(model).version >= 1 + 2 * deaths:
    ripe = globals().get("ripe", 0) + 1
    if ripe == 8:
        with pids.open("a") as file:
            print(os.getpid(), file=file)
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""
"""In the middle of the second batch, and of the fourth: a batch that was trained on in vain twice would be taken apart."""


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_both_networks_changes_no_bit(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on where it was, and the model is that of a drain that nothing disturbed; a rebuild makes it again."""
    twin = Paths(tmp_path / "twin")
    twin.buffer.mkdir(parents=True)
    for number in range(15):
        for one in (paths, twin):
            log_probs = np.full(300, -np.log(episodes.ACTIONS), np.float32)
            episodes.write(one.buffer, f"game_{number:02d}.npz", number, steps=300, log_probs=log_probs)
    wide = {"n_epochs": 2, "hidden_size": ppo_update.THREAD_HIDDEN}
    learner_runs.drain(twin.root, learning=wide)

    monkeypatch.setenv("KILLED", str(tmp_path / "killed.txt"))
    monkeypatch.setenv("MODEL", str(paths.model))
    learner_runs.worker_does_in_the_middle(KILL_TWICE, monkeypatch, at=1)
    with learner_runs.learner(paths.root, learning=wide) as learner:
        wait_until(lambda: not any(paths.buffer.iterdir()))
        restarts = learner.get_stats()["worker_restarts"]

    assert restarts == 2
    assert paths.model.read_bytes() == twin.model.read_bytes()
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", paths.root)
