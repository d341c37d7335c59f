"""A game is never held up by a disk: what can't be deposited waits in memory, within a bound, and nothing is silent."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import episodes
import pytest
from fakes import Failing

from background_training.episodes import buffer, episode_file
from background_training.episodes.outbox import Outbox
from background_training.errors import EpisodeError
from background_training.paths import Paths
from background_training.storage import atomic_files

FULL = OSError(errno.ENOSPC, "no space left on device")


@pytest.fixture
def outbox(paths: Paths) -> Outbox:
    return Outbox(paths, durable=False)


def disk_refuses(monkeypatch: pytest.MonkeyPatch, times: int) -> Failing:
    failing = Failing(atomic_files.write_atomically, *[FULL] * times)
    monkeypatch.setattr(atomic_files, "write_atomically", failing)
    return failing


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files in the order in which they came; by their times, several may have come at once."""
    files: list[Path] = []
    deposit = buffer.deposit_packed

    def noted(*arguments: Any, **more: Any) -> Path:
        files.append(deposit(*arguments, **more))
        return files[-1]

    monkeypatch.setattr(buffer, "deposit_packed", noted)
    return files


def first_rewards(files: list[Path]) -> list[float]:
    return [float(episode_file.read(path.read_bytes()).rewards[0]) for path in files]


def test_an_episode_goes_straight_to_the_buffer(outbox: Outbox, paths: Paths):
    """On a sound disk nothing waits."""
    path = outbox.deposit(episodes.arrays(1), "Victory")

    assert path is not None and path.parent == paths.buffer and "_Victory_" in path.name
    assert (outbox.waiting, outbox.given_up) == (0, 0)


def test_what_the_disk_refuses_is_deposited_later_in_its_order(
    outbox: Outbox, arrived: list[Path], monkeypatch: pytest.MonkeyPatch
):
    """Three games on a full disk; the fourth finds room, and all four are there."""
    disk_refuses(monkeypatch, 3)

    found = [outbox.deposit(episodes.arrays(seed), "Defeat") for seed in range(4)]

    assert found[:3] == [None] * 3 and found[3] is not None
    assert outbox.waiting == 0
    assert first_rewards(arrived) == [float(episodes.arrays(seed)["rewards"][0]) for seed in range(4)]


def test_retry_deposits_without_a_further_game(outbox: Outbox, paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """A game that is over can still hand in what waits."""
    disk_refuses(monkeypatch, 1)
    outbox.deposit(episodes.arrays(1), "Victory")
    assert outbox.waiting == 1

    assert outbox.retry() is not None

    assert outbox.waiting == 0 and len(list(paths.buffer.glob("*.npz"))) == 1


def test_memory_is_bounded_and_what_is_given_up_is_said(
    paths: Paths, arrived: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The oldest go first, each is counted and logged, and the newest are kept."""
    size = len(episode_file.pack(episodes.arrays(0)))
    outbox = Outbox(paths, durable=False, max_waiting_bytes=3 * size)
    disk_refuses(monkeypatch, 10)

    with caplog.at_level(logging.ERROR):
        for seed in range(10):
            outbox.deposit(episodes.arrays(seed), "Defeat")

    assert (outbox.waiting, outbox.given_up) == (3, 7)
    assert len([record for record in caplog.records if "given up" in record.message]) == 7
    outbox.retry()
    assert first_rewards(arrived) == [float(episodes.arrays(seed)["rewards"][0]) for seed in (7, 8, 9)]


def test_what_is_no_episode_is_refused_at_once_even_on_a_full_disk(outbox: Outbox, paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """The mistake belongs to this call; it must not surface later in another game's."""
    disk_refuses(monkeypatch, 1)
    monkeypatch.setattr(buffer.os, "makedirs", Failing(buffer.os.makedirs, FULL))

    with pytest.raises(EpisodeError, match="rewards has 3 steps"):
        outbox.deposit(episodes.arrays(1, rewards=[1.0, 2.0, 3.0]), "Defeat")

    assert outbox.waiting == 0


def test_later_changes_of_the_arrays_change_nothing(outbox: Outbox, arrived: list[Path], monkeypatch: pytest.MonkeyPatch):
    """A game may reuse its arrays while the episode waits."""
    disk_refuses(monkeypatch, 1)
    arrays = episodes.arrays(5)
    expected = float(arrays["rewards"][0])
    outbox.deposit(arrays, "Victory")
    arrays["rewards"][:] = 99.0

    outbox.retry()

    assert first_rewards(arrived) == [expected]


def test_a_buffer_that_was_deleted_is_made_again(outbox: Outbox, paths: Paths):
    """Somebody tidied up; the game goes on."""
    paths.buffer.rmdir()

    assert outbox.deposit(episodes.arrays(1), "Victory") is not None
