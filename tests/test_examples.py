"""The programs in examples/ do what they say, run as a stranger runs them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT, Paths
from background_training.storage import model_store

pytestmark = pytest.mark.slow  # real processes

EXAMPLES = CHECKOUT / "examples"


def _run(cwd: Path, script: Path, *options: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LOCAL_TRAINING", "PYTHONPATH"))}
    environment["LOCAL_TRAINING_LEARNER_DURABILITY"] = "fast"
    environment["LOCAL_TRAINING_GOVERNOR_ENABLED"] = "false"  # otherwise the other tests' load decides how long it takes
    done = subprocess.run(
        [sys.executable, str(script), *options],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _drain(root: Path) -> None:
    learner = CHECKOUT / "tools" / "background_parallel_learner.py"
    _run(root, learner, "--drain", "--quiet", "--durability", "fast", "--root", str(root))


def test_an_episode_written_with_plain_numpy_is_trained_on(root: Path) -> None:
    """Ten lines of numpy are all that a foreign game needs."""
    for _ in range(3):
        _run(root, EXAMPLES / "write_episode_plain.py", str(root))
    _drain(root)

    paths = Paths(root)
    assert model_store.read(paths.model).manifest["episodes_trained"] == 3
    assert len(list(paths.archive.glob("*.npz"))) == 3
    assert not os.listdir(paths.buffer)


def test_the_plain_example_imports_nothing_of_ours_and_has_about_ten_lines() -> None:
    """A stranger sees that no package of ours is needed, and how little it takes."""
    text = (EXAMPLES / "write_episode_plain.py").read_text("utf-8")
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"os", "sys", "numpy"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.Expr))]
    assert len(body) <= 10


def test_the_existing_loop_gets_better_with_the_learner(root: Path) -> None:
    """The agent in somebody else's loop plays, is trained from the files, and plays better."""
    script, returns = EXAMPLES / "play_with_rl_agent.py", []
    for _ in range(5):
        said = _run(root, script, "100", "--root", str(root))
        returns.append(float(said.split("mean return ")[1].split()[0]))
        _drain(root)

    assert returns[-1] > returns[0] + 1.5, returns


@pytest.mark.parametrize(("program", "games", "gain"), [("gymnasium_loop.py", 80, 25.0), ("turn_based_game.py", 150, 15.0)])
def test_a_game_of_ones_own_gets_better(root: Path, program: str, games: int, gain: float) -> None:
    """At full speed, with no waiting of its own: the mean and the version rise."""
    if program.startswith("gymnasium"):
        pytest.importorskip("gymnasium", reason="the games extra is not installed")
    assert len((EXAMPLES / program).read_text("utf-8").splitlines()) < 60
    said = _run(root, EXAMPLES / program, str(games))
    lines = re.findall(r"mean (?:return|gold) ([\d.]+), model version (\d+)", said)
    means, versions = [float(mean) for mean, _ in lines], [int(version) for _, version in lines]
    assert len(lines) == games // 10 and versions == sorted(versions) and versions[0] >= 1, said
    assert max(means[-3:]) > means[0] + gain, said


def test_shaping_of_the_mountain_car_leaves_the_worth_of_a_game_as_it_is() -> None:
    """Discounted, the shaped rewards add up to the true ones less what the first state was worth, whatever is done."""
    gymnasium = pytest.importorskip("gymnasium", reason="the games extra is not installed")
    from examples.shaped_mountain_car import GAMMA, _potential

    games = [gymnasium.make(name) for name in ("examples.shaped_mountain_car:ShapedMountainCar-v0", "MountainCar-v0")]
    states = [game.reset(seed=3)[0] for game in games]
    first, totals, factor, over = _potential(*map(float, states[0])), [0.0, 0.0], 1.0, False
    while not over:
        action = 0 if states[0][1] < 0 else 2  # pushes the way it rolls, which reaches the flag
        for number, game in enumerate(games):
            states[number], reward, terminated, over, _ = game.step(action)
            totals[number] += factor * float(reward)
            over = over or terminated
        factor *= GAMMA

    assert terminated and first >= 0.0
    assert totals[0] == pytest.approx(totals[1] - first, abs=1e-3)
    for game in games:
        game.close()
