"""What a bot talks to: it plays, records, deposits, picks up newer models, and never lets a file stop a game."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import episodes
import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS
from fakes import Failing

from background_training import RLAgent
from background_training import agent as rl_agent
from background_training.algo import train_step
from background_training.episodes import episode_file
from background_training.errors import EpisodeError, ModelMissingError
from background_training.paths import CHECKOUT, Paths
from background_training.settings import LearningSettings
from background_training.spaces import Discrete
from background_training.storage import atomic_files, model_store
from background_training.storage.file_lock import LearnerLock

NAMES = ["left", "right", "wait"]
SETTINGS = LearningSettings(hidden_size=8)


def new_agent(root: Path, **more: object) -> RLAgent:
    return RLAgent(root=root, action_names=NAMES, state_width=4, seed=1, settings=SETTINGS, **more)  # type: ignore[arg-type]


def play(agent: RLAgent, steps: int = 5, **ending: object) -> dict[str, object]:
    """One game of states that tell their step."""
    for step in range(steps):
        agent.get_action(np.full(4, step, np.float32))
        agent.update_reward(1.0)
        agent.update_reward(0.5)
    return agent.end_episode(**ending)  # type: ignore[arg-type]


def commit(paths: Paths, version: int, actions: int = 3, width: int = 4, seed: int = 0, names: list[str] | None = None) -> None:
    """As the background learner does."""
    state = train_step.new_state(width, Discrete(actions), LearningSettings(hidden_size=8, seed=seed))
    names = names or (NAMES if actions == 3 else [f"a{index}" for index in range(actions)])
    data = model_store.pack(train_step.to_arrays(state), version, {"format": 1, "action_names": names})
    model_store.commit(paths, data, durable=False)


def only_episode(paths: Paths) -> object:
    (path,) = paths.buffer.glob("*.npz")
    return episode_file.read(path.read_bytes())


def test_a_game_becomes_an_episode_in_the_buffer(paths: Paths):
    """Each state with its action and all rewards that followed it; the final reward belongs to the last."""
    agent = new_agent(paths.root)

    stats = play(agent, final_reward=10.0, meta={"map": "Süd"}, episode_id="game 1")

    found = only_episode(paths)
    assert found.states[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.rewards.tolist() == [1.5, 1.5, 1.5, 1.5, 11.5]
    assert found.log_probs is not None and found.policy_version == 0 and found.terminated
    assert found.meta["result"] == "Victory" and found.meta["map"] == "Süd" and found.meta["action_names"] == NAMES
    assert found.episode_id == "game 1" and found.action_space == Discrete(3)
    assert stats["saved"] and (stats["steps"], stats["episode_return"], stats["episode"]) == (5, 17.5, 1)


def test_a_cut_off_game_says_so(paths: Paths):
    """With the state it would have gone on from, and a mask of what was legal."""
    agent = new_agent(paths.root)
    agent.get_action(np.zeros(4), action_mask=[False, True, True])
    agent.get_action(np.zeros(4))
    agent.end_episode(terminated=False, final_state=np.ones(4), result="Timeout")

    found = only_episode(paths)

    assert not found.terminated and found.final_state.tolist() == [1] * 4
    assert found.action_mask.tolist() == [[False, True, True], [True, True, True]]


def test_looking_is_not_playing(paths: Paths):
    """Greedy actions are repeatable and not recorded; a forgotten game leaves no file."""
    agent = new_agent(paths.root)
    choices = {agent.get_action(np.ones(4), training=False) for _ in range(5)}
    assert len(choices) == 1 and agent.get_stats()["buffer_size"] == 0
    assert not agent.end_episode()["saved"]

    play(agent, save_experience=False)

    assert os.listdir(paths.buffer) == [] and agent.episode_count == 1


def test_an_action_has_a_number_a_name_and_a_probability(paths: Paths):
    """The three values that the guides' bots take apart; an illegal action is never chosen."""
    agent = new_agent(paths.root)
    for _ in range(30):
        action, name, probability = agent.get_action([0.1, 0.2, 0.3, 0.4], action_mask=[True, False, True])
        assert action in (0, 2) and name == NAMES[action] and 0.0 < probability <= 1.0


@pytest.mark.parametrize(
    ("state", "mask"), [([1, 2, 3], None), ([1, 2, 3, float("nan")], None), ([1] * 4, [True]), ([1] * 4, [False] * 3)]
)
def test_an_impossible_question_is_an_error_at_once(state: list[float], mask: list[bool] | None, paths: Paths):
    """A wrong width, NaN, a wrong mask, a mask that leaves nothing: said when it happens, not when the file is rejected."""
    agent = new_agent(paths.root)
    agent.get_action([0.0] * 4)

    with pytest.raises(EpisodeError):
        agent.get_action(state, action_mask=mask)

    assert agent.get_stats()["buffer_size"] == 1


def test_a_reward_before_the_first_action_is_left_out_and_said(paths: Paths, caplog: pytest.LogCaptureFixture):
    """It has earned nothing; one that is no number is an error."""
    agent = new_agent(paths.root)
    with caplog.at_level(logging.WARNING):
        agent.update_reward(5.0)
    assert "before the first action" in caplog.text

    with pytest.raises(EpisodeError, match="finite"):
        agent.update_reward(float("nan"))


def test_a_game_that_can_not_be_saved_does_not_spoil_the_next(paths: Paths):
    """An absurd reward is said, and the next game begins anew."""
    agent = new_agent(paths.root)
    with pytest.raises(EpisodeError, match=r"limits\.max_magnitude"):
        play(agent, final_reward=1e30)

    assert play(agent)["saved"]

    assert only_episode(paths).steps == 5


def test_a_newer_model_is_picked_up_between_games(paths: Paths):
    """Not in the middle of one; each episode tells the version that played it from its beginning."""
    agent = new_agent(paths.root)
    assert not agent.refresh()
    agent.get_action(np.zeros(4))
    commit(paths, 7)
    agent.get_action(np.zeros(4))
    assert agent.model_version == 0
    agent.end_episode()

    agent.get_action(np.zeros(4))

    assert agent.model_version == 7 and agent.action_labels == NAMES
    assert not agent.refresh()
    assert only_episode(paths).policy_version == 0


@pytest.mark.parametrize("trouble", ["torn", "other width", "other actions", "folder"])
def test_an_unusable_model_is_said_once_and_changes_nothing(trouble: str, paths: Paths, caplog: pytest.LogCaptureFixture):
    """The game goes on with what it has; a sound model later is picked up."""
    commit(paths, 3)
    agent = new_agent(paths.root)
    before = agent.get_action(np.ones(4), training=False)
    if trouble == "torn":
        paths.model.write_bytes(paths.model.read_bytes()[:500])
    elif trouble == "folder":
        paths.model.unlink()
        paths.model.mkdir()
    else:
        commit(paths, 4, width=5 if trouble == "other width" else 4, actions=6 if trouble == "other actions" else 3)

    with caplog.at_level(logging.WARNING):
        assert not agent.refresh() and not agent.refresh()

    assert len(caplog.records) == 1 and "continuing with version 3" in caplog.text and str(paths.model) in caplog.text
    assert agent.get_action(np.ones(4), training=False) == before
    if trouble == "folder":
        paths.model.rmdir()
    commit(paths, 5)
    assert agent.refresh() and agent.model_version == 5


def test_the_models_names_serve_where_nobody_gives_others(paths: Paths):
    """And those of the guides where there is neither."""
    commit(paths, 1, names=["a0", "a1", "a2"])
    assert RLAgent(root=paths.root).action_labels == ["a0", "a1", "a2"]

    agent = RLAgent(root=paths.root / "elsewhere")
    agent.get_action(np.zeros(15))
    assert agent.action_labels == list(rl_agent.GUIDE_ACTIONS)


def test_the_model_path_says_which_root_is_meant(paths: Paths):
    """As old bots give it: .../models/rl_agent_model.npz."""
    agent = RLAgent(0.001, 0.99, str(paths.model))

    assert agent.buffer_path == paths.buffer and agent.model_path == paths.model


def test_training_here_makes_a_rewarded_action_more_likely(paths: Paths):
    """And the model that is saved then is the one that another process loads."""
    agent = new_agent(paths.root, learning_rate=0.01)
    states = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    actions = np.arange(60) % 3
    games = [
        {"states": states[[step]], "actions": actions[[step]], "rewards": np.array([actions[step] == 1], np.float32)}
        for step in range(60)
    ]

    for _ in range(10):
        report = agent.train_from_batch(games)

    assert (report["games"], report["steps"]) == (60, 60) and np.isfinite(report["loss"])
    chosen = [agent.get_action(state, training=False)[1] for state in states]
    assert chosen.count("right") > 50
    assert agent.save_model()
    code = (
        "import sys, numpy as np; from background_training.agent import RLAgent\n"
        "print(*RLAgent(root=sys.argv[1]).get_action(np.full(4, 0.5), training=False))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(paths.root)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    action, name, probability = agent.get_action(np.full(4, 0.5), training=False)
    assert answer.stdout.split() == [str(action), name, str(probability)]


def test_nothing_to_learn_is_no_error(paths: Paths):
    """As old bots call it, with an empty list or an empty game."""
    agent = new_agent(paths.root)

    assert agent.train_from_batch([])["steps"] == 0
    assert agent.train_from_batch([{"states": [], "actions": [], "rewards": []}])["games"] == 0


def test_the_learners_model_is_not_overwritten(paths: Paths, caplog: pytest.LogCaptureFixture):
    """Without training of its own there is nothing newer to write; while a learner is at work, nothing at all."""
    commit(paths, 9)
    agent = new_agent(paths.root)
    before = paths.model.read_bytes()
    assert agent.save_model() and paths.model.read_bytes() == before
    agent.train_from_batch([episodes.arrays(1)])
    lock = LearnerLock(paths)
    lock.acquire()
    try:
        assert not agent.save_model()
    finally:
        lock.release()
    assert paths.model.read_bytes() == before and "its learner trains" in caplog.text

    assert agent.save_model()

    assert model_store.read(paths.model).version == 10


@pytest.mark.leaves_partials
def test_a_failed_save_is_not_called_a_success(paths: Paths, root: Path, monkeypatch: pytest.MonkeyPatch):
    """False, and said; neither a model nor an experience file that can't be loaded."""
    agent = new_agent(root)
    agent.get_action(np.zeros(4))
    full = OSError(errno.ENOSPC, "no space left on device")
    monkeypatch.setattr(atomic_files, "write_atomically", Failing(atomic_files.write_atomically, full, full))

    assert not agent.save_model(root / "copy.npz")
    assert not agent.save_experience_data(root / "game.npz")

    assert not (root / "copy.npz").exists() and not (root / "game.npz").exists()
    assert agent.save_model(root / "copy.npz") and agent.save_experience_data(root / "game.npz")
    assert model_store.read(root / "copy.npz").action_names == tuple(NAMES)
    assert episode_file.read((root / "game.npz").read_bytes()).steps == 1
    assert not new_agent(root).save_experience_data(root / "none.npz")


def test_a_full_disk_does_not_stop_the_game(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """The episode waits in memory and comes with the next one."""
    agent = new_agent(paths.root)
    full = OSError(errno.ENOSPC, "no space left on device")
    monkeypatch.setattr(atomic_files, "write_atomically", Failing(atomic_files.write_atomically, full))

    assert not play(agent)["saved"] and agent.get_stats()["episodes_waiting"] == 1
    assert play(agent)["saved"]

    assert len(list(paths.buffer.glob("*.npz"))) == 2 and agent.get_stats()["episodes_waiting"] == 0


def test_training_after_the_model_file_is_gone(paths: Paths):
    """The policy came from a file that is no more: an error that says so, and the game goes on."""
    commit(paths, 2)
    agent = new_agent(paths.root)
    paths.model.unlink()

    with pytest.raises(ModelMissingError):
        agent.train_from_batch([episodes.arrays(1)])

    assert agent.get_action(np.zeros(4))[1] in NAMES


@pytest.mark.parametrize("state", [[float("inf"), 1, 2, 3], [1e30, 1, 2, 3], [], [float("nan"), 1, 2, 3]])
def test_a_state_that_no_file_may_hold_is_refused_at_once(paths: Paths, state: list[float]):
    """At the end of the game it would cost all its steps."""
    agent = new_agent(paths.root)

    with pytest.raises(EpisodeError):
        agent.get_action(state)


def test_no_model_of_invented_sizes_is_saved(paths: Paths):
    """A bot that saves at its start has no state to go by; a model made up then would refuse all its episodes."""
    agent = RLAgent(root=paths.root)

    assert not agent.save_model()
    assert not paths.model.exists()
    agent.get_action([1.0, 2.0, 3.0, 4.0])
    assert agent.save_model() and paths.model.exists()


def test_a_saved_model_says_as_much_of_itself_as_the_learners(paths: Paths):
    """Sizes, settings, counts and the last report, so that monitors and the learner go on with it; its counts go on."""
    for number in range(2):
        episodes.write(paths.buffer, f"game_{number}.npz", number)
    learner_runs.drain(paths.root)
    learners = model_store.read(paths.model).manifest
    agent = new_agent(paths.root)
    agent.train_from_batch([episodes.arrays(7)])
    assert agent.save_model()

    saved = model_store.read(paths.model).manifest

    assert saved.keys() == learners.keys() - {"commit"}
    assert [saved[name] for name in ("batches_trained", "samples_trained", "episodes_trained", "steps_trained")] == [2, 36, 3, 36]
    assert saved["last_batch"]["games"] == 1 and saved["state_width"] == 4 and saved["numeric_fingerprint"]
    episodes.write(paths.buffer, "later.npz", 8)
    told = learner_runs.drain(paths.root)
    assert (told["batches_trained"], told["total_samples"]) == (3, 48)
