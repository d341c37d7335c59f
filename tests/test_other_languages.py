"""The games in examples/other_languages write episodes that are trained on, play the model as RLAgent does, and get better."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS

from background_training.algo import policy
from background_training.algo.policy import Network
from background_training.episodes import episode_file
from background_training.paths import CHECKOUT, Paths
from background_training.settings import LearningSettings, LimitSettings
from background_training.storage import model_store
from background_training.storage.model_store import POLICY_KEYS

EXAMPLES = CHECKOUT / "examples" / "other_languages"
GERMAN = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}
"""A locale with a decimal comma. Java takes its encoding of paths from it as well, so there it must be one that is installed."""

GERMAN_JAVA = ["-Duser.language=de", "-Duser.country=DE"]

GAMES = 50

AS_USUAL: dict[str, Any] = {
    "batch_size": GAMES,
    "learning": {"hidden_size": LearningSettings().hidden_size, "n_epochs": LearningSettings().n_epochs},
}
"""The learning that users have, unlike the tests that need only some model."""


def run(command: list[str], text: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCAL_TRAINING")}
    environment |= GERMAN
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def player(language: str, folder: Path) -> list[str]:
    """Compile the game of a language, if it is compiled, and return the command that runs it."""
    if language == "javascript":
        needed("node")
        return ["node", str(EXAMPLES / "coins.js")]
    if language == "java":
        needed("javac", "java")
        run(["javac", "-d", str(folder), str(EXAMPLES / "Coins.java")])
        return ["env", "LC_ALL=C.UTF-8", "java", *GERMAN_JAVA, "-XX:TieredStopAtLevel=1", "-cp", str(folder), "Coins"]
    if language == "csharp":
        needed("mcs", "mono")
        run(["mcs", "-r:System.IO.Compression.dll", f"-out:{folder / 'Coins.exe'}", str(EXAMPLES / "Coins.cs")])
        return ["mono", str(folder / "Coins.exe")]
    needed("g++")
    run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", str(EXAMPLES / "coins.cpp"), "-o", str(folder / "coins")])
    return [str(folder / "coins")]


def mean_and_version(said: str) -> tuple[float, int]:
    found = re.fullmatch(r"games \d+  mean return (-?\d+\.\d\d)  model (\d+)", said.strip())
    assert found is not None, said
    return float(found[1]), int(found[2])


def hex_dump() -> bytes:
    """The bytes that the page about the format shows."""
    page = (CHECKOUT / "docs" / "reference" / "episode-format.md").read_text("utf-8")
    dump = page.partition("```text\n000  50 4b 03 04")[2].partition("```")[0]
    rows = ["000  50 4b 03 04" + dump.splitlines()[0], *dump.splitlines()[1:]]
    return b"".join(bytes.fromhex(row[5:52]) for row in rows)


def by_the_page() -> bytes:
    """The example of the page, made by its tables with nothing but integers of fixed width."""
    arrays = [
        ("states", "<f4", "(2, 1)", struct.pack("<2f", 0.5, -1.0)),
        ("actions", "<i4", "(2,)", struct.pack("<2i", 1, 0)),
        ("rewards", "<f4", "(2,)", struct.pack("<2f", 0.0, 1.0)),
    ]
    members, directory = b"", b""
    for name, descr, shape, data in arrays:
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
        body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
        file = f"{name}.npy".encode()
        shared = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(body), len(body), len(body), len(file), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + shared + struct.pack("<HHHII", 0, 0, 0, 0, len(members)) + file
        members += b"PK\x03\x04" + shared + file + body
    return members + directory + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 3, 3, len(directory), len(members), 0)


def assert_probabilities_are_ours(command: list[str], model: Path) -> None:
    """The program's probabilities for 20 states with masks are those of RLAgent's policy."""
    rng = np.random.default_rng(1)
    states, masks = rng.normal(size=(20, 4)).astype(np.float32), rng.random((20, 4)) < 0.6
    masks[np.arange(20), rng.integers(0, 4, 20)] = True
    rows = zip(states.tolist(), masks.astype(int).tolist(), strict=True)
    lines = "".join(" ".join(map(str, [*state, *mask])) + "\n" for state, mask in rows)
    with np.load(model) as arrays:
        network = Network(*(arrays[key] for key in POLICY_KEYS))
    found = np.array([row.split() for row in run([*command, "--probabilities", str(model)], lines).splitlines()], float)
    np.testing.assert_allclose(found, policy.probabilities(network, states, masks), atol=1e-5)
    assert (found[~masks] == 0).all() and np.ptp(found) > 0.5


def test_the_bytes_on_the_page_are_an_episode() -> None:
    """The hex dump is what the tables beside it say, NumPy reads it, and the learner's reader accepts it."""
    data = hex_dump()
    assert data == by_the_page()
    with np.load(io.BytesIO(data)) as arrays:
        assert arrays["states"].tolist() == [[0.5], [-1.0]] and arrays["actions"].tolist() == [1, 0]
    assert episode_file.read(data, LimitSettings()).rewards.tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_a_javascript_game_gets_better_beside_a_running_learner(root: Path, tmp_path: Path) -> None:
    """The game waits for the learner by itself, picks up its models between games, and its last 50 games are better."""
    command = player("javascript", tmp_path)
    with learner_runs.learner(root, **AS_USUAL):
        said = run([*command, str(root), str(6 * GAMES)])
    rounds = [mean_and_version(line) for line in said.splitlines()]

    assert len(rounds) == 6 and rounds[-1][1] >= 2, said
    assert rounds[-1][0] > rounds[0][0] + 0.7, said


@pytest.mark.slow
@pytest.mark.parametrize("language", ["javascript", "java", "csharp", "cpp"])
def test_a_game_in_another_language_learns_and_plays_as_rlagent_would(language: str, root: Path, tmp_path: Path) -> None:
    """Every file is trained on, in a locale with a decimal comma; the return rises; the probabilities are RLAgent's."""
    command = player(language, tmp_path)
    rounds = []
    for _ in range(4):
        rounds.append(mean_and_version(run([*command, str(root), str(GAMES)])))
        learner_runs.drain(root, **AS_USUAL)

    assert [version for _, version in rounds] == [0, 1, 2, 3]
    assert rounds[-1][0] > rounds[0][0] + 0.7, rounds
    paths = Paths(root)
    assert not os.listdir(paths.buffer) and not list(paths.archive.glob("rejected/*"))
    files = sorted(paths.archive.glob("*.npz"))
    assert len(files) == 4 * GAMES
    with np.load(files[0]) as arrays:
        assert len(arrays.files) == 10, arrays.files
        meta = json.loads(str(arrays["meta"]))
        assert abs(meta["score"] - arrays["rewards"].sum()) < 0.01
        assert not arrays["terminated"] and arrays["final_state"].shape == (4,)
    manifest = model_store.read(paths.model).manifest
    assert manifest["action_names"] == ["left", "right", "up", "down"]
    assert manifest["state_names"] == ["x", "y", "coin_x", "coin_y"]

    assert_probabilities_are_ours(command, paths.model)
    deflated = tmp_path / "deflated.npz"
    with np.load(paths.model) as arrays:
        np.savez_compressed(deflated, **arrays)
    assert_probabilities_are_ours(command, deflated)
