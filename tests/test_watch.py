"""`background-training watch` shows a model playing: what it writes is opened by another library, what it lacks is named."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_SECONDS
from PIL import Image

from background_training.paths import CHECKOUT, Paths

pytestmark = pytest.mark.slow  # real processes

SILENT_GAME = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Silent(CartPoleEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def render(self):
        return "no picture"


gymnasium.register("Silent-v0", Silent, max_episode_steps=20)
"""


def _command(folder: Path, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment["PYTHONPATH"] = str(CHECKOUT / "src")
    command = [sys.executable, "-m", "background_training", verb, *options, "--root", str(folder / "a röot")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """A folder with a root in which a few games were played."""
    assert _command(tmp_path, "run", "--game", "CartPole-v1", "--games", "5", "--quiet").returncode == 0
    return tmp_path


def test_the_model_is_shown_as_a_moving_picture(played: Path) -> None:
    """The same seed writes the same file, another seed another one; Pillow finds moving frames with a caption in it."""
    done = _command(played, "watch", "--games", "2")
    paths = Paths(played / "a röot")
    assert done.returncode == 0, done.stderr
    assert "played 2 games of CartPole-v1, greedily; returns: " in done.stdout and str(paths.logs / "watch.gif") in done.stdout
    with Image.open(paths.logs / "watch.gif") as film:
        assert film.format == "GIF" and film.n_frames > 4 and film.info["loop"] == 0 and film.info["duration"] == 40
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
    game = [frame[:-18] for frame in frames]
    assert any((one != other).any() for one, other in itertools.pairwise(game)), "the pole moves"
    assert frames[0][-18:].any(), "a caption"
    for file, seed in (("same.gif", "0"), ("other.gif", "1")):
        assert _command(played, "watch", "--games", "2", "--seed", seed, "--file", str(played / file)).returncode == 0
    written = (paths.logs / "watch.gif").read_bytes()
    assert (played / "same.gif").read_bytes() == written != (played / "other.gif").read_bytes()
    assert not list(paths.buffer.glob("*")), "nothing is recorded"


def test_what_can_not_be_shown_is_named(played: Path) -> None:
    """One line, no traceback, nothing written."""
    for options, word in {
        ("--games", "0"): "--games",
        ("--file", "film.avi"): ".gif",
        ("--model", "77"): "77",
        ("--model", "nothing.npz"): "nothing.npz",
    }.items():
        done = _command(played, "watch", *options)
        assert done.returncode in (1, 2) and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert word in done.stderr and not (played / "a röot" / "logs" / "watch.gif").exists()


def test_a_game_without_pictures_is_named(tmp_path: Path) -> None:
    """Its render() returns no array."""
    (tmp_path / "silent.py").write_text(SILENT_GAME)
    assert _command(tmp_path, "run", "--game", "silent:Silent-v0", "--games", "3", "--quiet").returncode == 0
    done = _command(tmp_path, "watch")
    assert done.returncode == 2 and "renders pictures" in done.stderr and "Traceback" not in done.stderr
