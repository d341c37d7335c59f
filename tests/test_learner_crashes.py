"""Killed, failed or cut off at any step: the next start reaches the same model, ledger and archive, bit for bit."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import episodes
import faulty_disk
import learner_runs
import pytest
from faulty_disk import Step

from background_training.errors import ModelMissingError
from background_training.paths import Paths
from background_training.records import metrics
from background_training.storage import model_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

EVERYTHING = bool(os.environ.get("CRASH_EVERYWHERE"))
"""Whether to go through all cases rather than a sample of them; minutes instead of seconds."""

NAMED_STEPS = (
    "create ledger",
    "flush ledger",
    "write ledger",
    "create partial model",
    "write partial model",
    "flush partial model",
    "replace model",
    "create partial history",
    "write partial history",
    "flush partial history",
    "replace history",
    "unlink history",
    "create partial reason",
    "write partial reason",
    "flush partial reason",
    "replace reason",
    "link archived file",
    "link file aside",
    "mkdir file aside",
    "rename leaving file",
    "unlink leaving file",
    "rmdir waiting file",
    "flush folder",
    "create log",
    "write log",
    "create status",
    "write status",
    "replace status",
    "mkdir folder",
)
"""All that the learner does to a root while it drains, from the first start on."""


def _seed(folder: Path) -> Path:
    """A root in which everything waits that can happen: good, broken, stale by version, twice there, oddly named."""
    buffer = Paths(folder).buffer
    buffer.mkdir(parents=True)
    for number in range(7):
        episodes.write(buffer, f"game_{number}.npz", seed=number, steps=5)
    episodes.write(buffer, "game_7 odd.npz", seed=7, steps=5)
    (buffer / "game_1_again.npz").write_bytes((buffer / "game_1.npz").read_bytes())
    (buffer / "game_2_cut.npz").write_bytes((buffer / "game_2.npz").read_bytes()[:-50])
    (buffer / "game_3_folder.npz").mkdir()
    (buffer / "game_4_link.npz").symlink_to("nowhere")
    episodes.write(buffer, "game_6_wide.npz", seed=8, width=9)
    return folder


def _drain(root: Path) -> None:
    learner_runs.drain(root, batch_size=2, history_size=1, history_every=2)


@pytest.fixture(autouse=True)
def flushes_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it has handed to the system; what a power cut loses is simulated."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _seed(tmp_path_factory.mktemp("seed") / "root")


Undisturbed = tuple[dict[str, str], list[Step]]


def _undisturbed(seed: Path, root: Path) -> Undisturbed:
    """What an undisturbed drain leaves behind, and the steps it takes."""
    shutil.copytree(seed, root, symlinks=True)
    steps = faulty_disk.recorded(root, lambda: _drain(root))
    return learner_runs.picture(Paths(root)), steps


@pytest.fixture(scope="module")
def undisturbed(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return _undisturbed(seed, tmp_path_factory.mktemp("undisturbed") / "root")


def _copy(seed: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(seed, root, symlinks=True)
    return root


def _assert_same_after_restart(root: Path, picture: dict[str, str], told: str) -> None:
    _drain(root)
    found = learner_runs.picture(Paths(root))
    differences = {path for path in picture.keys() | found.keys() if picture.get(path) != found.get(path)}
    assert not differences, f"{told}: {sorted(differences)} differ"
    # Only a record of what was, and no part of the commit; but whole, it is promised to be.
    recorded, trained = metrics.read(Paths(root)), [version for _, version in learner_runs.trained(Paths(root))]
    assert recorded.games["version"].tolist() == trained, told
    assert recorded.batches["version"].tolist() == sorted(set(trained)), told


def _assert_model_whole_or_missing(root: Path, told: str) -> None:
    try:
        model_store.read(Paths(root).model)
    except ModelMissingError:
        return
    except ValueError as error:
        pytest.fail(f"{told}: a reader would meet {error}")


def _sample(numbers: list[int], count: int, salt: int) -> list[int]:
    return numbers if EVERYTHING or len(numbers) <= count else sorted(random.Random(salt).sample(numbers, count))


def test_the_named_steps_are_all_there_are(undisturbed: Undisturbed) -> None:
    """A step that is added to the protocol must be added to these tests."""
    assert {step.name for step in undisturbed[1]} == set(NAMED_STEPS)


@pytest.mark.parametrize("name", NAMED_STEPS)
def test_killed_at_a_named_step(name: str, seed: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Killed before the first and before the last such step, or in the middle of it: a restart makes up for it."""
    picture, steps = undisturbed
    numbers = [number for number, step in enumerate(steps) if step.name == name]
    for number in sorted({numbers[0], numbers[-1]}):
        for torn in (False, True) if steps[number].op == "write" else (False,):
            told = f"killed at step {number}, {name} ({steps[number].path}){', torn' if torn else ''}"
            root = _copy(seed, tmp_path)
            assert faulty_disk.dying(root, lambda root=root: _drain(root), number, torn=torn) == -9, told  # type: ignore[misc]
            _assert_model_whole_or_missing(root, told)
            _assert_same_after_restart(root, picture, told)


def test_killed_before_the_first_commit_when_another_games_episodes_are_among_the_first(tmp_path: Path) -> None:
    """What does not fit a new model takes its place in the first batch all the same, so that a kill changes nothing."""
    seed = tmp_path / "seed"
    buffer = Paths(seed).buffer
    buffer.mkdir(parents=True)
    for number in range(4):
        episodes.write(buffer, f"game_{number}.npz", seed=number, steps=5, width=9 if number == 1 else episodes.WIDTH)
    (buffer / "game_1_again.npz").write_bytes((buffer / "game_1.npz").read_bytes())
    (buffer / "game_1_broken.npz").write_bytes(b"no archive")
    drain = lambda root: learner_runs.drain(root, batch_size=3)  # noqa: E731
    undisturbed = _copy(seed, tmp_path / "undisturbed")
    steps = faulty_disk.recorded(undisturbed, lambda: drain(undisturbed))
    commit = next(number for number, step in enumerate(steps) if step.name == "replace model")
    asides = [number for number, step in enumerate(steps) if step.name in ("write ledger", "replace reason", "link file aside")]
    for number in sorted({commit, commit + 1, *(number for number in asides if number < commit)}):
        root = _copy(seed, tmp_path)
        assert faulty_disk.dying(root, lambda root=root: drain(root), number) == -9  # type: ignore[misc]
        drain(root)
        assert learner_runs.picture(Paths(root)) == learner_runs.picture(Paths(undisturbed)), steps[number]

    assert [name for name, _ in learner_runs.trained(Paths(root))] == ["game_0.npz", "game_2.npz", "game_3.npz"]
    assert episodes.fates(Paths(root))["rejected"] == ["game_1.npz", "game_1_again.npz", "game_1_broken.npz"]


@pytest.mark.slow
def test_killed_anywhere_and_killed_again_in_the_recovery(seed: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The recovery may be killed as well, at any of its steps; the one after it still reaches the same bits."""
    picture, steps = undisturbed
    rng = random.Random(1)
    for number in _sample(list(range(len(steps))), 25, salt=2):
        root = _copy(seed, tmp_path)
        again = rng.randrange(0, len(steps) - number + 10)
        told = f"killed at step {number} ({steps[number].name}), then at step {again} of the recovery"
        assert faulty_disk.dying(root, lambda root=root: _drain(root), number, torn=rng.random() < 0.5) == -9  # type: ignore[misc]
        code = faulty_disk.dying(root, lambda root=root: _drain(root), again)  # type: ignore[misc]
        assert code in (-9, 0), told
        _assert_model_whole_or_missing(root, told)
        _assert_same_after_restart(root, picture, told)


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_a_change_that_fails(error_number: int, seed: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Whichever change fails, the drain ends with the code for it, or it was a log's; a run later all is as it should be."""
    picture, steps = undisturbed
    for number in _sample(list(range(len(steps))), 12, salt=error_number):
        root = _copy(seed, tmp_path)
        told = f"step {number}, {steps[number].name}, failed"
        code = faulty_disk.failing(root, lambda root=root: _drain(root), number, error_number)  # type: ignore[misc]
        for_people_only = steps[number].path.startswith("logs/")
        assert code == (0 if for_people_only else 5) or steps[number].op in ("link", "unlink"), f"{told}: exit code {code}"
        _assert_model_whole_or_missing(root, told)
        _assert_same_after_restart(root, picture, told)


@pytest.fixture(scope="module")
def files_only(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Undisturbed]:
    """A seed without folders and links in the buffer, its skeleton on the disk, and what is made of it."""
    folder = tmp_path_factory.mktemp("files") / "seed"
    shutil.copytree(seed, folder, symlinks=True)
    Paths(folder).buffer.joinpath("game_3_folder.npz").rmdir()
    Paths(folder).buffer.joinpath("game_4_link.npz").unlink()
    for made in Paths(folder).folders:
        made.mkdir(exist_ok=True)
    return folder, _undisturbed(folder, folder.with_name("root"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", faulty_disk.POWER_CUT_MODES)
def test_a_power_cut(mode: str, files_only: tuple[Path, Undisturbed], tmp_path: Path) -> None:
    """Whatever was not flushed may be lost, with or without its name: what was promised is there, and nothing comes twice."""
    seed, (picture, steps) = files_only
    records = [step for step in steps if not step.path.startswith("logs")]
    for count in _sample(list(range(len(records) + 1)), 16, salt=len(mode)):
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        faulty_disk.after_power_cut(seed, records[:count], mode, random.Random(count), root)
        last = records[count - 1].name if count else "nothing"
        told = f"power cut after {count} steps, the last one {last}, {mode}"
        _assert_model_whole_or_missing(root, told)
        _assert_same_after_restart(root, picture, told)
