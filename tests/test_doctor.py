"""The doctor names the mistakes that lie in a root: each is really made here, in a root that was healthy before."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from background_training.commands import doctor
from background_training.doctor import examination, records
from background_training.paths import CHECKOUT, Paths
from background_training.storage import atomic_files, model_store
from tests import commands, doctor_roots, learner_runs
from tests.doctor_roots import drop, found, look


@pytest.fixture(scope="session")
def healthy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve games trained on by a real learner, one version each; only ever copied."""
    root = tmp_path_factory.mktemp("healthy") / "some Wörk"
    root.mkdir()
    doctor_roots.play(root)
    return root


@pytest.fixture
def played(healthy_root: Path, root: Path) -> Paths:
    """A copy of the healthy root, the times of its files kept."""
    shutil.copytree(healthy_root, root, dirs_exist_ok=True)
    return Paths(root)


def _drain(paths: Paths, **learner: Any) -> None:
    learner_runs.drain(paths.root, **learner)


def _only(paths: Paths, name: str, *flags: str) -> str:
    """The words of the one finding there is."""
    findings = found(paths.root, *flags)
    assert list(findings) == [name]
    return findings[name]


def test_nothing_is_found_in_a_healthy_root(played):
    """No check cries wolf."""
    assert found(played.root) == {}


def test_nothing_is_changed(played):
    """Every file, name and time is as it was, but for the time of data/, where it tried how fast the disk is."""

    def everything() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in played.root.rglob("*") if path != played.data
        }

    before = everything()
    found(played.root)
    assert everything() == before


def test_the_command_tells_by_its_exit_code(played):
    """0 for a healthy root; 1 with cause and cure for another; 2 for a wrong flag; and the same as JSON."""
    assert "Nothing wrong was found" in commands.run_tool("doctor.py", played.root)
    (played.buffer / "game.npy").write_bytes(b"x")
    printed = commands.run_tool("doctor.py", played.root, exit_code=1)
    assert "[foreign-names]" in printed and "Cause:" in printed and "Cure:" in printed and "game.npy" in printed
    told = json.loads(commands.run_tool("doctor.py", played.root, "--json", exit_code=1))
    assert not told["healthy"] and told["findings"][0]["check"] == "foreign-names"
    commands.run_tool("doctor.py", played.root, "--no-such-flag", exit_code=2)


def test_every_check_has_a_test():
    """A check that no test has seen find something may never find anything."""
    tests = "".join((CHECKOUT / "tests" / f"test_doctor{part}.py").read_text("utf-8") for part in ("", "_machine"))
    names = [examination.name_of(check) for check in examination.CHECKS]
    assert [name for name in names if f'"{name}"' not in tests] == []
    assert len(names) == len(set(names)) >= 20


def test_the_page_names_every_check():
    """docs/reference/doctor-checks.md lists all checks, and nothing else."""
    section = (CHECKOUT / "docs" / "reference" / "doctor-checks.md").read_text("utf-8")
    listed = set(re.findall(r"`([a-z-]+)`", section.partition("| what |")[2].partition("\n\n")[0]))
    assert listed == {*(examination.name_of(check) for check in examination.CHECKS), *doctor.EARLY_CHECKS}


def test_a_root_that_is_not_there(root):
    """Nobody has ever been here."""
    assert "does not exist" in found(root / "no such folder")["nothing-here"]


def test_the_buffer_named_instead_of_the_root(played):
    """--root data, or --root data/buffer: the cure names the root."""
    for part in (played.data, played.buffer):
        assert f'--root "{played.root}"' in found(part)["part-of-a-root"]


def test_episodes_in_the_root_next_door(played, tmp_path, monkeypatch):
    """The bot writes here, the learner looks there."""
    monkeypatch.chdir(played.root)
    empty = Paths(tmp_path / "empty")
    empty.buffer.mkdir(parents=True)
    assert str(played.root) in found(empty.root)["episodes-in-another-root"]


@pytest.mark.parametrize("where", ["data", ".", "data/buffer/data/buffer", "buffer", "data/buffer/today"])
def test_episodes_beside_the_buffer(played, where):
    """In data/, in the root, in a buffer inside the buffer, in a folder of the buffer."""
    folder = played.root / where
    folder.mkdir(parents=True, exist_ok=True)
    drop(folder, "lost.npz", 1)
    assert f"{folder} (1 file)" in _only(played, "episodes-elsewhere")


def test_other_programs_npz_files_are_no_episodes(played):
    """Who keeps a data set in the root has not lost an episode."""
    np.savez(played.root / "features.npz", table=np.zeros(3))
    assert found(played.root) == {}


def test_names_that_nobody_takes(played):
    """Saved with numpy.save, or as JSON."""
    (played.buffer / "game_1.npy").write_bytes(b"x")
    (played.buffer / "game_2.json").write_bytes(b"{}")
    assert "2 files" in _only(played, "foreign-names")


@pytest.mark.leaves_partials
@pytest.mark.parametrize("name", ["game.npz.part", ".game.npz.part", ".game.npz"])
def test_files_that_were_never_finished(played, name):
    """A writer that dies, or forgets to rename. One that is at work at this moment is none."""
    path = played.buffer / name
    path.write_bytes(b"half an episode")
    assert found(played.root) == {}
    moment = path.stat().st_mtime - 120
    os.utime(path, (moment, moment))
    assert name in _only(played, "unfinished-files")


def test_episodes_from_the_future(played):
    """Written by a machine whose clock is ahead."""
    drop(played.buffer, "tomorrow.npz", 99, 12, age_seconds=-90_000)
    assert "1d 0h" in _only(played, "files-from-the-future")


def test_a_clock_that_is_behind(played):
    """The newest model was written tomorrow."""
    moment = played.model.stat().st_mtime + 86_400
    os.utime(played.model, (moment, moment))
    assert str(played.model) in _only(played, "clock-behind")


def test_episodes_that_nobody_trains_on(played):
    """No learner runs; a file of this moment may still be the last of a game that has ended."""
    drop(played.buffer, "new.npz", 99, 12)
    assert found(played.root) == {}
    drop(played.buffer, "old.npz", 98, 12, age_seconds=300)
    assert "2 episodes waiting, the oldest for 5m" in _only(played, "no-learner")


def test_states_of_another_width(played):
    """Told while they wait, and once they were rejected."""
    drop(played.buffer, "wide.npz", 50, 12, states=np.zeros((30, 5), np.float32))
    assert "states of 5 numbers, the model takes 2" in _only(played, "wrong-width")
    _drain(played)
    assert "a state holds 5 numbers" in _only(played, "wrong-width")


def test_actions_that_the_model_does_not_know(played):
    """Counted from 1, say."""
    drop(played.buffer, "far.npz", 50, 12, actions=np.full(30, 2), meta=None)
    assert "an action 2; the model chooses actions 0 to 1" in _only(played, "actions-outside")
    _drain(played)
    assert "an action 2" in _only(played, "actions-outside")


def test_numbers_that_are_none(played):
    """NaN in the rewards."""
    drop(played.buffer, "nan.npz", 50, 12, rewards=np.full(30, np.nan, np.float32))
    assert "30 values that are NaN" in _only(played, "not-finite")
    _drain(played)
    assert "30 values that are NaN" in _only(played, "not-finite")


def test_many_rejected_files(played):
    """The most frequent reason is named, with a cure of its own: while they wait for a learner, and once it has rejected them."""
    (played.buffer / "being_written.npz").touch()
    assert found(played.root) == {}
    (played.buffer / "being_written.npz").unlink()
    for number in range(4):
        (played.buffer / f"text{number}.npz").write_bytes(b"state 1, action 2")
    drop(played.buffer, "no_rewards.npz", 50, 12, rewards=None)
    words = _only(played, "many-rejected")
    assert "5 of the 5 newest waiting files" in words and "4 of them as 'not-a-zip'" in words and "numpy.savez" in words
    _drain(played)
    words = _only(played, "many-rejected")
    assert "5 of the last 17" in words and "4 of them as 'not-a-zip'" in words and "numpy.savez" in words


def test_a_single_bad_file_among_many_is_a_note(played):
    """It is named as one that will be rejected, though it is no fault of the setup."""
    for number in range(10):
        drop(played.buffer, f"sound{number}.npz", 50 + number, 12)
    (played.buffer / "x_broken.npz").write_bytes(b"no episode")
    facts = look(played.root)
    assert examination.examine(facts) == []
    assert "1 of the 11 newest waiting files will be rejected, such as x_" in dict(examination.notes(facts))["Unusable"]


def test_a_file_where_a_folder_has_to_be(played):
    """Made by a script that wrote to the folder before it was there."""
    played.buffer.rmdir()
    played.buffer.touch()
    assert f"{played.buffer} is not a folder" in _only(played, "not-writable")


def test_cures_are_for_reasons_that_exist():
    """Every short word with a cure is one that a file can be rejected for."""
    sources = "".join(
        path.read_text("utf-8") for path in (CHECKOUT / "src" / "background_training").rglob("*.py") if "doctor" not in path.parts
    )
    assert [code for code in records._CURES if f'"{code}"' not in sources] == []


def test_files_that_come_too_late(played):
    """Copied from another day: why, and how they can be trained on all the same."""
    for number in range(13):
        drop(played.buffer, f"old{number}.npz", 100 + number, 12, age_seconds=86_400)
    _drain(played, max_file_age=3600.0)
    words = _only(played, "mostly-stale")
    assert "13 of the last 25 files were stale" in words and "--max-file-age 0" in words


def test_games_of_versions_long_ago(played):
    """Stale by version is another mistake than stale by age."""
    for number in range(13):
        drop(played.buffer, f"old{number}.npz", 100 + number, 1)
    _drain(played, max_version_lag=5)
    assert "agent.refresh()" in _only(played, "mostly-stale")


def test_files_delivered_again(played):
    """The same bytes under other names."""
    for number in range(13):
        shutil.copy(played.archive / "g001.npz", played.buffer / f"again{number}.npz")
    _drain(played)
    assert "13 of the last 25 files were duplicates" in _only(played, "mostly-duplicates")


TRAPS: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "constant-rewards": lambda rng: {"rewards": np.zeros(30, np.float32)},
    "unscaled-states": lambda rng: {"states": rng.uniform(0, 9000, (30, 2)).astype(np.float32)},
    "collapsed-policy": lambda rng: {"actions": np.ones(30, np.int64)},
}


@pytest.mark.parametrize("name", TRAPS)
def test_games_in_a_trap(root, name):
    """Rewards of zero, states of thousands, one action: told of games that were trained on."""
    rng = np.random.default_rng(0)
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(exist_ok=True)
    for number in range(12):
        drop(paths.buffer, f"g{number:03d}.npz", number, number, **TRAPS[name](rng))
    _drain(paths, batch_size=1)
    _only(paths, name)


def test_rewards_moved_by_a_step(root):
    """What a bot gets that calls update_reward one action too late."""
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(exist_ok=True)
    for number in range(12):
        rewards = doctor_roots.game(number)["rewards"]
        drop(paths.buffer, f"g{number:03d}.npz", number, number, rewards=np.roll(rewards, 1))
    _drain(paths, batch_size=1)
    assert "the action before theirs" in _only(paths, "shifted-rewards")


def test_the_same_game_again_and_again(root):
    """One seed for all games; an id of its own keeps each from being called a duplicate."""
    paths = Paths(root)
    for folder in paths.folders:
        folder.mkdir(exist_ok=True)
    for number in range(12):
        drop(paths.buffer, f"g{number:03d}.npz", 7, number, episode_id=np.array(f"id {number}"))
    _drain(paths, batch_size=1)
    assert "12 of the last 12 games are the same" in _only(paths, "identical-games")


@pytest.mark.parametrize(("version", "words"), [(0, "without a model"), (2, "by version 2")])
def test_games_that_play_without_the_model(played, version, words):
    """The version that plays never advances."""
    for number in range(60):
        drop(played.buffer, f"h{number:03d}.npz", 200 + number, version)
    _drain(played, batch_size=1)
    assert words in _only(played, "games-without-the-model")


def test_games_that_do_not_say_what_played(root):
    """Neither a version nor log-probabilities."""
    paths = doctor_roots.play(root, log_probs=None, policy_version=None)
    assert "policy_version and log_probs" in _only(paths, "games-that-do-not-say")


def test_a_damaged_ledger(played):
    """A line in the middle is gone bad."""
    lines = played.ledger.read_bytes().splitlines(keepends=True)
    played.ledger.write_bytes(b"".join([lines[0], b"{zeros}\n", *lines[2:]]))
    assert "line 2 is damaged" in found(played.root)["ledger-damaged"]


def test_a_model_that_can_not_be_read(played):
    """Cut in half."""
    played.model.write_bytes(played.model.read_bytes()[:2000])
    assert "models/history" in found(played.root)["model-unreadable"]


def test_a_model_that_is_gone(played):
    """Deleted by hand; it can be trained again."""
    played.model.unlink()
    assert "trains all of them again" in _only(played, "model-lost")


def test_a_model_of_another_root(played, tmp_path):
    """Copied over from elsewhere, while the ledger stayed."""
    other = doctor_roots.play(tmp_path / "other", first=500) if (tmp_path / "other").mkdir() is None else None
    assert other is not None
    shutil.copy(other.model, played.model)
    assert "different histories" in _only(played, "another-history")


def test_a_model_that_was_put_there_and_one_rolled_back_are_none(played):
    """A base begins a history; nothing is wrong with it."""
    commands.run_tool("rollback_model.py", played.root, "10")
    assert found(played.root) == {}
    drop(played.buffer, "next.npz", 300, 13)
    _drain(played)
    assert found(played.root) == {}


def test_an_archive_that_somebody_has_tidied_up(played):
    """Trained episodes that are gone, and no deletion recorded."""
    for name in ("g003.npz", "g005.npz"):
        (played.archive / name).unlink()
    assert "2 episodes" in _only(played, "gone-from-the-archive")


def test_what_retention_deletes_is_not_missed(played):
    """Deleted by the learner itself, as the settings ask for."""
    settings = learner_runs.settings(played.root, learning={"replay_episodes": 0}, history_size=1)
    bounded = settings.with_values("test", retention={"archive_files": 2})
    learner_runs.drains.drain(bounded, lambda event, **facts: None)
    assert len(list(played.archive.glob("*.npz"))) < 12
    assert found(played.root) == {}


def test_weights_that_are_no_numbers(played):
    """Written by a trainer of somebody's own: of what games read, the model is refused; of the rest, the arrays are named."""
    doctor_roots.rewrite_model(played, actor_weights=np.full(10, np.nan, np.float32))
    assert "actor_weights" in _only(played, "model-not-finite")
    doctor_roots.rewrite_model(played, W1=np.full((2, 8), np.nan, np.float32))
    assert "model-unreadable" in found(played.root)


def test_an_update_that_was_refused(played):
    """Weights beyond all measure, from a trainer of somebody's own: the next update would be NaN, is thrown away, and told."""
    weights = model_store.read(played.model).arrays["critic_weights"]
    doctor_roots.rewrite_model(played, critic_weights=np.full_like(weights, 3e38))
    drop(played.buffer, "next.npz", 400, 12)
    _drain(played)
    assert "infinite or NaN" in _only(played, "loss-not-finite")


def test_old_python_is_told_before_anything_is_loaded():
    """With the numbers of an old Python, the command still runs, and loads none of what that could not read."""
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 1); sys.argv = ['doctor.py', '--json']\n"
        f"runpy.run_path({str(CHECKOUT / 'tools' / 'doctor.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["findings"][0]["check"] == "old-python"


def test_packages_that_are_missing_or_old(monkeypatch):
    """A virtual environment that nothing was installed into; and a NumPy of long ago."""
    monkeypatch.setitem(sys.modules, "watchdog", None)
    monkeypatch.setattr(doctor, "installed_version", lambda package: (1, 19) if package == "numpy" else None)
    assert [(one.check, one.cause.split()[0]) for one in doctor.early_findings()] == [
        ("old-package", "numpy"),
        ("missing-package", "the"),
    ]


def test_oldest_versions_are_those_of_the_project():
    """The doctor asks for what pyproject.toml asks for."""
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    for package, (_, version) in doctor.CORE_PACKAGES.items():
        assert f'"{package}>={version[0]}.{version[1]}"' in project
    assert f'requires-python = ">={doctor.OLDEST_PYTHON[0]}.{doctor.OLDEST_PYTHON[1]}"' in project


def test_names_are_shown_and_never_obeyed(played):
    """A file name with an escape code stands in the report as its letters."""
    name = "x\x1b[2J\n.npy"
    try:
        (played.buffer / name).write_bytes(b"x")
    except OSError:
        pytest.skip("this disk knows no such names")
    assert "\x1b" not in commands.run_tool("doctor.py", played.root, exit_code=1)
    assert not atomic_files.exists(played.data / name)
