"""Games as they are: what `run --game` takes beside a bare id, and how the agent gets to see it."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from background_training.errors import SettingsError
from background_training.runs.game_spec import GameSpec

pytest.importorskip("gymnasium", reason="the games extra is not installed")

import adapted_games
import gymnasium

from background_training import RLAgent
from background_training.commands import evaluate, run
from background_training.episodes import episode_file
from background_training.paths import Paths
from background_training.runs import gymnasium_game, root_game
from background_training.runs.gymnasium_game import GymnasiumGame

ROOMS, NIM = "adapted_games:Rooms", "adapted_games:Nim"


@pytest.fixture(autouse=True)
def _unregistered() -> Iterator[None]:
    """No test leaves a registered game behind."""
    yield
    gymnasium.registry.pop("Rooms-v0", None)


@pytest.mark.parametrize(
    "text",
    [
        "CartPole-v1",
        "ALE/Pong-v5 --game-module ale_py --game-args obs_type=ram frameskip=4",
        "my game:Make --game-args 'name=two words' 'list=[1, 2]' --game-opponent self --max-steps 50",
    ],
)
def test_the_text_of_a_game_holds_all_of_it(text: str) -> None:
    """It is read as what it was written from, so that a file or a command line can hold it."""
    assert GameSpec.parse(GameSpec.parse(text).text) == GameSpec.parse(text)
    values = GameSpec.parse("x --game-args a=4 b=true c=None 'd=[1, 2]' e=ram f=").keywords
    assert values == {"a": 4, "b": True, "c": None, "d": [1, 2], "e": "ram", "f": ""}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("CartPole-v1 --game-args foo", "key=value is needed"),
        ("CartPole-v1 --max-steps many", "a whole number"),
        ("CartPole-v1 --game-opponent me", "random or self"),
        ("CartPole-v1 --speed 3", "options of a game are"),
        ("CartPole-v1 --game-args 'a=1", "a closing quote"),
        ("CartPole-v1 --game-args foo=1", "foo"),
        ("no_such_module:Game", "install the package that no_such_module comes from"),
        ("Rooms-v0", "--game-module PACKAGE"),
        ("adapted_games:OBSERVATION", "a game that Gymnasium can make is needed"),
        ("builtins:dict", "neither a Gymnasium environment nor a PettingZoo game in turns"),
    ],
)
def test_a_game_that_cannot_be_made_is_one_sentence(text: str, named: str) -> None:
    """It names what was given, and what to do."""
    with pytest.raises(SettingsError, match=named) as caught:
        GymnasiumGame(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ((-np.inf, np.inf, np.float32), "has no finite bounds. Give them in the game"),
        ((0, 4, np.int64), "int64 numbers. Let the game take MultiDiscrete"),
        ((1.0, 1.0, np.float32), "lower bound is not below"),
    ],
)
def test_a_box_of_actions_that_cannot_be_learnt_says_what_to_change(
    bounds: tuple[Any, Any, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unbounded and integer ones are usual in games of one's own."""
    low, high, kind = bounds
    monkeypatch.setattr(adapted_games.Rooms, "action_space", gymnasium.spaces.Box(low, high, (2,), kind))
    with pytest.raises(SettingsError, match=named):
        GymnasiumGame(ROOMS)


def _games() -> list[str]:
    return [ROOMS, f"{ROOMS} --game-args mask_by=method", "Rooms-v0 --game-module adapted_games:register"]


@pytest.mark.parametrize("text", _games())
def test_a_dict_is_flattened_as_gymnasium_does_with_names_and_masks(text: str) -> None:
    """One-hot numbers in Gymnasium's order; the text, which has no fixed size, is left out."""
    game = GymnasiumGame(text)
    state = game.reset(1)
    parts = {key: part for key, part in adapted_games.OBSERVATION.spaces.items() if key != "words"}
    space = gymnasium.spaces.Dict(parts)
    observation = {key: value for key, value in game.env.unwrapped._observation().items() if key != "words"}
    np.testing.assert_array_equal(state, gymnasium.spaces.flatten(space, observation))
    assert len(game.facts.state_names) == game.state_width == len(state) == 12
    assert {"door=6", "place[1]", "pair.0[1]=2", "pair.1[0]"} <= set(game.facts.state_names)
    assert game.left_out == ["words (Text)"]
    for step in range(3):
        assert game.mask is not None and game.mask.tolist() == (np.arange(3) == step).tolist()
        _, _, over, _ = game.step(step)
    assert over and game.mask is None
    game.close()


def test_a_game_is_cut_after_its_limit_of_steps_and_named_if_it_does_not_end(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut game is no ended one: its episode holds the state after it."""
    monkeypatch.setattr(gymnasium_game, "ENDLESS_STEPS", 20)
    game = GymnasiumGame(f"{ROOMS} --game-args length=1000 --max-steps 30")
    agent = RLAgent(root=root, action_space=game.actions, state_names=game.facts.state_names)
    with caplog.at_level(logging.WARNING):
        result = game.play(agent, 1, 5, episode_id="a")
    assert (result.steps, result.terminated, result.saved) == (30, False, True)
    assert caplog.text.count("may never end; --max-steps N cuts it") == 1
    [path] = Paths(root).buffer.glob("*.npz")
    episode = episode_file.read(path.read_bytes())
    assert not episode.terminated and episode.final_state is not None and episode.action_mask is not None
    assert (episode.action_mask.argmax(axis=1) == episode.actions).all()
    assert tuple(episode.meta["state_names"]) == game.facts.state_names


@pytest.mark.parametrize("opponent", ["random", "self"])
def test_a_game_in_turns_is_a_game_of_one_player(root: Path, opponent: str) -> None:
    """The seed decides which player the agent is; a win is 1 and a defeat -1, also when the other moves last."""
    game = GymnasiumGame(f"{NIM} --game-args matches=5 --game-opponent {opponent}")
    agent = RLAgent(root=root, action_space=game.actions, state_width=game.state_width)
    results = [game.play(agent, number, number, episode_id=str(number)) for number in range(40)]
    assert {one.episode_return for one in results} == {1.0, -1.0} and all(one.terminated for one in results)
    episodes = [episode_file.read(path.read_bytes()) for path in Paths(root).buffer.glob("*.npz")]
    firsts = {float(one.states[0, 0]) for one in episodes}
    assert 5.0 in firsts and firsts & {3.0, 4.0}, "the agent is now the first player and now the second"
    assert all(one.action_mask is not None for one in episodes)
    assert GymnasiumGame(NIM).reset(7) == GymnasiumGame(NIM).reset(7)


@pytest.mark.slow
@pytest.mark.usefixtures("runs_without_a_learner")
@pytest.mark.parametrize("instances", ["1", "2"])
def test_a_root_keeps_the_options_of_its_game(root: Path, capsys: pytest.CaptureFixture[str], instances: str) -> None:
    """Later runs and processes make the same game without being given them; other arguments are refused."""

    def play(*arguments: str, exit_code: int = 0) -> str:
        code = run.main(["--root", str(root), "--quiet", "--instances", instances, *arguments])
        shown: Any = capsys.readouterr()
        assert code == exit_code, shown
        return str(shown.out + shown.err)

    options = ["--game-module", "adapted_games:register", "--game-args", "length=5", "mask_by=method"]
    play("--games", "2", "--game", "Rooms-v0", *options)
    gymnasium.registry.pop("Rooms-v0", None)
    play("--games", "2", "--max-steps", "4")
    play("--games", "2", "--game", "Rooms-v0")
    assert "is a root of Rooms-v0 --game-module" in play("--games", "1", "--game-args", "length=6", exit_code=2)
    steps = [episode_file.read(path.read_bytes()).steps for path in Paths(root).buffer.glob("*.npz")]
    assert sorted(steps) == [4, 4, 5, 5, 5, 5]
    assert json.loads(Paths(root).game.read_text("utf-8"))["game"] == root_game.known(Paths(root))


def test_a_game_beyond_the_limits_of_an_episode_is_refused_before_a_root_is_made(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be played, and every episode rejected."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(adapted_games.Rooms, "action_space", gymnasium.spaces.Discrete(5000))
    assert run.main(["--root", str(root), "--game", ROOMS, "--games", "1"]) == 2
    assert "limits.max_actions is 4096: set it to 5000" in capsys.readouterr().err
    monkeypatch.setattr(adapted_games.Rooms, "observation_space", gymnasium.spaces.Box(0, 255, (300, 300, 3), np.uint8))
    assert run.main(["--root", str(root), "--game", ROOMS, "--games", "1"]) == 2
    assert "its states have 270,000 numbers; at most 150,000" in capsys.readouterr().err
    assert not list(root.iterdir())
    signal.signal(signal.SIGTERM, before)


def test_evaluate_plays_only_legal_actions(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The game refuses an illegal one, so that its mean return shows it."""
    game = GymnasiumGame(ROOMS)
    agent = RLAgent(root=root, action_space=game.actions, state_names=game.facts.state_names)
    agent.get_action(game.reset(0), action_mask=game.mask)
    agent.save_model()
    before = signal.getsignal(signal.SIGTERM)
    assert evaluate.main(["--root", str(root), "--game", ROOMS, "--episodes", "3", "--json"]) == 0
    signal.signal(signal.SIGTERM, before)
    assert json.loads(capsys.readouterr().out)["greedy"]["mean_return"] == 3.0
