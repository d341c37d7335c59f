"""A bot's slips are named where they happen and never end its game; with `strict` they raise."""

from __future__ import annotations

import datetime
import enum
import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS

from background_training import RLAgent
from background_training.algo import train_step
from background_training.episodes import episode_file
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.paths import CHECKOUT, Paths
from background_training.plain_values import LONGEST_META, json_values
from background_training.settings import LearningSettings
from background_training.spaces import Box, Discrete, MultiDiscrete
from background_training.storage import model_store

pytestmark = pytest.mark.slow  # real processes

NAMES = ["left", "right", "wait"]
SETTINGS = LearningSettings(hidden_size=8)
NAN, INF = float("nan"), float("inf")
SOUND = [0.1, 0.2, 0.3, 0.4]


def new_agent(root: Path, **more: Any) -> RLAgent:
    return RLAgent(root=root, **{"action_names": NAMES, "seed": 1, "settings": SETTINGS, "strict": False, **more})


def saved(paths: Paths) -> list[Episode]:
    return [episode_file.read(path.read_bytes()) for path in sorted(paths.buffer.glob("*.npz"))]


# --- meta and result


class Result(enum.Enum):
    Victory = 1


class Level(enum.IntEnum):
    HARD = 3


class Flag(enum.Flag):
    A = 1
    B = 2


@dataclass
class Opponent:
    name: str
    race: Any


class Spiteful:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__name__"):  # pytest looks at them
            return object.__getattribute__(self, name)
        raise RuntimeError(name)


BECOMES = {
    "enum member": (Result.Victory, "Victory"),
    "IntEnum member": (Level.HARD, 3),
    "NumPy integer": (np.int64(50), 50),
    "NumPy float": (np.float32(3.5), 3.5),
    "NumPy bool": (np.bool_(True), True),
    "long double": (np.longdouble(2), 2.0),
    "array": (np.arange(3), [0, 1, 2]),
    "array without axes": (np.array(7), 7),
    "array of objects": (np.array([Result.Victory, None], object), ["Victory", None]),
    "path": (pathlib.PurePosixPath("Süd/game.SC2Replay"), "Süd/game.SC2Replay"),
    "set": ({"rush", "air"}, ["air", "rush"]),
    "mixed set": (frozenset([1, "a"]), [1, "a"]),
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "dataclass": (Opponent("Zoë", Result.Victory), {"name": "Zoë", "race": "Victory"}),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
    "datetime64": (np.datetime64("2026-01-02"), "2026-01-02"),
    "time span": (datetime.timedelta(minutes=2), 120.0),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "bytes": (b"a\xff", "a\\xff"),
    "Decimal": (Decimal("1.5"), 1.5),
    "NaN": (NAN, "nan"),
    "infinity of NumPy": (np.float32(-INF), "-inf"),
    "half a letter": ("a\ud800", "a?"),
    "keys that are no text": ({1: 2, Result.Victory: 3, None: 4}, {"1": 2, "Victory": 3, "null": 4}),
}
_circle: list[Any] = []
_circle.append(_circle)
_tree: list[Any] = []
for _ in range(40):
    _tree = [_tree, _tree]
LEFT_OUT = {
    "object": (object(), "of type object"),
    "spiteful object": (Spiteful(), "RuntimeError"),
    "function": (len, "of type builtin"),
    "generator": ((number for number in range(3)), "of type generator"),
    "circle": (_circle, "contains itself"),
    "tree of a million million leaves": (_tree, "more than 20000 values"),
    "large array": (np.zeros((200, 200)), "more than 20000 values"),
    "long text": ("x" * 200_000, "letters"),
    "huge number": (10**5000, "beyond all measure"),
    "set with an object": ({object()}, "of type object"),
}


@pytest.mark.parametrize("kind", BECOMES)
def test_values_of_a_meta_become_plain(kind: str, paths: Paths, caplog: pytest.LogCaptureFixture):
    """The nearest value that JSON has; also below other values, as a key's neighbour, and in strict mode."""
    value, expected = BECOMES[kind]
    agent = new_agent(paths.root, strict=True)
    agent.get_action(SOUND)

    with caplog.at_level(logging.WARNING):
        assert agent.end_episode(1.0, meta={"it": value, "list": [value], "sound": 1})["saved"]

    (episode,) = saved(paths)
    assert episode.meta["it"] == expected and episode.meta["list"] == [expected] and episode.meta["sound"] == 1
    assert not caplog.records


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_json_can_not_hold_is_left_out_by_name(kind: str, paths: Paths, caplog: pytest.LogCaptureFixture):
    """With one warning; the episode is saved. A strict agent raises, and the next game is a new one."""
    value, words = LEFT_OUT[kind]
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    with caplog.at_level(logging.WARNING):
        assert agent.end_episode(1.0, meta={"it": value, "sound": 1})["saved"]

    (episode,) = saved(paths)
    assert "it" not in episode.meta and episode.meta["sound"] == 1 and episode.meta["result"] == "Victory"
    (record,) = caplog.records
    assert "it: " in record.getMessage() and words in record.getMessage()

    strict = new_agent(paths.root, strict=True)
    strict.get_action(SOUND)
    with pytest.raises(EpisodeError, match="it: "):
        strict.end_episode(meta={"it": value})
    assert strict.get_stats()["buffer_size"] == 0


@pytest.mark.parametrize(
    ("result", "word"),
    [
        (Result.Victory, "Victory"),
        (Level.HARD, "HARD"),
        (np.str_("Tie"), "Tie"),
        (3, "3"),
        (pathlib.PurePosixPath("a b"), "a b"),
        (object(), "Defeat"),
        (Spiteful(), "Defeat"),
        ([1, 2], "Defeat"),
        ("", "Defeat"),
        ("x" * 5000, "Defeat"),
    ],
)
def test_a_result_is_a_word(result: object, word: str, paths: Paths):
    """An enum member's name, any single value's text; what has none is what the final reward says."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)

    assert agent.end_episode(-1.0, result=result)["saved"]

    assert saved(paths)[0].meta["result"] == word


@pytest.mark.parametrize("meta", [[1], "text", 3, Spiteful(), object, iter(())])
def test_a_meta_that_is_no_mapping_is_left_out(meta: object, paths: Paths, caplog: pytest.LogCaptureFixture):
    """The episode is worth more than the remark."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    with caplog.at_level(logging.WARNING):
        assert agent.end_episode(meta=meta)["saved"]  # type: ignore[arg-type]
    assert "meta: " in caplog.text


def test_a_meta_does_not_contradict_the_agent(paths: Paths, caplog: pytest.LogCaptureFixture):
    """What the file says of its actions is the agent's to say: a file that no reader takes would be written."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    with caplog.at_level(logging.WARNING):
        agent.end_episode(meta={"action_count": "five", "action_names": ["?"], "action_space": "the writer's own remark"})

    (episode,) = saved(paths)
    assert episode.meta["action_names"] == NAMES and episode.action_space == Discrete(3)
    assert episode.meta["action_space"] == "the writer's own remark"
    assert "action_count: the agent writes it itself" in caplog.text


def test_a_meta_of_many_values_fits_its_reader():
    """The longest ones go first; what is left can be read again."""
    kept, left_out = json_values({f"key {number}": "ü" * number for number in range(1, 400)})

    assert len(json.dumps(kept)) <= LONGEST_META and json.loads(json.dumps(kept)) == kept
    assert left_out and min(len(kept[key]) for key in kept) == 1 and "key 399" in left_out


@pytest.mark.parametrize("episode_id", [7, uuid.UUID(int=2), b"game", None, np.str_("game")])
def test_an_episode_id_may_be_any_single_value(episode_id: object, paths: Paths):
    """As text; None is none."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    assert agent.end_episode(episode_id=episode_id)["saved"]  # type: ignore[arg-type]
    assert isinstance(saved(paths)[0].episode_id, str)


@pytest.mark.parametrize("ending", [{"episode_id": object()}, {"episode_id": "x" * 300}, {"terminated": "yes"}])
def test_an_ending_that_no_file_can_hold_costs_only_the_episode(ending: dict[str, Any], paths: Paths):
    """And the reason is in what end_episode returns."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    ended = agent.end_episode(**ending)
    assert not ended["saved"] and ended["fault"] and agent.get_stats()["episodes_faulty"] == 1
    agent.get_action(SOUND)
    assert agent.end_episode()["saved"]


@pytest.mark.parametrize("final_state", [[NAN] * 4, [1.0, 2.0], "end", [None] * 4, []])
def test_an_unusable_final_state_is_left_out(final_state: object, paths: Paths, caplog: pytest.LogCaptureFixture):
    """The steps are sound without it."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    with caplog.at_level(logging.ERROR):
        assert agent.end_episode(terminated=False, final_state=final_state)["saved"]
    assert saved(paths)[0].final_state is None and "final state is left out" in caplog.text


# --- states and rewards

BAD_STATES = {
    "NaN": ([0.1, NAN, 0.3, 0.4], "feature 1 of the state is nan"),
    "infinity": ([0.1, 0.2, 0.3, -INF], "feature 3 of the state is -inf"),
    "several": (np.array([NAN, 0, INF, 1e30]), "feature 0 of the state is nan, and 2 more"),
    "beyond all bounds": ([0.1, 0.2, 1e30, 0.4], "feature 2 of the state is 1e+30"),
    "None": ([None, 0.2, 0.3, 0.4], "feature 0 of the state is nan"),
    "too few": ([0.1, 0.2], "a state holds 2 numbers"),
    "too many": ([0.1] * 5, "a state holds 5 numbers"),
    "empty": ([], "shape (0,)"),
    "no bytes": (np.zeros(0, np.uint8), "shape (0,)"),
    "text": (["a", "b", "c", "d"], "type <U1"),
    "ragged": ([[0.1], [0.2, 0.3]], "no array of numbers"),
    "complex": (np.zeros(4, complex), "type complex128"),
    "dictionary": ({"hp": 1.0}, "shape () and type object"),
    "no state": (None, "shape () and type object"),
    "objects": ([object()] * 4, "no array of numbers"),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_an_unusable_state_costs_the_episode_and_not_the_game(kind: str, paths: Paths, caplog: pytest.LogCaptureFixture):
    """The step is played as in the last sound state; the log says once which number it was; the next game is saved."""
    state, words = BAD_STATES[kind]
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    expected = agent.get_action(SOUND, training=False)
    with caplog.at_level(logging.ERROR):
        assert [agent.get_action(state) for _ in range(3)] == [expected] * 3
    assert len(caplog.records) == 1 and words in caplog.text and "step 1 of game 1" in caplog.text

    ended = agent.end_episode(final_reward=1.0)
    assert not ended["saved"] and words in ended["fault"] and ended["steps"] == 4
    assert "game 1 is not saved: step 1 (3 such steps)" in caplog.text
    agent.get_action(SOUND)
    assert agent.end_episode()["saved"] and agent.get_stats()["episodes_faulty"] == 1
    assert len(saved(paths)) == 1


@pytest.mark.parametrize("kind", BAD_STATES)
def test_an_unusable_first_state_is_played_at_random_among_the_legal_actions(kind: str, paths: Paths):
    """Before any state was sound, also greedily; later states decide how wide they are."""
    agent = new_agent(paths.root, seed=None)
    state = BAD_STATES[kind][0] if not kind.startswith("too") else [NAN]
    assert {agent.get_action(state, action_mask=[True, False, True])[0] for _ in range(60)} == {0, 2}
    assert {agent.get_action(state, training=False, action_mask=[False, True, False])[1:] for _ in range(3)} == {("right", 1.0)}
    assert not agent.end_episode()["saved"]

    agent.get_action(SOUND)
    assert agent.end_episode()["saved"]


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_strict_agent_raises_at_an_unusable_state(kind: str, paths: Paths):
    """Where it happens, and with the same words."""
    state, words = BAD_STATES[kind]
    agent = new_agent(paths.root, strict=True)
    agent.get_action(SOUND)
    with pytest.raises(EpisodeError) as caught:
        agent.get_action(state)
    assert words in str(caught.value) and agent.get_stats()["buffer_size"] == 1


@pytest.mark.parametrize("space", [Box((-1.0,), (1.0,)), MultiDiscrete((2, 3))], ids=["box", "multi_discrete"])
def test_other_kinds_of_actions_are_played_without_a_state_too(space: Any, paths: Paths):
    """Any action of the space."""
    agent = new_agent(paths.root, action_names=None, action_space=space)
    action, _, _ = agent.get_action([NAN, 1.0])
    space.checked(np.array([action]), 1)
    agent.get_action([0.5, 1.0])
    assert space.checked(np.array([agent.get_action([INF, 1.0])[0]]), 1) is not None


def test_a_policy_that_answers_nan_does_not_end_the_game(paths: Paths, caplog: pytest.LogCaptureFixture):
    """Its weights are finite, its outputs are not: played at random."""
    state = train_step.new_state(4, Discrete(3), SETTINGS)
    arrays = train_step.to_arrays(state)
    arrays["W3"] = np.full_like(arrays["W3"], 3e38)
    arrays["b2"] = np.full_like(arrays["b2"], 5.0)
    model_store.commit(paths, model_store.pack(arrays, 1, {"format": 1}), durable=False)
    agent = new_agent(paths.root)
    with np.errstate(all="ignore"):
        played = {agent.get_action(SOUND)[1] for _ in range(40)}
    assert played <= set(NAMES)


BAD_REWARDS = {
    "NaN": (NAN, "the reward is nan"),
    "infinity": (INF, "the reward is inf"),
    "several": (np.array([1.0, 2.0]), "the reward has shape (2,)"),
    "none": ([], "the reward has shape (0,)"),
    "text": ("1", "the reward is '1'"),
    "None": (None, "the reward is None"),
    "beyond all bounds": (1e30, "the reward is 1e+30"),
    "dictionary": ({}, "the reward is of type dict"),
}


@pytest.mark.parametrize("kind", BAD_REWARDS)
def test_an_unusable_reward_costs_the_episode_and_not_the_game(kind: str, paths: Paths, caplog: pytest.LogCaptureFixture):
    """In the middle and at the end of a game, with one line for each game; a strict agent raises."""
    reward, words = BAD_REWARDS[kind]
    agent = new_agent(paths.root)
    for at_the_end in (False, True):
        caplog.clear()
        agent.get_action(SOUND)
        agent.update_reward(0.5)
        if not at_the_end:
            agent.update_reward(reward)
            agent.update_reward(reward)
        ended = agent.end_episode(final_reward=reward if at_the_end else 1.0)
        assert (
            not ended["saved"]
            and words.replace("the reward", "the final reward" if at_the_end else "the reward") in ended["fault"]
        )
        assert ended["episode_return"] == (0.5 if at_the_end else 1.5) and len(caplog.records) == 2
    assert saved(paths) == []

    strict = new_agent(paths.root, strict=True)
    strict.get_action(SOUND)
    with pytest.raises(EpisodeError):
        strict.update_reward(reward)


def test_rewards_that_add_up_beyond_all_bounds_are_noticed_at_once(paths: Paths):
    """A file with their sum would be refused when it is read."""
    agent = new_agent(paths.root, strict=True)
    agent.get_action(SOUND)
    agent.update_reward(9e5)
    with pytest.raises(EpisodeError, match="add up"):
        agent.update_reward(9e5)


@pytest.mark.parametrize("reward", [np.array([2.0]), np.array([[2]]), [2.0], np.float32(2), Decimal(2), np.array(2)])
def test_a_reward_of_one_element_is_a_number(reward: object, paths: Paths):
    """Of any shape, in the middle and at the end."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    agent.update_reward(reward)
    assert agent.end_episode(final_reward=reward)["episode_return"] == 4.0
    assert saved(paths)[0].rewards.tolist() == [4.0]


@pytest.mark.parametrize("mask", [[0.0, -1e8, 0.0], [NAN, 1, 1], [True, False], [False] * 3, [[True]], ["a"]])
def test_a_mask_that_is_none_is_refused_in_both_modes(mask: Any, paths: Paths):
    """No action could be played that the caller has not ruled out; the game is as it was."""
    for strict in (False, True):
        agent = new_agent(paths.root, strict=strict)
        agent.get_action(SOUND)
        for state in (SOUND, [NAN] * 4):
            with pytest.raises(EpisodeError):
                agent.get_action(state, action_mask=mask)
        assert agent.get_stats()["buffer_size"] == 1 and agent.end_episode()["saved"]


def test_who_is_strict(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """Under pytest everyone, and in its children; elsewhere by setting; the argument has the last word."""
    code = "import sys; from background_training.agent import RLAgent; RLAgent(root=sys.argv[1]).get_action([float('nan')])"

    def ends_well(**variables: str) -> bool:
        environment = {**os.environ, **variables}
        if "PYTEST_CURRENT_TEST" in variables and not variables["PYTEST_CURRENT_TEST"]:
            del environment["PYTEST_CURRENT_TEST"]
        done = subprocess.run(
            [sys.executable, "-c", code, str(paths.root)],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )
        return done.returncode == 0

    assert ends_well(PYTEST_CURRENT_TEST="")
    assert not ends_well()
    assert not ends_well(PYTEST_CURRENT_TEST="", LOCAL_TRAINING_GAMES_STRICT="true")
    with pytest.raises(EpisodeError):
        RLAgent(root=paths.root).get_action([NAN])
    RLAgent(root=paths.root, strict=False).get_action([NAN])


# --- games that are not ended, steps that were not played


def test_a_crashed_game_does_not_flow_into_the_next(paths: Paths, caplog: pytest.LogCaptureFixture):
    """Dropped and counted when the next one begins; logged once."""
    agent = new_agent(paths.root)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            agent.begin_episode()
            agent.get_action([9.0] * 4)
            agent.update_reward(-1.0)
        agent.begin_episode()
        agent.begin_episode()
    assert len(caplog.records) == 1 and "1 steps" in caplog.text
    agent.get_action(SOUND)
    assert agent.end_episode()["saved"]

    (episode,) = saved(paths)
    assert episode.steps == 1 and episode.states[0, 0] == np.float32(0.1) and episode.rewards.tolist() == [0.0]
    stats = agent.get_stats()
    assert (stats["episodes_unfinished"], stats["episode_count"], stats["episodes_abandoned"]) == (3, 1, 0)


def test_an_abandoned_game_leaves_no_file(paths: Paths, caplog: pytest.LogCaptureFixture):
    """It is counted, its reason logged; a game without steps is none."""
    agent = new_agent(paths.root)
    with caplog.at_level(logging.INFO):
        assert agent.abandon_episode("nothing yet") == 0
        for _ in range(4):
            agent.get_action(SOUND)
        agent.get_action([NAN] * 4)
        assert agent.abandon_episode("the server is gone") == 5
    assert "after 5 steps: the server is gone" in caplog.text and "nothing yet" not in caplog.text
    assert not agent.end_episode()["saved"] and saved(paths) == []
    assert agent.get_stats()["episodes_abandoned"] == 1 and agent.episode_count == 0
    agent.get_action(SOUND)
    assert agent.end_episode()["saved"]


def test_a_newer_model_is_picked_up_by_the_game_after_an_abandoned_one(paths: Paths):
    """As after one that was ended."""
    agent = new_agent(paths.root)
    agent.get_action(SOUND)
    state = train_step.new_state(4, Discrete(3), SETTINGS)
    model_store.commit(
        paths, model_store.pack(train_step.to_arrays(state), 5, {"format": 1, "action_names": NAMES}), durable=False
    )
    agent.abandon_episode()
    agent.get_action(SOUND)
    assert agent.model_version == 5


def test_an_overruled_decision_is_forgotten(paths: Paths):
    """With its rewards; further rewards belong to the decision before. Only the newest, and only one that was recorded."""
    agent = new_agent(paths.root)
    assert not agent.forget_last_step()
    agent.get_action([1.0] * 4)
    agent.update_reward(1.0)
    agent.get_action([2.0] * 4, action_mask=[True, True, False])
    agent.update_reward(5.0)
    assert agent.forget_last_step() and not agent.forget_last_step()
    agent.update_reward(0.25)
    agent.get_action([3.0] * 4)
    agent.get_action([4.0] * 4, training=False)
    assert not agent.forget_last_step()
    agent.end_episode()

    (episode,) = saved(paths)
    assert episode.states[:, 0].tolist() == [1.0, 3.0] and episode.rewards.tolist() == [1.25, 0.0]
    assert episode.action_mask is None and episode.log_probs is not None and len(episode.log_probs) == 2


def test_a_forgotten_step_takes_its_fault_along(paths: Paths):
    """What is left is sound, and saved; also where it was the first step."""
    agent = new_agent(paths.root)
    agent.get_action([NAN] * 4)
    agent.forget_last_step()
    agent.get_action(SOUND)
    agent.get_action([INF] * 4)
    agent.update_reward(NAN)
    agent.forget_last_step()
    assert agent.end_episode(1.0)["saved"] and saved(paths)[0].steps == 1


# --- forks

FORKS = """
import os, sys
from multiprocessing import get_context
from background_training import RLAgent

root, seed, way = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
agent = RLAgent(root=root, action_names=["a", "b", "c"], seed=seed, strict=False)
if way == "reseeded":
    agent.reseed(7)
agent.get_action([9.0, 9.0])

def play():
    for step in range(30):
        agent.get_action([0.1, 0.1 * step])
    assert agent.end_episode(1.0)["saved"]
    assert agent.get_stats()["episodes_unfinished"] == 1

if way == "multiprocessing":
    children = [get_context("fork").Process(target=play) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
else:
    children = []
    for _ in range(4):
        if not (child := os.fork()):
            try:
                play()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert agent.end_episode(1.0)["steps"] == 1 and agent.get_stats()["episodes_unfinished"] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("seed", "way", "distinct"),
    [(None, "fork", 4), (None, "multiprocessing", 4), (3, "fork", 1), (3, "multiprocessing", 1), (None, "reseeded", 1)],
)
def test_forked_agents_draw_numbers_of_their_own(seed: int | None, way: str, distinct: int, paths: Paths):
    """Unless a seed was asked for; their files differ even then. The parent's unfinished game stays the parent's."""
    arguments = [sys.executable, "-c", FORKS, str(paths.root), repr(seed), way]
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr

    games = [episode for episode in saved(paths) if episode.steps == 30]
    assert len(games) == 4 and len(saved(paths)) == 5
    assert len({episode.actions.tobytes() for episode in games}) == distinct
    assert len({path.read_bytes() for path in paths.buffer.glob("*.npz")}) == 5


def test_an_agent_that_was_sent_to_another_process_draws_numbers_of_its_own(paths: Paths):
    """As with multiprocessing's spawn, which pickles it."""
    agent = new_agent(paths.root, seed=None)
    agent.get_action(SOUND)
    (paths.root / "agent.pickle").write_bytes(pickle.dumps(agent))
    code = (
        "import pickle, sys\n"
        "agent = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert agent.get_stats()['buffer_size'] == 0\n"
        "print([agent.get_action([0.1, 0.2, 0.3, 0.4])[0] for _ in range(40)])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code, str(paths.root / "agent.pickle")],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        ).stdout
        for _ in range(2)
    }
    assert len(answers) == 2


# --- names of actions


def commit(paths: Paths, version: int, names: list[str], seed: int = 0) -> None:
    """A model that prefers its first action."""
    arrays = train_step.to_arrays(train_step.new_state(4, Discrete(len(names)), LearningSettings(hidden_size=8, seed=seed)))
    arrays["b3"] = np.array([8.0, 4.0, *[0.0] * (len(names) - 2)], np.float32)
    model_store.commit(paths, model_store.pack(arrays, version, {"format": 1, "action_names": names}), durable=False)


@pytest.mark.parametrize("names", [["wait", "right", "left"], ["right", "wait", "left"], ["left", "wait", "right"], NAMES])
def test_action_names_in_another_order_are_matched(names: list[str], paths: Paths):
    """Numbers, names, masks and what is recorded: the file is in the model's order, the bot sees its own."""
    commit(paths, 1, names)
    agent = new_agent(paths.root)

    action, name, _ = agent.get_action(SOUND, training=False)
    assert name == names[0] and NAMES[action] == names[0] and agent.action_labels == NAMES
    mask = [own != names[0] for own in NAMES]
    assert agent.get_action(SOUND, training=False, action_mask=mask)[1] == names[1]
    played = [agent.get_action(SOUND, action_mask=mask)[1] for _ in range(30)]
    agent.end_episode()

    (episode,) = saved(paths)
    assert episode.meta["action_names"] == names
    assert [names[action] for action in episode.actions.tolist()] == played
    assert episode.action_mask is not None and (episode.action_mask == [False, True, True]).all()


def test_training_here_and_saving_keep_the_models_order(paths: Paths):
    """What the agent is taught by its own numbers, a bot with the model's order of names knows too."""
    names = ["wait", "right", "left"]
    commit(paths, 1, names)
    agent = new_agent(paths.root, learning_rate=0.02)
    rng = np.random.default_rng(0)
    games = [
        {
            "states": rng.normal(size=(20, 4)),
            "actions": (actions := rng.integers(0, 3, 20)),
            "rewards": (actions == NAMES.index("left")).astype(np.float32),
            "action_mask": np.ones((20, 3), bool),
        }
        for _ in range(30)
    ]
    for _ in range(30):
        agent.train_from_batch(games)
    assert agent.get_action(SOUND, training=False)[1] == "left"
    assert agent.save_model()

    assert model_store.read(paths.model).action_names == tuple(names)
    assert RLAgent(root=paths.root, action_names=names).get_action(SOUND, training=False)[:2] == (2, "left")


def test_two_bots_with_their_own_order_teach_one_model(paths: Paths):
    """Through the learner: the model keeps the order it was made with, and both play the same actions by name."""
    for names in (NAMES, NAMES[::-1], NAMES[1:] + NAMES[:1]):
        agent = new_agent(paths.root, action_names=names)
        for _ in range(3):
            for _ in range(10):
                _, name, _ = agent.get_action(SOUND)
                agent.update_reward(1.0 if name == "right" else 0.0)
            assert agent.end_episode()["saved"]
        learner_runs.drain(paths.root)

    model = model_store.read(paths.model)
    assert model.action_names == tuple(NAMES) and model.manifest["episodes_trained"] == 9
    greedy = {new_agent(paths.root, action_names=names).get_action(SOUND, training=False)[1:] for names in (NAMES, NAMES[::-1])}
    assert len(greedy) == 1


@pytest.mark.parametrize(
    "names", [["left", "right", "stop"], ["LEFT", "RIGHT", "WAIT"], ["a", "b", "c"], ["left", "left", "wait"]]
)
def test_a_model_with_other_action_names_is_refused_with_both_lists(
    names: list[str], paths: Paths, caplog: pytest.LogCaptureFixture
):
    """Nothing says which of them is which; the bot plays with what it has."""
    commit(paths, 1, names)
    with caplog.at_level(logging.WARNING):
        agent = new_agent(paths.root)
    assert agent.model_version == 0 and str(names) in caplog.text and str(NAMES) in caplog.text
    assert agent.get_action(SOUND)[1] in NAMES


@pytest.mark.parametrize("names", [["action_0", "action_1", "action_2"], []])
def test_a_model_without_names_of_its_own_fits_any(names: list[str], paths: Paths):
    """They are what a writer without names is given."""
    commit(paths, 1, names or ["", "", ""])
    if not names:
        arrays = train_step.to_arrays(train_step.new_state(4, Discrete(3), SETTINGS))
        model_store.commit(paths, model_store.pack(arrays, 1, {"format": 1}), durable=False)
    agent = new_agent(paths.root)
    assert agent.model_version == 1 and agent.action_labels == NAMES


def test_numbers_of_other_kinds_of_actions_are_not_swapped(paths: Paths, caplog: pytest.LogCaptureFixture):
    """Names in another order are refused there: what each number means goes with its bounds."""
    space = Box((-1.0, -1.0), (1.0, 1.0))
    arrays = train_step.to_arrays(train_step.new_state(4, space, SETTINGS))
    manifest = {"format": 1, "action_names": ["rudder", "throttle"], "action_space": space.as_json()}
    model_store.commit(paths, model_store.pack(arrays, 1, manifest), durable=False)
    with caplog.at_level(logging.WARNING):
        agent = new_agent(paths.root, action_space=space, action_names=["throttle", "rudder"])
    assert agent.model_version == 0 and "['rudder', 'throttle']" in caplog.text
    assert new_agent(paths.root, action_space=space, action_names=["rudder", "throttle"]).model_version == 1


@pytest.mark.parametrize("names", [[Result.Victory, Level.HARD], [1, 2], [pathlib.PurePosixPath("a"), np.str_("b")]])
def test_action_names_may_be_any_single_values(names: list[Any], paths: Paths):
    """They are texts in files and answers."""
    agent = new_agent(paths.root, action_names=names)
    agent.get_action(SOUND)
    assert agent.end_episode()["saved"] and all(type(name) is str for name in saved(paths)[0].meta["action_names"])
