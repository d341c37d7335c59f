"""A foreign writer gives a name away between any two system calls of a move: neither file is lost, nor taken for the other."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import episodes
import learner_runs
import pytest

from background_training.episodes import buffer
from background_training.episodes.buffer import TRAINED, Departure
from background_training.paths import Paths
from background_training.storage.atomic_files import signature_of

CALLS = ("link", "unlink", "rename", "replace", "fsync", "lstat", "open", "listdir", "rmdir")
NAME = "x.npz"


class Interleaved:
    """The calls of this process to the system, and what somebody else does just before some of them."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self.count = 0
        self._actions = actions
        self._real = {name: getattr(os, name) for name in CALLS}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for name in CALLS:
            setattr(os, name, self._call_of(name))
        try:
            yield
        finally:
            self._restore()

    def _restore(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _call_of(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            action = self._actions.pop(self.count, None)
            if action is not None:
                action()
            return self._real[name](*arguments, **options)

        return call


class Writer:
    """A program of somebody else's that knows nothing of us."""

    def __init__(self, paths: Paths) -> None:
        self._path = paths.buffer / NAME
        self._partial = paths.buffer / ".theirs"
        # Its calls are no calls of ours.
        self._rename, self._link, self._unlink = os.rename, os.link, os.unlink
        self.delivered: list[bytes] = []

    def replace(self) -> None:
        self._rename(self._new(), self._path)

    def deliver_if_free(self) -> None:
        """Drop a further file once the former one has been fetched: what it sees is that the name is free."""
        try:
            self._link(self._new(), self._path)
        except FileExistsError:
            self.delivered.pop()

    def _new(self) -> os.PathLike[str]:
        self.delivered.append(b"newer %d" % len(self.delivered))
        with contextlib.suppress(FileNotFoundError):
            self._unlink(self._partial)
        self._partial.write_bytes(self.delivered[-1])
        return self._partial


def _moved(root: Paths, durable: bool, actions: dict[int, str]) -> tuple[Writer, int]:
    """Move one file out of the buffer of a new root; what the writer does before which calls is told by its methods' names."""
    for folder in root.folders:
        folder.mkdir(parents=True, exist_ok=True)
    path = root.buffer / NAME
    path.write_bytes(b"old")
    departure = Departure(NAME, TRAINED, NAME, signature_of(os.lstat(path)), b"old")
    writer = Writer(root)
    interleaved = Interleaved({number: getattr(writer, action) for number, action in actions.items()})
    with interleaved.at_work():
        buffer.move_out(root, [departure], durable=durable)
    return writer, interleaved.count


def _waiting(root: Paths) -> list[bytes]:
    return sorted((root.buffer / name).read_bytes() for name in buffer.waiting_names(root))


@pytest.mark.skipif(os.name != "posix", reason="an open file can't be replaced there")
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_that_replaces_another_at_any_moment_is_not_lost(durable: bool, paths: Paths) -> None:
    """Before each call of the move in turn: what was read is in the archive, what came since waits."""
    _, calls = _moved(Paths(paths.root / "undisturbed"), durable, {})
    assert calls >= 6
    for number in range(1, calls + 1):
        root = Paths(paths.root / str(number))
        writer, _ = _moved(root, durable, {number: "replace"})

        assert (root.archive / NAME).read_bytes() == b"old", number
        assert _waiting(root) == writer.delivered and os.listdir(root.leaving) == [], number


@pytest.mark.skipif(os.name != "posix", reason="an open file can't be replaced there")
@pytest.mark.parametrize("durable", [True, False])
def test_a_name_that_seems_free_for_a_moment_costs_no_file(durable: bool, paths: Paths) -> None:
    """The writer replaces its file, and drops a third one as soon as it sees the name free: all three are kept."""
    _, calls = _moved(Paths(paths.root / "undisturbed"), durable, {})
    for first, second in itertools.combinations(range(1, calls + 3), 2):
        root = Paths(paths.root / f"{first} {second}")
        writer, _ = _moved(root, durable, {first: "replace", second: "deliver_if_free"})

        assert (root.archive / NAME).read_bytes() == b"old", (first, second)
        assert _waiting(root) == sorted(writer.delivered), (first, second)


def test_what_a_killed_process_left_aside_is_put_back_and_judged_again(paths: Paths) -> None:
    """A file whose bytes are in the archive already is not trained twice; a newer one is trained; each keeps its name."""
    for number in range(2):
        episodes.write(paths.buffer, f"game_{number}.npz", number)
    learner_runs.drain(paths.root)
    os.link(paths.archive / "game_0.npz", paths.leaving / "game_0.npz")  # killed between the rename and the removal
    newer = episodes.write(paths.leaving, "game_1.npz", 7).read_bytes()  # killed before it was looked at
    still_newer = episodes.write(paths.buffer, "game_1.npz", 8).read_bytes()

    counts = learner_runs.drain(paths.root)

    assert (counts["files_processed"], counts["files_duplicate"], counts["files_rejected"]) == (4, 0, 0)
    assert os.listdir(paths.leaving) == os.listdir(paths.buffer) == []
    archived = [path.read_bytes() for path in paths.archive.glob("*.npz")]
    assert len(archived) == 4 and newer in archived and still_newer in archived


def test_a_disk_without_hard_links_gets_its_files_back_by_rename(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no second name can be given, never over a file that has come since."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refused)
    (paths.buffer / NAME).write_bytes(b"first")
    aside = buffer.take_aside(paths, NAME)
    (paths.buffer / NAME).write_bytes(b"second")

    buffer.put_back(paths, aside)

    assert _waiting(paths) == [b"first", b"second"] and os.listdir(paths.leaving) == []
