"""Model, ledger or both are not what they were: the start mends what can be mended, and refuses with the way out what can't."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.episodes import episode
from background_training.errors import LedgerError
from background_training.ipc.process_limits import BLAS_THREAD_VARIABLES
from background_training.learner import drain as drains
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.storage import model_store, npz
from tests.commands import run_tool

GAMES = 5


def _drain(paths: Paths, **learner: Any) -> list[str]:
    """Drain with a batch a game; what was said by the way."""
    warnings: list[str] = []

    def tell(event: str, **facts: Any) -> None:
        if event == "warning":
            warnings.append(facts["sentence"])

    drains.drain(learner_runs.settings(paths.root, batch_size=1, **learner), tell)
    return warnings


@pytest.fixture
def played(paths: Paths) -> Paths:
    """A root in which five versions were trained; the history holds the versions 2 and 4."""
    for number in range(GAMES):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    assert _drain(paths) == []
    assert model_store.history_versions(paths) == [2, 4]
    return paths


def _other_root(folder: Path, games: int) -> Paths:
    """A root of its own with another history."""
    other = Paths(folder)
    other.buffer.mkdir(parents=True)
    for number in range(games):
        episodes.write(other.buffer, f"other_{number}.npz", seed=100 + number)
    _drain(other)
    return other


def _one_more(paths: Paths) -> None:
    """The next game is trained as if nothing had happened."""
    before = len(learner_runs.trained(paths))
    episodes.write(paths.buffer, "one_more.npz", seed=77)
    assert _drain(paths) == []
    assert len(learner_runs.trained(paths)) == before + 1
    assert model_store.read(paths.model).version == learner_runs.trained(paths)[-1][1]


def test_a_start_after_a_clean_end_changes_nothing(played: Paths) -> None:
    """Recovery runs at every start; where there is nothing to recover it leaves every byte alone."""
    before = learner_runs.picture(played)

    for _ in range(2):
        assert _drain(played) == []

    assert learner_runs.picture(played) == before


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "zeros", "noise", "folder"])
def test_a_model_that_can_not_be_read_comes_back_from_history_and_archive(played: Paths, damage: str) -> None:
    """The newest good version of the history, and what came after it trained again: the same bytes, and it is said."""
    before = learner_runs.picture(played)
    data = played.model.read_bytes()
    played.model.unlink()
    contents = {"empty": b"", "cut": data[:-100], "zeros": b"\0" * len(data), "noise": b"PK\x03\x04" + b"?" * 500}
    if damage in contents:
        played.model.write_bytes(contents[damage])
    elif damage == "folder":
        played.model.mkdir()

    said = _drain(played)

    after = {path: content for path, content in learner_runs.picture(played).items() if not path.endswith(".broken")}
    assert after == before
    assert str(played.model) in said[0] and "Continuing from version 4 of the history" in said[0]
    assert "training versions 5 to 5 again" in said[1]
    _one_more(played)


def test_without_a_history_everything_is_trained_again(played: Paths) -> None:
    """Model and history gone: the archive alone gives the same bytes."""
    before = played.model.read_bytes()
    played.model.unlink()
    shutil.rmtree(played.history)

    said = _drain(played)

    assert played.model.read_bytes() == before
    assert "training versions 1 to 5 again from the archive" in said[-1]


def test_damaged_versions_of_the_history_are_passed_over(played: Paths) -> None:
    """The newest of them that can be read is the one to go on from."""
    before = played.model.read_bytes()
    played.model.write_bytes(b"")
    model_store.history_path(played, 4).write_bytes(b"no archive")

    said = _drain(played)

    assert played.model.read_bytes() == before
    assert "Continuing from version 2 of the history" in said[0]


def test_an_unreadable_model_without_a_readable_history_is_reported(played: Paths) -> None:
    """The person learns which file was damaged and where it is kept, not only that versions are trained again."""
    before = played.model.read_bytes()
    played.model.write_bytes(b"no archive")
    for version in (2, 4):
        model_store.history_path(played, version).write_bytes(b"")

    said = _drain(played)

    assert played.model.read_bytes() == before and played.model.with_name(f"{played.model.name}.broken").exists()
    assert (
        str(played.model) in said[0]
        and ".broken" in said[0]
        and said[0].endswith("No version of the history can be read instead")
    )
    assert "training versions 1 to 5 again from the archive" in said[1]


def test_an_old_copy_of_the_model_is_brought_up_to_date(played: Paths) -> None:
    """Whoever puts a backup of the model back loses nothing: the ledger knows what came after."""
    before = learner_runs.picture(played)
    for version in (4, 2):
        shutil.copyfile(model_store.history_path(played, version), played.model)

        said = _drain(played)

        assert learner_runs.picture(played) == before
        assert f"training versions {version + 1} to 5 again" in said[-1]


def test_the_very_first_version_put_back_is_brought_up_to_date(paths: Paths) -> None:
    """Version 1 begins the history; put back later, its batch is not taken for a new one."""
    episodes.write(paths.buffer, "game_0.npz", seed=0)
    _drain(paths)
    first = paths.model.read_bytes()
    for number in range(1, 4):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
        _drain(paths)
    before = learner_runs.picture(paths)
    paths.model.write_bytes(first)

    _drain(paths)

    assert learner_runs.picture(paths) == before


def test_what_was_trained_on_can_be_read_again_from_deeper_down(paths: Paths) -> None:
    """How deep a meta may be nested does not depend on who asks: a recovery calls from further down than the drain did."""
    for depth in (100, 101, *range(800, 990, 4)):
        meta = np.array('{"a":' * depth + "1" + "}" * depth)
        episodes.write(paths.buffer, f"deep_{depth:03}.npz", seed=depth, meta=meta)
    episodes.write(paths.buffer, "flat.npz", meta=np.array(f'{{"a": [{"[], " * 200}0]}}'))
    _drain(paths)
    before = paths.model.read_bytes()
    paths.model.unlink()
    shutil.rmtree(paths.history, ignore_errors=True)

    _drain(paths)

    assert paths.model.read_bytes() == before
    assert episodes.fates(paths)["trained"] == ["deep_100.npz", "flat.npz"]


def test_a_trained_episode_that_is_refused_nowadays_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stricter version of the program goes on from the model; where it would have to train again, it names the episode."""
    episodes.write(paths.buffer, "deep.npz", meta=np.array('{"a":[[1]]}'))
    _drain(paths)
    monkeypatch.setattr(episode, "_DEEPEST_META", 2)
    _one_more(paths)
    paths.model.unlink()
    shutil.rmtree(paths.history)

    with pytest.raises(LedgerError, match=r"'deep\.npz' of version 1 can no longer be read: meta is nested 3 deep"):
        _drain(paths)


def test_a_missing_episode_is_named_when_it_is_needed(played: Paths) -> None:
    """The archive does not hold what would have to be trained again: refused, with the name and what to do."""
    played.model.unlink()
    shutil.rmtree(played.history)
    (played.archive / "game_2.npz").unlink()

    with pytest.raises(LedgerError, match=r"game_2\.npz.* is not in the archive .*\. Put the file back, or "):
        _drain(played)


def test_a_ledger_that_lacks_one_batch_gets_it_from_the_model(played: Paths) -> None:
    """The last batch stands in the model file, and is added as it was."""
    before = played.ledger.read_bytes()
    played.ledger.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))

    assert _drain(played) == []

    assert played.ledger.read_bytes() == before


def _deliver_all_again(paths: Paths) -> None:
    for archived in paths.archive.glob("*.npz"):
        shutil.copyfile(archived, paths.buffer / f"again_{archived.name}")


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("how", ["cut", "deleted", "zeroed"])
def test_what_a_ledger_has_lost_is_remembered_from_the_archive(played: Paths, kept: int, how: str) -> None:
    """Cut short, zeroed or deleted, by hand or by a disk: nothing is trained twice, all is explained, and that is said."""
    lines = played.ledger.read_bytes().splitlines(keepends=True)
    rest = b"" if how == "cut" else b"\0" * len(b"".join(lines[kept:]))
    played.ledger.write_bytes(b"".join(lines[:kept]) + rest)
    if how == "deleted":
        if kept:
            pytest.skip("a file is deleted as a whole")
        played.ledger.unlink()
    before = played.model.read_bytes()
    _deliver_all_again(played)

    said = _drain(played)

    assert f"has lost lines: it {f'ends with version {kept}' if kept else 'holds no version'}" in said[0]
    assert f"{GAMES - kept} episodes of the archive are recorded as trained" in said[0]
    assert played.model.read_bytes() == before
    assert len(episodes.fates(played)["duplicate"]) == GAMES
    assert sorted(name for name, _ in learner_runs.trained(played)) == [f"game_{number}.npz" for number in range(GAMES)]
    explained = run_tool("explain_episode.py", played.root, "--all").splitlines()
    assert sum("the ledger had lost this line" in line for line in explained) == GAMES - kept
    assert not any("never seen" in line or "not in the ledger" in line for line in explained)


def test_training_goes_on_after_a_lost_ledger_and_can_be_rebuilt_from_there(played: Paths) -> None:
    """History begins with the model as it is: the next versions come back bit for bit, though the archive's order is lost."""
    played.ledger.unlink()
    _drain(played)
    for number in range(3):
        episodes.write(played.buffer, f"later_{number}.npz", seed=70 + number)
        _drain(played)
    data = played.model.read_bytes()

    assert "Identical, bit for bit" in run_tool("rebuild_model.py", played.root)
    shutil.rmtree(played.history / "none", ignore_errors=True)
    played.model.unlink()
    _drain(played)
    assert played.model.read_bytes() == data


def test_an_episode_between_commit_and_archive_outlives_the_loss_of_the_ledger(played: Paths) -> None:
    """It stands in the model's record and still lies in the buffer: it is not taken for a new one."""
    (played.archive / "game_4.npz").rename(played.buffer / "game_4.npz")
    before = played.model.read_bytes()
    played.ledger.unlink()

    _drain(played)

    assert played.model.read_bytes() == before
    assert episodes.fates(played)["buffer"] == [] and len(learner_runs.trained(played)) == GAMES


def test_files_set_aside_keep_their_reason_when_the_ledger_is_lost(played: Paths) -> None:
    """The note beside each tells why; no second line is written for it at the next start."""
    (played.buffer / "broken.npz").write_bytes(b"broken")
    _drain(played)
    played.ledger.unlink()

    for _ in range(2):
        _drain(played)

    lines = [line for line in ledger_lines.read_lines(played.ledger) if line["fate"] == "rejected"]
    assert len(lines) == 1 and lines[0]["name"] == "broken.npz" and "an .npz archive is needed" in lines[0]["reason"]
    assert "rejected, with a version that is no longer known" in run_tool("explain_episode.py", played.root, "broken.npz")


def test_a_rollback_before_or_after_the_loss_forgets_nothing(played: Paths) -> None:
    """The model that goes on tells up to where the ledger went when it was published."""
    run_tool("rollback_model.py", played.root, "4")
    played.ledger.write_bytes(b"".join(played.ledger.read_bytes().splitlines(keepends=True)[:2]))
    _deliver_all_again(played)

    said = _drain(played)

    assert "3 episodes of the archive are recorded" in said[0]
    assert len(episodes.fates(played)["duplicate"]) == GAMES and model_store.read(played.model).version == 6


@pytest.mark.parametrize("tail", [b'{"seq": 5, "sha', b"\0" * 300, b"\xff"])
def test_a_torn_or_zeroed_end_of_the_ledger_is_mended(played: Paths, tail: bytes) -> None:
    """What a power cut leaves behind the last flush is cut off, and the last batch added again from the model."""
    before = learner_runs.picture(played)
    sound = played.ledger.read_bytes()
    last = sound.rindex(b"\n", 0, -1) + 1
    played.ledger.write_bytes(sound[:last] + tail)

    assert _drain(played) == []

    assert learner_runs.picture(played) == before


def test_a_ledger_damaged_in_the_middle_is_refused_by_the_command(played: Paths) -> None:
    """Code 1, one line, the number of the line and the way out; nothing is changed."""
    damaged = bytearray(played.ledger.read_bytes())
    damaged[200:204] = b"\0\0\0\0"
    played.ledger.write_bytes(damaged)
    before = learner_runs.picture(played)

    refused = learner_runs.command(played.root, "--drain")

    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "is damaged, with sound lines after it. Restore the file from a copy" in refused.stderr
    assert learner_runs.picture(played) == before


def test_a_refused_root_stops_the_learner_and_says_why(played: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The learner beside a game gives up as well, instead of restarting workers that can do nothing."""
    played.ledger.write_bytes(played.ledger.read_bytes().replace(b"game_1.npz", b"game_X.npz", 1))
    learner = learner_runs.learner(played.root)
    learner.start()
    try:
        wait_until(lambda: not learner.running)
        counts = learner.get_stats()
    finally:
        learner.stop()

    assert "[WARNING] Background learner stopped: " in capsys.readouterr().out
    assert "tools/rollback_model.py" in counts["last_error"]
    assert counts["worker_restarts"] == 0


def test_a_forged_line_of_the_past_is_noticed(played: Paths) -> None:
    """The chain of hashes covers every batch."""
    text = played.ledger.read_text()
    played.ledger.write_text(text.replace('"name": "game_1.npz"', '"name": "game_X.npz"', 1))

    with pytest.raises(LedgerError, match="another history"):
        _drain(played)


def test_the_ledger_of_another_root_is_refused(played: Paths, tmp_path: Path) -> None:
    """Two roots' records mixed up would make a history that never was."""
    other = _other_root(tmp_path / "other", GAMES)
    shutil.copyfile(other.ledger, played.ledger)

    with pytest.raises(LedgerError, match="another history"):
        _drain(played)


@pytest.mark.parametrize("games", [1, 3, 5, 7])
def test_the_model_of_another_root_is_refused(played: Paths, tmp_path: Path, games: int) -> None:
    """Older, newer or as old: a model with a past of its own does not fit this ledger; the way to take it over is named."""
    other = _other_root(tmp_path / "other", games)
    before = played.ledger.read_bytes()
    shutil.copyfile(other.model, played.model)

    with pytest.raises(LedgerError, match=r"tools/rollback_model\.py"):
        _drain(played)

    assert played.ledger.read_bytes() == before


@pytest.mark.parametrize("games", [1, 4])
def test_the_model_of_another_root_in_a_new_one_is_where_history_begins(paths: Paths, tmp_path: Path, games: int) -> None:
    """A friend's model in a fresh root is taken over; its episodes, which are not here, get no line in the ledger."""
    other = _other_root(tmp_path / "other", games)
    shutil.copyfile(other.model, paths.model)
    episodes.write(paths.buffer, "game.npz", seed=5)

    said = _drain(paths)

    assert f"history starts with version {games} of the model" in said[0]
    assert learner_runs.trained(paths) == [("game.npz", games + 1)]
    data = paths.model.read_bytes()
    paths.model.unlink()
    shutil.rmtree(paths.history / "nothing", ignore_errors=True)
    _drain(paths)
    assert paths.model.read_bytes() == data


def test_a_model_written_by_another_program_is_gone_on_from(played: Paths) -> None:
    """A program that writes a model without our record: it is kept, under a version that none before had."""
    model = model_store.read(played.model)
    arrays = {**model.arrays, "W1": model.arrays["W1"] * np.float32(0.5), "version": np.int64(2)}
    manifest = {key: value for key, value in model.manifest.items() if key != "commit"}
    data = model_store.pack({key: value for key, value in arrays.items() if key != "version"}, 2, manifest)
    played.model.write_bytes(data)
    episodes.write(played.buffer, "one_more.npz", seed=77)

    said = _drain(played)

    assert "was written by another program as version 2; it becomes version 6" in said[0]
    assert learner_runs.trained(played)[-1] == ("one_more.npz", 7)
    after = played.model.read_bytes()
    played.model.unlink()
    _drain(played)
    assert played.model.read_bytes() == after


def test_the_counts_go_on_after_a_rollback(played: Paths) -> None:
    """Batches and samples are those of the root's life, as files are; what the weights know is told in the model."""
    before = learner_runs.drain(played.root)
    run_tool("rollback_model.py", played.root, "2")
    after = learner_runs.drain(played.root)
    _one_more(played)
    later = learner_runs.drain(played.root)

    counts = [(told["batches_trained"], told["total_samples"], told["files_processed"]) for told in (before, after, later)]
    assert counts == [(5, 60, 5), (5, 60, 5), (6, 72, 6)]
    manifest = model_store.read(played.model).manifest
    assert (manifest["episodes_trained"], manifest["steps_trained"]) == (3, 36)
    assert "Total Batches:   6" in played.training_log.read_text("utf-8")
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", played.root)


def test_an_environment_with_other_blas_threads_is_told_from_a_changed_model(paths: Paths) -> None:
    """The bits of a product depend on how many threads share it: the model records them, and a rebuild names them."""
    episodes.write(paths.buffer, "game.npz")
    threads = dict.fromkeys(BLAS_THREAD_VARIABLES, "2")
    # NumPy is there before the command asks for one thread.
    code = (
        f"import numpy, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path({str(learner_runs.COMMAND)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "x", "--root", str(paths.root), "--drain", "--quiet"]
    subprocess.run(command, check=True, env={**learner_runs.environment(), **threads}, timeout=PATIENCE_SECONDS)
    recorded = model_store.read(paths.model).manifest["numeric_fingerprint"]
    if " threads 2 " not in recorded:
        pytest.skip(f"this BLAS shares nothing out, or can't be asked: {recorded}")

    printed = run_tool("rebuild_model.py", paths.root, exit_code=1)

    assert f"trained in another environment, whose last bits differ ({recorded}; here " in printed and " threads 1 " in printed


def test_a_wide_model_of_a_former_version_is_told_from_a_changed_one(paths: Paths) -> None:
    """Into what parts a gradient falls decides the last bits; a model that does not say so was made of other parts."""
    episodes.write(paths.buffer, "game.npz")
    learner_runs.drain(paths.root, learning={"hidden_size": 128})
    model = model_store.read(paths.model)
    recorded = model.manifest["numeric_fingerprint"]
    former = {**model.manifest, "numeric_fingerprint": recorded.removesuffix(" parts 128")}
    paths.model.write_bytes(model_store.pack(model.arrays, model.version, former))

    printed = run_tool("rebuild_model.py", paths.root, exit_code=1)

    assert recorded.endswith(" parts 128")
    assert f"trained in another environment, whose last bits differ ({former['numeric_fingerprint']}; here {recorded})" in printed


def test_a_partial_model_is_removed(played: Paths) -> None:
    """What a killed commit left is no model and never becomes one."""
    partial = played.models / ".rl_agent_model.npz.part"
    partial.write_bytes(b"half a model")

    _drain(played)

    assert not partial.exists()


def test_a_trained_episode_put_back_into_the_buffer_is_not_trained_again(played: Paths) -> None:
    """Whether it was moved back or copied back: its bytes are known."""
    (played.archive / "game_1.npz").rename(played.buffer / "game_1.npz")
    shutil.copyfile(played.archive / "game_2.npz", played.buffer / "game_2.npz")

    _drain(played)

    assert len(learner_runs.trained(played)) == GAMES
    found = episodes.fates(played)
    assert found["buffer"] == [] and len(found["trained"]) == GAMES and len(found["duplicate"]) == 1


def test_the_record_in_the_model_is_what_the_ledger_says(played: Paths) -> None:
    """One truth: the last lines of the ledger are those of the model file's commit."""
    commit = model_store.read(played.model).manifest["commit"]
    lines = list(ledger_lines.read_lines(played.ledger))

    assert lines[-len(commit["batch"]) :] == commit["batch"]
    assert npz.read(played.model.read_bytes(), 10**9, {"version"})["version"] == lines[-1]["seq"]
