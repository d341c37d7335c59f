"""Where episodes wait and where they go: names, order, moves that may be repeated, and nothing lost."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from pathlib import Path

import episodes
import pytest
from fakes import Failing
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED, Departure
from background_training.errors import EpisodeError
from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import signature_of

FATES = (TRAINED, STALE, DUPLICATE, REJECTED)
posix = pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and names of bytes")


def departure_of(paths: Paths, name: str, fate: str = TRAINED, **more: object) -> Departure:
    """As the learner makes it: from what lies there now."""
    path = paths.buffer / name
    signature = signature_of(os.lstat(path))
    return Departure(name, fate, **{"stored_as": name, "signature": signature, **more})  # type: ignore[arg-type]


def test_a_deposit_has_a_telling_and_unique_name(paths: Paths):
    """Date, result and eight random digits; whatever the result is called, the name stays plain."""
    made = [buffer.deposit(paths, episodes.arrays(1), "Victory", durable=False) for _ in range(20)]
    odd = buffer.deposit(paths, episodes.arrays(1), "../Sieg ü\n" + "x" * 500)
    nothing = buffer.deposit(paths, episodes.arrays(1), "!?")

    assert len({path.name for path in made}) == 20
    assert all(re.fullmatch(r"game_\d{8}_\d{6}_Victory_[0-9a-f]{8}\.npz", path.name) for path in made)
    assert odd.parent == paths.buffer and re.fullmatch(r"game_\d{8}_\d{6}_Siegx{36}_[0-9a-f]{8}\.npz", odd.name)
    assert "_Unknown_" in nothing.name
    assert episode_file.read(made[0].read_bytes()).steps == 12


def test_a_bad_episode_leaves_nothing_in_the_buffer(paths: Paths):
    """Better refused here than in archive/rejected."""
    with pytest.raises(EpisodeError, match="NaN"):
        buffer.deposit(paths, episodes.arrays(1, rewards=[float("nan")] * 12))

    assert os.listdir(paths.buffer) == []


def test_a_deposit_makes_the_folders_it_needs(root: Path):
    """A game may start before the learner ever did."""
    path = buffer.deposit(Paths(root / "new"), episodes.arrays(1))

    assert path.exists()


@pytest.mark.leaves_partials
def test_only_finished_files_of_episodes_wait_in_the_order_of_their_bytes(paths: Paths):
    """Hidden names are still being written; other endings are none of ours."""
    for name in ("b.npz", "C.NPZ", "a10.npz", "a9.npz", "ä.npz", ".c.npz", ".d.npz.part", "e.npz.part", "f.txt", "npz", "-g.npz"):
        (paths.buffer / name).write_bytes(b"")

    assert buffer.waiting_names(paths) == ["-g.npz", "C.NPZ", "a10.npz", "a9.npz", "b.npz", "ä.npz"]


@posix
def test_a_name_that_is_no_text_is_listed_too(paths: Paths):
    """Bytes that are no UTF-8 come and go unharmed."""
    raw = os.fsencode(paths.buffer) + b"/\xff\xfe.npz"
    with open(raw, "wb") as file:
        file.write(b"")

    assert [os.fsencode(name) for name in buffer.waiting_names(paths)] == [b"\xff\xfe.npz"]


def test_a_buffer_that_can_not_be_listed_is_not_an_empty_one(paths: Paths):
    """An error is not the answer "nothing waits"."""
    paths.buffer.rmdir()

    with pytest.raises(FileNotFoundError):
        buffer.waiting_names(paths)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_moves_as_it_is(fate: str, durable: bool, paths: Paths):
    """Its bytes and its time go with it; a reason stands beside it where there is one."""
    path = episodes.write(paths.buffer, "x.npz", 1, age_seconds=500)
    data, moment = path.read_bytes(), path.stat().st_mtime_ns
    note = "" if fate == TRAINED else "it was wrong: \udcff ü. Moved to archive."

    buffer.move_out(paths, [departure_of(paths, "x.npz", fate, note=note)], durable=durable)

    target = buffer.folder_of(paths, fate) / "x.npz"
    assert target.read_bytes() == data and target.stat().st_mtime_ns == moment
    assert os.listdir(paths.buffer) == []
    if note:
        assert (target.parent / "x.npz.reason.txt").read_text(encoding="utf-8") == "it was wrong: \\udcff ü. Moved to archive.\n"


@pytest.mark.parametrize("durable", [True, False])
def test_moving_again_changes_nothing(durable: bool, paths: Paths):
    """After a crash the whole list is gone through once more."""
    for number in range(3):
        episodes.write(paths.buffer, f"{number}.npz", number)
    departures = [departure_of(paths, f"{number}.npz", STALE, note="old") for number in range(3)]
    buffer.move_out(paths, departures, durable=durable)
    before = {path.name: path.stat().st_ino for path in paths.stale.iterdir()}

    buffer.move_out(paths, departures, durable=durable)

    assert {path.name: path.stat().st_ino for path in paths.stale.iterdir()} == before


@pytest.mark.parametrize("durable", [True, False])
def test_a_name_given_to_a_newer_file_is_left_to_that(durable: bool, paths: Paths):
    """The newer one waits for its turn; the bytes that were read are archived from memory, once."""
    old = episodes.write(paths.buffer, "x.npz", 1).read_bytes()
    departure = departure_of(paths, "x.npz", data=old)
    (paths.buffer / "x.npz").unlink()
    new = episodes.write(paths.buffer, "x.npz", 2, steps=20).read_bytes()

    for _ in range(2):
        buffer.move_out(paths, [departure], durable=durable)

    assert (paths.archive / "x.npz").read_bytes() == old
    assert (paths.buffer / "x.npz").read_bytes() == new


@pytest.mark.parametrize("durable", [True, False])
def test_a_taken_name_is_never_overwritten(durable: bool, paths: Paths):
    """Should the archive hold another file of that name, both stay where they are."""
    episodes.write(paths.buffer, "x.npz", 1)
    former = episodes.write(paths.archive, "x.npz", 2).read_bytes()

    with pytest.raises(FileExistsError):
        buffer.move_out(paths, [departure_of(paths, "x.npz")], durable=durable)

    assert (paths.archive / "x.npz").read_bytes() == former and (paths.buffer / "x.npz").exists()


@posix
@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_disk_without_hard_links_is_moved_by_rename(error: int, paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """FAT and some network drives know no second name."""
    data = episodes.write(paths.buffer, "x.npz", 1).read_bytes()
    monkeypatch.setattr(os, "link", Failing(os.link, OSError(error, "no links here")))

    buffer.move_out(paths, [departure_of(paths, "x.npz")], durable=True)

    assert (paths.archive / "x.npz").read_bytes() == data and os.listdir(paths.buffer) == []


@posix
def test_a_failing_disk_is_an_error_not_a_missing_link(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """Nothing has moved; the same call later does it."""
    episodes.write(paths.buffer, "x.npz", 1)
    departure = departure_of(paths, "x.npz")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", Failing(os.link, OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            buffer.move_out(paths, [departure], durable=True)
    assert episodes.fates(paths)["buffer"] == ["x.npz"]

    buffer.move_out(paths, [departure], durable=True)

    assert episodes.fates(paths)["trained"] == ["x.npz"]


def test_a_durable_move_flushes_before_the_old_name_goes(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """A power cut in between leaves two names, never none."""
    happened: list[str] = []
    for name in ("a.npz", "b.npz"):
        episodes.write(paths.buffer, name, 1)
    sync, unlink = atomic_files.sync_folder, os.unlink
    monkeypatch.setattr(atomic_files, "sync_folder", lambda folder: (happened.append(f"sync {folder.name}"), sync(folder)))
    monkeypatch.setattr(os, "unlink", lambda path: (happened.append("unlink"), unlink(path)))

    buffer.move_out(paths, [departure_of(paths, name) for name in ("a.npz", "b.npz")], durable=True)

    assert happened == ["sync archive", "unlink", "unlink"]


PLAIN = ["x.npz", "a-b_c.1.npz", "X" * 116 + ".npz", "LOUD.NPZ"]
AWKWARD = [
    "-rf.npz", "a b.npz",
    "new\nline.npz", "ü.npz", "x" * 121 + ".npz", "con.npz", "LPT1.npz", "aux.x.npz", "\x1b[0m.npz", "a:b.npz"
]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_kept(name: str, paths: Paths):
    """People find their files again."""
    assert buffer.stored_name(paths, REJECTED, name, "0" * 64) == name


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_gives_way_to_the_hash(name: str, paths: Paths):
    """Nothing in the archive can trap a shell, a terminal or Windows."""
    digest = hashlib.sha256(b"data").hexdigest()

    assert buffer.stored_name(paths, REJECTED, name, digest) == f"{digest}.npz"
    assert buffer.stored_name(paths, REJECTED, name, "") == f"{hashlib.sha256(os.fsencode(name)).hexdigest()}.npz"


def test_a_taken_name_gives_way_to_the_hash_then_to_numbers(paths: Paths):
    """Two files of one name are two episodes; so are a thousand, delivered again and again."""
    episodes.write(paths.rejected, "x.npz", 1)
    assert buffer.stored_name(paths, REJECTED, "x.npz", "ab") == "ab.npz"
    assert buffer.stored_name(paths, REJECTED, "x.npz", "ab", taken={"ab.npz"}) == "ab.2.npz"
    taken = {"ab.npz", *(f"ab.{number}.npz" for number in range(2, 1200))}
    assert buffer.stored_name(paths, REJECTED, "x.npz", "ab", taken) == "ab.1200.npz"


@posix
def test_a_half_moved_file_keeps_the_name_it_has_got(paths: Paths):
    """The name in the archive is its own, so it is free for it, and for nobody else."""
    path = episodes.write(paths.buffer, "x.npz", 1)
    os.link(path, paths.archive / "x.npz")

    assert buffer.stored_name(paths, TRAINED, "x.npz", "ab") == "x.npz"
    episodes.write(paths.buffer, "y.npz", 2)
    assert not buffer.is_free(paths, TRAINED, "x.npz", "y.npz")


def test_a_sweep_takes_only_our_dead_writers_files(paths: Paths):
    """Of a foreign writer's partial file nothing is known."""
    ours = f".game_{time.strftime('%Y%m%d_%H%M%S')}_Victory_0123abcd.npz.part"
    for name in (ours, ".somebody.npz.part", "game.npz.part"):
        (paths.buffer / name).write_bytes(b"half")

    assert buffer.sweep_partials(paths) == [ours]

    left = sorted(os.listdir(paths.buffer))
    assert left == [".somebody.npz.part", "game.npz.part"]
    for name in left:
        (paths.buffer / name).unlink()


class PowerLost(BaseException):
    """The process ends here; no clause of the code may mend it."""


class FolderMachine(RuleBasedStateMachine):
    """Deposits, replacements, duplicates, moves, crashes at any step: no bytes lost, none twice in the archive."""

    names = Bundle("names")
    planned = Bundle("planned")

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.expected_archive: set[str] = set()
        self.expected_waiting: dict[str, str] = {}

    @initialize(durable=st.booleans())
    def begin(self, durable: bool) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="ä folder ")
        self.paths = Paths(Path(self.folder.name))
        for folder in self.paths.folders:
            folder.mkdir(exist_ok=True)
        self.durable = durable

    @rule(target=names, name=st.sampled_from(["a.npz", "b.npz", "c d.npz", "é.npz"]))
    def deliver(self, name: str) -> str:
        """A foreign writer puts a file there, or a newer one over it by rename."""
        self.made += 1
        content = f"episode {self.made}"
        partial = self.paths.buffer / f".{name}.part"
        partial.write_text(content)
        os.replace(partial, self.paths.buffer / name)
        self.expected_waiting[name] = content
        return name

    @rule(target=planned, name=names, fate=st.sampled_from(FATES))
    def plan(self, name: str, fate: str) -> Departure | None:
        """The learner has read the file and decided; its bytes now have to reach the archive."""
        path = self.paths.buffer / name
        if not path.exists():
            return None
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if data.decode() in self.expected_archive:
            return None
        self.expected_archive.add(data.decode())
        if self.expected_waiting.get(name) == data.decode():
            del self.expected_waiting[name]
        stored_as = buffer.stored_name(self.paths, fate, name, digest, self._promised(fate))
        self._promises().add((fate, stored_as))
        return Departure(name, fate, stored_as, signature_of(os.lstat(path)), data, "why" if fate != TRAINED else "")

    def _promises(self) -> set[tuple[str, str]]:
        return self.__dict__.setdefault("promised", set())

    def _promised(self, fate: str) -> set[str]:
        return {name for promised_fate, name in self._promises() if promised_fate == fate}

    @rule(departure=planned, calls=st.integers(1, 12))
    def move_and_die(self, departure: Departure | None, calls: int) -> None:
        """The process is killed before one of its next system calls; the next one looks aside first, and does the plan again."""
        if departure is not None:
            with dying_after(calls):
                buffer.move_out(self.paths, [departure], durable=self.durable)
            buffer.put_all_back(self.paths)
            self._remember(departure)

    @rule(departure=consumes(planned))
    def move(self, departure: Departure | None) -> None:
        if departure is not None:
            buffer.move_out(self.paths, [departure], durable=self.durable)
            buffer.move_out(self.paths, [departure], durable=self.durable)
            self._remember(departure)

    def _remember(self, departure: Departure) -> None:
        self.__dict__.setdefault("attempted", []).append(departure)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Each delivered content is in the buffer, in the archive, or both while a move is under way."""
        if not hasattr(self, "folder"):
            return
        waiting = {path.name: path.read_text() for path in self.paths.buffer.glob("[!.]*.npz")}
        for name, content in self.expected_waiting.items():
            assert waiting.get(name) == content
        archived = self._archived()
        assert len(archived) == len(set(archived)), "one content twice in the archive"
        assert set(archived) <= self.expected_archive

    def _archived(self) -> list[str]:
        folders = [buffer.folder_of(self.paths, fate) for fate in FATES]
        return [path.read_text() for folder in folders for path in folder.glob("[!.]*.npz")]

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self._finish()
        finally:
            self.folder.cleanup()

    def _finish(self) -> None:
        for departure in self.__dict__.get("attempted", []):
            buffer.move_out(self.paths, [departure], durable=self.durable)
        moved = {departure.data.decode() for departure in self.__dict__.get("attempted", []) if departure.data}
        assert moved <= set(self._archived())
        waiting = {path.read_text() for path in self.paths.buffer.glob("[!.]*.npz")}
        assert not waiting & moved, "it waits and is archived"


class dying_after:  # noqa: N801  # reads as a sentence
    """Let the n-th changing system call of this block never happen, nor anything after it."""

    CALLS = ("link", "unlink", "rename", "replace", "fsync", "lstat", "open")

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        for name in self.CALLS:
            self._patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            self._left -= 1
            if self._left <= 0:
                raise PowerLost
            return real(*arguments, **options)  # type: ignore[operator]

        return call

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._patch.undo()
        return kind is PowerLost


FolderMachine.TestCase.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=20, phases=(Phase.explicit, Phase.reuse, Phase.generate), deadline=None
)


class TestTheFolderAsAStateMachine(FolderMachine.TestCase):
    """Any order of deliveries, replacements, moves and deaths ends with every episode in exactly one place."""


def test_an_empty_folder_is_moved_without_a_moment_in_which_it_is_nowhere(paths: Paths) -> None:
    """Its like is made under the new name first; a file system with two-step renames could lose both names of one."""
    (paths.buffer / "x.npz").mkdir()
    departure = Departure("x.npz", "rejected", "x.npz", note="it is a folder")
    (paths.rejected / "x.npz").mkdir()  # as after a power cut between the two steps

    buffer.move_out(paths, [departure], durable=True)

    assert (paths.rejected / "x.npz").is_dir() and not (paths.buffer / "x.npz").exists()


def test_partial_files_of_dead_writers_are_swept_from_our_own_folders_too(paths: Paths) -> None:
    """What a failed write left beside a reason file or a model would else stay for ever."""
    ours = [paths.rejected / ".a.npz.reason.txt.part", paths.models / ".rl_agent_model.npz.part", paths.stale / ".b.0a.part"]
    for partial in ours:
        partial.write_bytes(b"")
    foreign = paths.buffer / ".theirs.npz.part"
    foreign.write_bytes(b"still being written, for all we know")

    swept = buffer.sweep_partials(paths)

    assert sorted(swept) == sorted(partial.name for partial in ours)
    assert foreign.exists()
    foreign.unlink()


def test_a_move_that_the_machine_refuses_leaves_no_copy_behind(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that says "not found" of a file that is there has failed; a copy in the archive would make it a duplicate."""
    source = episodes.write(paths.buffer, "x.npz")
    data = source.read_bytes()
    departure = Departure("x.npz", TRAINED, "x.npz", signature_of(os.lstat(source)), data)

    def refused(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "the disk lies")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        with pytest.raises(FileNotFoundError):
            buffer.move_out(paths, [departure], durable=True)
    assert source.exists() and not (paths.archive / "x.npz").exists()

    buffer.move_out(paths, [departure], durable=True)
    assert not source.exists() and (paths.archive / "x.npz").read_bytes() == data
