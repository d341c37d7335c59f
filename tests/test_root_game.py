"""A root knows its game: it is played again without being named, and no other one is played into its files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from background_training.errors import SettingsError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import GameFacts
from background_training.runs.run_state import RunSpec, RunState, RunStateFile
from background_training.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from background_training.storage import model_store
from tests import episodes

pytest.importorskip("gymnasium", reason="the games extra is not installed")

import failing_games  # noqa: F401  # registers the games

from background_training.commands import evaluate, run
from background_training.runs import root_game

FAILS, OTHER = "failing_games:Fails-v0", "failing_games:Other-v0"
FACTS = GameFacts("Fails-v0", 3, Discrete(3))

pytestmark = pytest.mark.usefixtures("runs_without_a_learner")


def _run(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    code = run.main(["--root", str(root), "--quiet", *arguments])
    captured = capsys.readouterr()
    assert code == exit_code, captured
    return captured.out + captured.err


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize("instances", ["1", "2"])
def test_the_game_need_not_be_named_again(root: Path, capsys: pytest.CaptureFixture[str], instances: str) -> None:
    """Its name, with the module that it comes from, is in logs/game.json since the first run."""
    _run(root, capsys, "--games", "2", "--game", FAILS, "--instances", instances)
    _run(root, capsys, "--games", "3", "--instances", instances)

    record = json.loads(Paths(root).game.read_bytes())
    assert record == {"format": 1, "game": FAILS, "id": "Fails-v0", "state_width": 3, "actions": 3}
    assert len(Paths(root).games_log.read_text().splitlines()) == 1 + 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--game", OTHER],
        ["--game", "CartPole-v1"],
        ["--game", "NoSuchGame-v0"],
        ["--game", "Fails-v7"],
        ["--game", OTHER, "--instances", "2"],
        ["--game", OTHER, "--no-training"],
        ["--game", OTHER, "--resume"],
    ],
    ids=" ".join,
)
def test_another_game_is_refused_before_anything_is_written(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Not a byte below the root changes, also where states and actions would be the same; evaluate refuses it too."""
    _run(root, capsys, "--games", "1", "--game", FAILS)
    before = _files(root)

    said = _run(root, capsys, "--games", "3", *arguments, exit_code=2)
    code = evaluate.main(["--root", str(root), *arguments[:2]])

    for line in (said, capsys.readouterr().err):
        assert f"{root} is a root of {FAILS}" in line and "use another --root" in line and line.count("\n") == 1
    assert code == 2 and _files(root) == before


def test_a_game_named_by_file_or_environment_counts_as_named(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no default that the root's game may take the place of."""
    config = root.parent / "mine.yaml"
    config.write_text(f'games:\n  game: "{OTHER}"\n')
    _run(root, capsys, "--games", "1", "--game", FAILS)

    assert "is a root of" in _run(root, capsys, "--games", "1", "--config", str(config), exit_code=2)
    monkeypatch.setenv("LOCAL_TRAINING_GAMES_GAME", OTHER)
    assert "is a root of" in _run(root, capsys, "--games", "1", exit_code=2)
    _run(root, capsys, "--games", "1", "--game", "Fails-v0")  # a flag counts for more


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CartPole-v1", "CartPole-v1", True),
        ("my_games:Arena-v0", "Arena-v0", True),
        ("CartPole", "CartPole-v1", True),
        ("my_games:Arena", "your_games:Arena-v3", True),
        ("CartPole-v0", "CartPole-v1", False),
        ("CartPole-v1", "CartPole-v10", False),
        ("Arena-v0", "ns/Arena-v0", False),
        ("cartpole-v1", "CartPole-v1", False),
    ],
)
def test_which_names_mean_one_game(one: str, other: str, same: bool) -> None:
    """The module is no part of it, a version is unless it is left out, and letters count."""
    assert root_game.is_same(one, other) is root_game.is_same(other, one) is same


def test_an_older_root_is_known_by_its_interrupted_run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no record; what is resumed or played next is the same game."""
    with RunStateFile(paths) as keeper:
        keeper.save(RunState.new(RunSpec(FAILS, 0, 3, 1, True)))

    assert "is a root of" in _run(paths.root, capsys, "--games", "1", "--game", OTHER, exit_code=2)
    _run(paths.root, capsys, "--resume")

    assert json.loads(paths.game.read_bytes())["game"] == FAILS


@pytest.mark.parametrize("folder", ["archive", "buffer"])
def test_an_older_root_is_known_by_its_newest_episode(paths: Paths, folder: str) -> None:
    """What was trained on counts before what waits; what can't be read, or names no game, counts for nothing."""
    place: Path = getattr(paths, folder)
    for name, age, meta in (("old", 50, {"game": "Old-v0"}), ("new", 20, {"game": "New-v0"}), ("mute", 10, {"map": "x"})):
        episodes.write(place, f"{name}.npz", meta=json.dumps(meta))
        os.utime(place / f"{name}.npz", (1e9 - age, 1e9 - age))
    (place / "torn.npz").write_bytes(b"PK")
    if folder == "archive":
        episodes.write(paths.buffer, "waits.npz", meta=json.dumps({"game": "Stranger-v0"}))

    assert root_game.known(paths) == root_game.choose(paths, None, "Default-v0") == "New-v0"
    with pytest.raises(SettingsError, match="is a root of New-v0"):
        root_game.choose(paths, "Old-v0", "Default-v0")


def test_an_older_root_with_nothing_but_a_model_is_known_by_that(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A game whose states or actions are others is refused, the default one too; one that fits is the root's from then on."""
    shutil.copy(_model_of(paths.root.parent / "made", width=3, actions=3), paths.model)
    before = _files(paths.root)

    assert "states of 4 numbers and actions 0 to 1; by" in _run(paths.root, capsys, "--game", "CartPole-v1", exit_code=2)
    assert root_game.known(paths) == ""
    assert _files(paths.root) == before
    _run(paths.root, capsys, "--games", "1", "--game", OTHER)
    assert root_game.known(paths) == OTHER


def _model_of(root: Path, width: int, actions: int) -> Path:
    from background_training import RLAgent

    agent = RLAgent(root=root, state_width=width, action_names=[str(number) for number in range(actions)])
    agent.get_action([0.0] * width, training=False)
    assert agent.save_model()
    assert model_store.read(agent.model_path).state_width == width
    return agent.model_path


@pytest.mark.parametrize(
    "other",
    [
        GameFacts("Fails-v0", 4, Discrete(3)),
        GameFacts("Fails-v0", 3, Discrete(2)),
        GameFacts("Fails-v0", 3, MultiDiscrete((3,))),
        GameFacts("Fails-v0", 3, MultiBinary(3)),
        GameFacts("Fails-v0", 3, Box((0.0,), (1.0,))),
    ],
)
def test_a_variant_under_the_same_id_needs_the_same_states_and_actions(paths: Paths, other: GameFacts) -> None:
    """Of each kind of actions: the first one recorded is the root's, and stays."""
    for first, second in ((FACTS, other), (other, FACTS)):
        paths.game.unlink(missing_ok=True)
        root_game.record(paths, FAILS, first)
        root_game.record(paths, FAILS, second)

        root_game.check(paths, FAILS, first)
        with pytest.raises(SettingsError, match="it has states of") as caught:
            root_game.check(paths, FAILS, second)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 2, "game": "a"}',
        b'{"format": 1, "game": 3}',
        b'{"format": 1, "game": ""}',
        b'{"format": 1, "game": "Old-v0", "state_width": "3", "actions": 3}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=range(11),
)
def test_a_damaged_record_is_replaced(paths: Paths, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the root says what it can, and the next run writes it again."""
    paths.game.write_bytes(content)

    assert root_game.known(paths) == "" and "names no game and is replaced" in caplog.text
    root_game.record(paths, FAILS, FACTS)
    assert root_game.known(paths) == FAILS


def test_evaluate_takes_the_roots_game(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --game, as the run does."""
    _run(root, capsys, "--games", "1", "--game", FAILS)
    shutil.copy(_model_of(root.parent / "made", width=3, actions=3), _made(Paths(root).model))

    assert evaluate.main(["--root", str(root), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["game"] == FAILS


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
