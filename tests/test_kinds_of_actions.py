"""Games with several choices, switches or real numbers go through the whole loop: played, recorded, learnt, rebuilt."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS

from background_training import RLAgent
from background_training.algo import policy
from background_training.commands import doctor, explain, rebuild, report
from background_training.episodes import episode, episode_file
from background_training.errors import EpisodeError, SettingsError
from background_training.paths import CHECKOUT, Paths
from background_training.settings import LearningSettings
from background_training.spaces import Box, MultiBinary, MultiDiscrete
from background_training.storage import model_store
from tests import learner_runs

gymnasium = pytest.importorskip("gymnasium", reason="the games extra is not installed")

from gymnasium.vector import SyncVectorEnv  # noqa: E402

from background_training.commands import evaluate  # noqa: E402
from background_training.envs import EpisodeRecorder  # noqa: E402
from background_training.envs.batched_policy import BatchedPolicy  # noqa: E402
from background_training.runs.gymnasium_game import GymnasiumGame  # noqa: E402
from tests import kinds_games  # noqa: E402

pytestmark = pytest.mark.slow  # real processes

SPACES = {
    "Locks-v0": MultiDiscrete((3, 2, 2)),
    "Switches-v0": MultiBinary(4),
    "Levers-v0": Box((0.0, -5.0), (1.0, 5.0)),
}
CHANCE = {"Locks-v0": 16 * 4 / 9, "Switches-v0": 8.0, "Levers-v0": 8.0}
QUICK = {"hidden_size": 16, "n_epochs": 4, "gamma": 0.5, "learning_rate": 0.005}
"""Each action is answered at once: a short sight and long steps learn such games within a second."""


def play(root, game, numbers, training=True):
    """Returns of games of these numbers, recorded while `training`."""
    adapter = GymnasiumGame(game)
    agent = RLAgent(
        root=root,
        action_space=adapter.actions,
        state_width=adapter.state_width,
        seed=numbers[0],
        settings=LearningSettings(**QUICK),
    )
    try:
        return [adapter.play(agent, number, number, training).episode_return for number in numbers]
    finally:
        adapter.close()


@pytest.fixture(scope="module", params=SPACES)
def learnt(request, tmp_path_factory):
    """(root, game) after a game was learnt from its files."""
    root = tmp_path_factory.mktemp("some Wörk ☃") / "root"
    for first in range(0, 80, 4):
        play(root, request.param, range(first, first + 4))
        learner_runs.drain(root, learning=QUICK, batch_size=4)
    return root, request.param


def test_such_a_game_is_learnt(learnt):
    """Greedy games come much nearer to the 16 that are possible than chance does."""
    root, game = learnt

    returns = play(root, game, range(1000, 1010), training=False)

    assert np.mean(returns) > 16.0 - 0.3 * (16.0 - CHANCE[game])


def test_such_a_model_is_rebuilt_bit_for_bit(learnt, capsys):
    """Its history begins with the kind of its actions, and every lesson gives the same bits again."""
    root, game = learnt

    assert rebuild.main(["--root", str(root)]) == 0

    assert "Identical, bit for bit" in capsys.readouterr().out
    assert model_store.read(Paths(root).model).actions == SPACES[game]


def test_the_tools_take_such_a_root(learnt, capsys):
    """Doctor, report, explanation and evaluation look at it as at any other."""
    root, game = learnt
    name = next(Paths(root).archive.glob("*.npz")).name

    assert doctor.main(["--root", str(root)]) in (0, 1)
    assert report.main(["--root", str(root), "--no-png"]) == 0
    assert explain.main(["--root", str(root), name]) == 0
    assert evaluate.main(["--root", str(root), "--game", game, "--episodes", "2"]) == 0

    printed = capsys.readouterr().out
    assert "Traceback" not in printed and "trained in version" in printed and "greedy" in printed
    assert SPACES[game].kind in next(Paths(root).logs.parent.rglob("*.html")).read_text("utf-8")


def test_files_hold_what_was_played_and_how_likely_it_was(learnt):
    """An importance weight of fresh data is 1: the recorded logarithms are those of the recorded actions."""
    root, game = learnt
    play(root, game, [7])
    (waiting,) = Paths(root).buffer.glob("*.npz")
    found = episode_file.read(waiting.read_bytes())
    waiting.unlink()
    model = model_store.read(Paths(root).model)
    network = policy.Network(*(model.arrays[key] for key in model_store.POLICY_KEYS))

    log_probs = SPACES[game].distribution(policy.forward(network, found.states)).log_probs(found.actions)

    assert found.action_space == SPACES[game] and found.actions.shape == (16, len(SPACES[game].none(1)[0]))
    assert found.log_probs == pytest.approx(log_probs, abs=1e-3)


@pytest.mark.parametrize("game", SPACES)
def test_vector_envs_record_such_games(game, tmp_path):
    """The way to the game and back changes no action, however the game shapes or counts it."""
    envs = SyncVectorEnv([partial(gymnasium.make, game) for _ in range(3)])
    space, paths = SPACES[game], Paths(tmp_path)
    recorder = EpisodeRecorder(envs, paths)
    network = policy.new_network(np.random.default_rng(0), envs.single_observation_space.shape[0], 8, space.outputs, 0.5)
    player = BatchedPolicy(network, 3, np.random.default_rng(1), space)
    observations, _ = recorder.reset(seed=0)
    for _ in range(kinds_games.STEPS):
        choice = recorder.choose(player, observations)
        observations, *_ = recorder.step(recorder.to_game(choice.actions))
    recorder.close()

    found = [episode_file.read(path.read_bytes()) for path in paths.buffer.glob("*.npz")]

    assert len(found) == 3
    for one in found:
        log_probs = space.distribution(policy.forward(network, one.states)).log_probs(one.actions)
        assert one.log_probs == pytest.approx(log_probs, abs=1e-3)
        assert (one.action_space, one.policy_version, one.steps) == (space, 3, kinds_games.STEPS)


def test_games_side_by_side_are_played_and_learnt_from(tmp_path):
    """The command needs no word about the kind of actions, in processes of their own neither."""
    command = [sys.executable, "run_with_training.py", "--game", "tests.kinds_games:Locks-v0", "--games", "6", "--quiet"]
    done = subprocess.run(
        [*command, "--instances", "2", "--root", str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(learner_runs.trained(Paths(tmp_path))) == 6
    assert model_store.read(Paths(tmp_path).model).actions == MultiDiscrete((3, 2, 2))


def test_a_game_with_other_actions_is_refused_by_name():
    """The message says what the game has, and what could be learnt."""
    with pytest.raises(SettingsError, match=r"the action space is Text\(.*Discrete, MultiDiscrete, MultiBinary or a Box"):
        GymnasiumGame("Words-v0")


def arrays(meta, actions, **more):
    """The arrays of an episode of three steps."""
    return {"states": np.ones((3, 2)), "actions": np.array(actions), "rewards": np.ones(3), "meta": meta, **more}


BOX = {"action_space": {"kind": "box", "low": [0], "high": [1]}}
PAIRS = {"action_space": {"kind": "multi_discrete", "sizes": [2, 2]}}


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (arrays({}, [[0.5]] * 3), "wrong-dtype"),
        (arrays({}, [[0, 1]] * 3), "wrong-shape"),
        (arrays(BOX, [[0.5, 0.5]] * 3), "wrong-shape"),
        (arrays(BOX, [0.5] * 2), "wrong-shape"),
        (arrays(BOX, [[1.5]] * 3), "action-out-of-range"),
        (arrays(BOX, [[np.inf]] * 3), "not-finite"),
        (arrays(BOX, [[True]] * 3), "wrong-dtype"),
        (arrays(BOX, [[0.5]] * 3, action_mask=np.ones((3, 1), bool)), "unexpected-mask"),
        (arrays(PAIRS, [[0, 1]] * 3, log_probs=[0.5] * 3), "bad-log-prob"),
        (arrays(PAIRS, [[0, 1]] * 3, action_mask=np.ones((3, 3), bool)), "wrong-shape"),
        (arrays(PAIRS, [[0, 1]] * 3, action_mask=np.tile([True, True, True, False], (3, 1))), "illegal-action"),
        (arrays({"action_space": {"kind": "box", "low": [1], "high": [0]}}, [[0.5]] * 3), "bad-meta"),
        (arrays({"action_space": {"kind": "multi_binary", "size": 10**9}}, [[0]] * 3), "bad-meta"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(made, reason):
    """What was declared is what must be there."""
    with pytest.raises(EpisodeError) as refused:
        episode.from_arrays(made)
    assert refused.value.reason == reason


def test_files_without_a_declaration_are_discrete_as_ever():
    """Whatever a writer has called action_space before the word meant anything."""
    for meta in ({}, {"action_space": "Discrete(2)"}, {"action_space": {"n": 2}}, {"action_space": None}):
        assert episode.from_arrays(arrays(meta, [0, 1, 0])).action_space is None
    densities = episode.from_arrays(arrays(BOX, [[0.5]] * 3, log_probs=[1.5] * 3)).log_probs
    assert densities is not None and densities.tolist() == [1.5] * 3


@pytest.mark.parametrize(
    ("meta", "actions", "reason"),
    [
        ({}, [0, 1, 0], "wrong-action-kind"),
        (PAIRS, [[0, 1]] * 3, "wrong-action-kind"),
        ({"action_space": {"kind": "box", "low": [0, 0], "high": [1, 1]}}, [[0.5, 0.5]] * 3, "wrong-shape"),
        ({"action_space": {"kind": "box", "low": [0], "high": [9]}}, [[0.5], [8.0], [0.5]], "action-out-of-range"),
    ],
)
def test_a_file_of_another_kind_than_the_model_is_set_aside(meta, actions, reason, tmp_path):
    """With its reason beside it, and how to go on."""
    paths = Paths(tmp_path)
    paths.buffer.mkdir(parents=True)
    episode_file.write(paths.buffer / "a.npz", arrays(BOX, [[0.25], [0.5], [1.0]]))
    learner_runs.drain(tmp_path)
    episode_file.write(paths.buffer / "b.npz", arrays(meta, actions))

    assert learner_runs.drain(tmp_path)["files_misfit"] == 1

    said = learner_runs.reason(paths, "rejected", "b.npz")
    assert f"[{reason}]" in said and "chooses actions of 1 real numbers, 0 to 1" in said


def test_masks_of_several_choices_are_played_and_recorded(tmp_path):
    """What is masked out for one number is never chosen for it."""
    agent = RLAgent(root=tmp_path, action_space=MultiDiscrete((3, 2)), action_names=["door", "lamp"], seed=1)
    mask = np.array([False, True, True, True, False])
    for _ in range(40):
        action, name, probability = agent.get_action([0.5, 1.0], action_mask=mask)
        assert action[0] > 0 and action[1] == 0 and probability == pytest.approx(0.5, abs=0.02)
        assert name == f"door {action[0]}, lamp 0"
    with pytest.raises(EpisodeError, match="allows no action"):
        agent.get_action([0.5, 1.0], action_mask=np.array([True, True, True, False, False]))
    agent.end_episode(1.0)

    (path,) = Paths(tmp_path).buffer.glob("*.npz")
    found = episode_file.read(path.read_bytes())
    assert found.action_mask is not None and (found.action_mask == mask).all()
    assert found.meta["action_names"] == ["door", "lamp"] and found.action_space == MultiDiscrete((3, 2))
    learner_runs.drain(tmp_path)
    assert model_store.read(Paths(tmp_path).model).action_names == ("door", "lamp")


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.kind)
def test_an_agent_trains_and_saves_such_a_model(space, tmp_path):
    """Learning from dicts at hand, and a model that the next agent picks up with its kind."""
    agent, rng = RLAgent(root=tmp_path, action_space=space, state_width=3, seed=1), np.random.default_rng(0)
    actions, _ = space.distribution(np.zeros((20, space.outputs))).sampled(space.noise(rng, 20))
    experience = {"states": rng.normal(size=(20, 3)), "actions": actions, "rewards": rng.normal(size=20)}

    done = agent.train_from_batch([{**experience, "meta": json.dumps(space.meta)}])

    assert done["steps"] == 20 and np.isfinite(done["loss"]) and agent.save_model()
    other = RLAgent(root=tmp_path)
    state = np.array([0.1, -0.2, 0.3])
    assert np.array_equal(other.get_action(state, training=False)[0], agent.get_action(state, training=False)[0])


def test_a_model_that_lies_about_its_actions_is_refused(learnt, tmp_path):
    """Outputs and manifest must say the same; a bot would read means as deviations otherwise."""
    root, _ = learnt
    model = model_store.read(Paths(root).model)
    for said, found in (({"kind": "multi_binary", "size": 1}, "the policy has"), ({"kind": "?"}, "action_space in the manifest")):
        data = model_store.pack(model.arrays, model.version, {**model.manifest, "action_space": said})
        with pytest.raises(model_store.ModelError, match=found):
            model_store.unpack(data, "model.npz")
