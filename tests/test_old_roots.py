"""Roots that earlier states of this project wrote are read, gone on with and rebuilt (tests/old_roots/README.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from background_training.paths import CHECKOUT
from background_training.settings import RENAMED

pytestmark = pytest.mark.slow  # real processes

ARCHIVES = CHECKOUT / "tests" / "old_roots"
NEWEST_VERSIONS = {"first_loop": 7, "first_shortened": 7, "box": 7, "multi_discrete": 7, "shortened": 7, "lost_ledger": 4}
TRAINED = {"first_loop": 15, "first_shortened": 21, "box": 15, "multi_discrete": 15, "shortened": 21, "lost_ledger": 12}
SUMMED_IN_ANOTHER_ORDER = ("first_loop", "first_shortened")
"""Updates became matrix products on 2026-11-26: the last bits of models from before are others."""
FORGOT_THE_DUPLICATE = ("shortened",)
"""The line of the episode that is delivered again was left out of this ledger (retention.ledger_lines)."""
every_root = pytest.mark.parametrize("name", NEWEST_VERSIONS)


def _unpacked(name: str, root: Path) -> Path:
    """Unpack a root; what waits in its buffer has just come, but for what is to be stale."""
    with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
        for member in archive:
            path, packed = root / member.name, archive.extractfile(member)
            assert packed is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            content = packed.read()
            path.write_bytes(_with_present_names(content) if path.name == "settings.yaml" else content)
            is_fresh = path.parent.name == "buffer" and "stale" not in path.name
            moment = time.time() if is_fresh else member.mtime
            os.utime(path, (moment, moment))
    (root / "data" / "buffer").mkdir(exist_ok=True)  # an archive of files holds no empty folder
    return root


def _with_present_names(config: bytes) -> bytes:
    """The user's configuration as it has to be written since some settings were renamed."""
    sections = yaml.safe_load(config)
    return yaml.safe_dump(
        {name: {RENAMED.get(f"{name}.{key}", key): value for key, value in keys.items()} for name, keys in sections.items()}
    ).encode()


def _run(script: str, root: Path, *arguments: str, exit_codes: tuple[int, ...] = (0,), **settings: str) -> str:
    """Run a script of the checkout with the settings that the root was made with; what it printed, errors included."""
    command = [sys.executable, str(CHECKOUT / script), *arguments, "--root", str(root), "--config", str(root / "settings.yaml")]
    environment = {**os.environ, "LOCAL_TRAINING_GOVERNOR_ENABLED": "false", "PYTHONIOENCODING": "utf-8", **settings}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=300, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode in exit_codes, f"{script} ended with {done.returncode}:\n{printed}"
    return printed


def _model(path: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, np.ndarray]]:
    """A model's arrays as bytes, its manifest, and its policy."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(str(arrays.pop("manifest")))
    policy = {name: arrays[name] for name in ("W1", "b1", "W2", "b2", "W3", "b3")}
    return {name: array.tobytes() for name, array in arrays.items()}, manifest, policy


def _model_file(root: Path) -> Path:
    return root / "models" / "rl_agent_model.npz"


def _version(root: Path) -> int:
    with np.load(_model_file(root)) as file:
        return int(file["version"])


def _ledger(root: Path) -> list[dict[str, Any]]:
    text = (root / "data" / "ledger.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _fingerprint(root: Path) -> str:
    return str(_model(_model_file(root))[1]["numeric_fingerprint"])


def _assert_proved(name: str, root: Path, made_with: str) -> str:
    """Rebuild the model: bit for bit where it was made as here, else the same but for its last bits; what was printed.

    Args:
        made_with: the fingerprint of the machine that wrote the root.
    """
    printed = _run("tools/rebuild_model.py", root, exit_codes=(0, 1))
    present, manifest, policy = _model(_model_file(root))
    rebuilt, rebuilt_manifest, rebuilt_policy = _model(root / "models" / "rebuilt_model.npz")
    if name not in SUMMED_IN_ANOTHER_ORDER and made_with == rebuilt_manifest["numeric_fingerprint"]:
        assert "Identical, bit for bit" in printed
        assert present == rebuilt and manifest == rebuilt_manifest
        return printed
    assert present["version"] == rebuilt["version"]
    assert manifest["episodes_trained"] == rebuilt_manifest["episodes_trained"]
    for key, array in policy.items():
        np.testing.assert_allclose(rebuilt_policy[key], array, atol=1e-4, err_msg=key)
    return printed


@every_root
def test_an_old_model_is_proved_by_its_own_archive(name: str, root: Path) -> None:
    """Nothing of the root but the rebuilt model is changed."""
    before = _model_file(_unpacked(name, root)).read_bytes()

    _assert_proved(name, root, _fingerprint(root))

    assert _model_file(root).read_bytes() == before


@every_root
def test_a_learner_goes_on_with_an_old_root(name: str, root: Path) -> None:
    """Every waiting file meets its fate, versions go on from the old model, and no byte of the old ledger changes."""
    _unpacked(name, root)
    lines, made_with = (root / "data" / "ledger.jsonl").read_bytes(), _fingerprint(root)

    printed = _run("tools/background_parallel_learner.py", root, "--drain", LOCAL_TRAINING_RETENTION_LEDGER_LINES="0")

    assert "again from the archive" not in printed and not list((root / "models").glob("*.broken"))
    assert (root / "data" / "ledger.jsonl").read_bytes().startswith(lines)
    assert os.listdir(root / "data" / "buffer") == []
    forgotten = name in FORGOT_THE_DUPLICATE
    fates = {
        line["name"]: line["fate"] for line in _ledger(root) if line["name"].startswith("wait_") and line["fate"] != "deleted"
    }
    assert fates == {
        **{f"wait_game_{number}.npz": "trained" for number in range(900, 904)},
        "wait_stale.npz": "stale",
        "wait_duplicate.npz": "trained" if forgotten else "duplicate",
        "wait_rejected.npz": "rejected",
    }
    assert _version(root) == NEWEST_VERSIONS[name] + 2  # five files at most, in batches of three
    assert f"{TRAINED[name] + 4 + forgotten} files trained in all" in printed
    proof = _assert_proved(name, root, made_with)
    if name in SUMMED_IN_ANOTHER_ORDER:  # the newest versions were trained here, the ones before were not
        assert "an earlier version was probably trained in another environment, or by an earlier state" in proof


PLAY = """
import sys
import numpy as np
from background_training import RLAgent
for root in sys.argv[1:]:
    agent = RLAgent(root=root, seed=1)
    for step in range(5):
        action = agent.get_action(np.full(4, step / 4))[0]
        agent.update_reward(1.0)
    agent.end_episode(0.0)
    print(agent.model_version, np.shape(action))
"""


def test_agents_play_old_models_and_their_games_are_trained_on(tmp_path: Path) -> None:
    """The old spelling of the import, the action's own shape, the old version number; one game from each is trained."""
    names = ("first_loop", "box", "multi_discrete")
    roots = [_unpacked(name, tmp_path / f"Spiel {name}") for name in names]
    for folder in roots:
        shutil.rmtree(folder / "data" / "buffer")
        (folder / "data" / "buffer").mkdir()

    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PLAY, *map(str, roots)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )

    assert done.stdout.splitlines() == ["7 ()", "7 (1,)", "7 (2,)"], done.stderr
    for folder in roots:
        assert "Version 8: 1 games, 5 steps" in _run("tools/background_parallel_learner.py", folder, "--drain")


@every_root
def test_monitor_doctor_and_history_read_an_old_root(name: str, root: Path) -> None:
    """Counts, version and the fate of single files are those of then; the doctor finds nothing that was not wrong then."""
    _unpacked(name, root)
    version = NEWEST_VERSIONS[name]

    shown = _run("tools/monitor_background_training.py", root, "--once")
    found = _run("tools/doctor.py", root, exit_codes=(0, 1))
    told = _run("tools/explain_episode.py", root, "game_003.npz", "wait_game_900.npz", exit_codes=(0, 1))

    assert f"Version:      {version}\n" in shown
    assert f"Files Processed:      {TRAINED[name]} " in shown
    assert f"Episodes: 7 waiting, {TRAINED[name]} trained" in found and f"Model:    version {version}\n" in found
    titles = {line for line in found.splitlines() if line.startswith("[")}
    assert titles <= {"[no-learner]", "[many-rejected]", "[games-that-do-not-say]"}
    assert "wait_game_900.npz: waits in the buffer" in told
    fate = "no such file in the ledger (older entries were removed" if name == "shortened" else "trained in "
    assert f"game_003.npz: {fate}" in told


@every_root
def test_an_old_version_is_published_again(name: str, root: Path) -> None:
    """A version of the old history is gone back to, and training goes on from it."""
    _unpacked(name, root)
    saved = sorted((root / "models" / "history").glob("rl_agent_model_v*.npz"))[-1]
    version, newest = int(saved.stem[-9:]), NEWEST_VERSIONS[name]

    _run("tools/rollback_model.py", root, str(version))

    assert _version(root) == newest + 1
    assert {key: _model(saved)[2][key].tobytes() for key in ("W1", "W3")} == {
        key: _model(_model_file(root))[2][key].tobytes() for key in ("W1", "W3")
    }
    printed = _run("tools/background_parallel_learner.py", root, "--drain")
    assert f"Version {newest + 2}: 3 games" in printed
    present, _, _ = _model(_model_file(root))
    _run("tools/rebuild_model.py", root)  # all since the rollback was trained here: bit for bit, whatever wrote the base
    assert present == _model(root / "models" / "rebuilt_model.npz")[0]


def test_a_shortened_ledger_is_shortened_further(root: Path) -> None:
    """With the retention of then, old lines are summed up, no count is lost, and the model is still proved."""
    made_with = _fingerprint(_unpacked("shortened", root))

    _run("tools/background_parallel_learner.py", root, "--drain")

    first, *others = _ledger(root)
    assert first["fate"] == "checkpoint"
    fates = [line["fate"] for line in others]
    assert first["counts"]["trained"] + fates.count("trained") == TRAINED["shortened"] + 5
    _assert_proved("shortened", root, made_with)


def test_a_run_that_an_earlier_state_began_is_resumed(root: Path) -> None:
    """The eight games of then stay as they are, six more are played with the seeds of the plan, and nothing is trained twice."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    log = _unpacked("broken_run", root) / "logs" / "games.csv"
    before, made_with = log.read_bytes(), _fingerprint(root)

    _run("run_with_training.py", root, "--resume", "--quiet")
    _run("tools/background_parallel_learner.py", root, "--drain")

    assert log.read_bytes().startswith(before)
    games = [line.split(",") for line in log.read_text(encoding="utf-8").splitlines()[1:]]
    assert [game[:2] for game in games] == [[str(number), str(3000009 + number)] for number in range(1, 15)]
    ids = [line["episode_id"] for line in _ledger(root) if line["fate"] == "trained"]
    assert len(ids) == len(set(ids)) == 14
    assert not (root / "logs" / "run.json").exists()
    _assert_proved("broken_run", root, made_with)
