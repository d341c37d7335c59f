"""What was read is kept: by content, whole or not at all, and never read twice."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from replay_fakes import a_player, a_result, write_replays

from background_training.errors import ReplayError
from background_training.paths import Paths
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.analysis import ReplayResult
from background_training.starcraft.replays.replay_archive import ReplayArchive
from background_training.starcraft.replays.results_store import ResultsStore

SETTINGS = ReplaySettings()


def archive_of(tmp_path: Path, settings: ReplaySettings = SETTINGS) -> ReplayArchive:
    (tmp_path / "replays").mkdir(exist_ok=True)
    archive = ReplayArchive(Paths(tmp_path / "root"), settings, str(tmp_path / "replays"))
    archive.prepare()
    return archive


def result_for(path: str, reason: str = "", settings: ReplaySettings = SETTINGS) -> ReplayResult:
    """What reading the file would give, without reading it."""
    sha256 = analysis.content_hash(Path(path).read_bytes())
    players = [] if reason else [a_player()]
    return a_result(sha256, *players, reason=reason, made_with=analysis.made_with(settings), library=analysis.library_version())


def read_all(archive: ReplayArchive, reason: str = "") -> list[str]:
    """Take everything that has to be read; the names."""
    waiting = archive.look()
    for path in waiting:
        archive.take(path, result_for(path, reason, archive.settings))
    archive.write_summary()
    return [Path(path).stem for path in waiting]


def summary_of(archive: ReplayArchive) -> dict[str, Any]:
    found = json.loads(archive.paths.build_orders.read_bytes())
    assert isinstance(found, dict)
    return found


def test_a_second_run_reads_nothing(tmp_path: Path):
    """Neither in the same process nor in the next."""
    write_replays(tmp_path / "replays", ["a", "b"])
    first = archive_of(tmp_path)

    assert (read_all(first), read_all(first), read_all(archive_of(tmp_path))) == (["a", "b"], [], [])


def test_a_new_and_a_changed_file_are_read(tmp_path: Path):
    """New files are picked up while running; a file with other bytes is another replay."""
    write_replays(tmp_path / "replays", ["a"])
    archive = archive_of(tmp_path)
    read_all(archive)
    write_replays(tmp_path / "replays", ["b"])
    (tmp_path / "replays" / "a.SC2Replay").write_text("longer than before")

    assert read_all(archive) == ["a", "b"]


def test_a_file_that_is_still_being_written_waits(tmp_path: Path):
    """The game writes replays in place."""
    paths = write_replays(tmp_path / "replays", ["old", "new"])
    a_minute_ago = time.time() - 60
    os.utime(paths[1], (a_minute_ago, a_minute_ago))

    waiting = archive_of(tmp_path).look(settled_before=time.time() - 30)

    assert [Path(path).stem for path in waiting] == ["old"]


def test_a_failure_is_tried_again_with_another_library_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Unreadable today, readable after an upgrade; never marked as done."""
    write_replays(tmp_path / "replays", ["a"])
    read_all(archive_of(tmp_path), reason="unreadable")
    same = archive_of(tmp_path)
    assert (same.look(), len(same.look(retry_failed=True))) == ([], 1)

    monkeypatch.setattr(analysis, "library_version", lambda: "sc2reader 99")

    assert len(archive_of(tmp_path).look()) == 1


def test_a_good_result_survives_a_library_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three thousand replays are not read again for a version number."""
    write_replays(tmp_path / "replays", ["a"])
    read_all(archive_of(tmp_path))
    monkeypatch.setattr(analysis, "library_version", lambda: "sc2reader 99")

    assert archive_of(tmp_path).look() == []


def test_other_settings_make_new_results(tmp_path: Path):
    """A game too short yesterday may be long enough today."""
    write_replays(tmp_path / "replays", ["a"])
    read_all(archive_of(tmp_path))

    assert read_all(archive_of(tmp_path, ReplaySettings(min_seconds=30.0))) == ["a"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 1, "files": [1]}', b'{"format": 1, "files": {"a": 3}}', b"[]"])
def test_a_broken_index_costs_only_hashing(damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The index is made anew from the files; the summary's bytes stay the same."""
    write_replays(tmp_path / "replays", ["a", "b"])
    archive = archive_of(tmp_path)
    read_all(archive)
    before = archive.paths.build_orders.read_bytes()
    (archive.store.folder / "index.json").write_bytes(damage)

    with caplog.at_level(logging.WARNING):
        again = archive_of(tmp_path)

    assert "index.json" in caplog.text
    assert read_all(again) == ["a", "b"]
    assert again.paths.build_orders.read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}"])
def test_a_broken_result_is_made_anew(damage: bytes, tmp_path: Path):
    """A cut file is no result; its replay is read once more."""
    write_replays(tmp_path / "replays", ["a", "b"])
    archive = archive_of(tmp_path)
    read_all(archive)
    before = archive.paths.build_orders.read_bytes()
    archive.store.path_of(analysis.content_hash(b"b")).write_bytes(damage)

    again = archive_of(tmp_path)

    assert read_all(again) == ["b"]
    assert again.paths.build_orders.read_bytes() == before


def test_copies_are_counted_as_duplicates_and_renaming_is_no_copy(tmp_path: Path):
    """One content in two files is learnt once; the last name stands for both."""
    paths = write_replays(tmp_path / "replays", ["a"])
    copy = tmp_path / "replays" / "a (1).SC2Replay"
    copy.write_text("a")
    archive = archive_of(tmp_path)
    read_all(archive)

    assert summary_of(archive)["counts"] == {"seen": 2, "learnt": 1, "players": 1, "skipped": {"duplicate": 1}}
    assert [(Path(line["file"]).name, line["reason"]) for line in archive.details()] == [
        ("a (1).SC2Replay", "duplicate"),
        ("a.SC2Replay", ""),
    ]

    copy.unlink()
    Path(paths[0]).rename(tmp_path / "replays" / "renamed.SC2Replay")
    read_all(archive)
    assert summary_of(archive)["counts"] == {"seen": 1, "learnt": 1, "players": 1, "skipped": {}}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_folders_get_a_verdict_without_being_opened(tmp_path: Path):
    """A pipe would wait for ever, a folder is not entered."""
    archive = archive_of(tmp_path)
    os.mkfifo(tmp_path / "replays" / "pipe.SC2Replay")
    inside = tmp_path / "replays" / "folder.SC2Replay"
    write_replays(inside, ["a"])

    assert read_all(archive) == []
    assert summary_of(archive)["counts"]["skipped"] == {"not-a-file": 2}
    assert [line["verdict"] for line in archive.details()] == ["skip", "skip"]


def test_a_file_that_may_not_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No content, no result; the next run looks again."""
    write_replays(tmp_path / "replays", ["a"])

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(analysis, "read_regular_file", refuse)
    archive = archive_of(tmp_path)
    (path,) = archive.look()
    archive.take(path, analysis.analyse_file(path))
    archive.write_summary()

    assert archive.look() == []
    assert summary_of(archive)["counts"]["skipped"] == {"no-access": 1}
    assert len(archive_of(tmp_path).look()) == 1


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty-file"), (b"0123456789" * 200, "too-large")])
def test_sizes_are_judged_before_the_library_sees_them(content: bytes, reason: str, tmp_path: Path):
    """Nothing to read, or more than is allowed."""
    path = tmp_path / "a.SC2Replay"
    path.write_bytes(content)

    assert analysis.analyse_file(str(path), ReplaySettings(max_file_bytes=1000))["reason"] == reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_reading_a_pipe_does_not_wait(tmp_path: Path):
    """Even a worker that is handed a pipe answers."""
    os.mkfifo(tmp_path / "pipe.SC2Replay")

    with pytest.raises(ReplayError, match="not-a-file"):
        analysis.read_replay(str(tmp_path / "pipe.SC2Replay"), SETTINGS)


def test_analysed_replays_move_only_where_a_setting_says(tmp_path: Path):
    """Names that are taken get a number, failures stay for the retry, and the summary does not change."""
    settings = ReplaySettings(move_analysed_to=str(tmp_path / "replays" / "done"))
    write_replays(tmp_path / "replays", ["a", "b"])
    write_replays(tmp_path / "replays" / "done", ["a"])
    (tmp_path / "replays" / "a.SC2Replay").write_text("another a")
    archive = archive_of(tmp_path, settings)
    for path in archive.look():
        archive.take(path, result_for(path, "unreadable" if path.endswith("b.SC2Replay") else "", settings))
    archive.write_summary()

    assert sorted(path.name for path in (tmp_path / "replays" / "done").iterdir()) == ["a (2).SC2Replay", "a.SC2Replay"]
    assert (tmp_path / "replays" / "b.SC2Replay").exists()
    assert summary_of(archive)["counts"] == {"seen": 2, "learnt": 1, "players": 1, "skipped": {"unreadable": 1}}
    again = archive_of(tmp_path, settings)
    assert (again.look(), again.write_summary()) == ([], False)


def test_a_foreign_file_among_the_results_does_no_harm(tmp_path: Path):
    """Whatever lies there and is no result of this analysis is left out."""
    store = ResultsStore(tmp_path / "results")
    store.prepare()
    store.put(a_result("a", a_player()))
    store.put(a_result("b", a_player(), made_with="analysis 0, min_seconds 120, min_orders 10"))
    (store.folder / "notes.json").write_text('"hello"')
    (store.folder / "README").write_text("hello")

    assert [result["sha256"] for result in store.all_results(max_lines=2)] == ["a"]
    assert [len(result["players"][0]["build_order"]) for result in store.all_results(max_lines=2)] == [2]


def test_a_root_that_can_not_be_made_is_the_machines_fault(tmp_path: Path):
    """A file lies where the root should be."""
    (tmp_path / "root").write_text("a file")

    with pytest.raises(OSError):
        archive_of(tmp_path)
