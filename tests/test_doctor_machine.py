"""The doctor names what is wrong with the machine and with the learner's process.

Really made: another user's rights and watches, a small disk, killed and silent learners, held locks. Pretended, as no test
can make them: a network drive, FAT, a disk without locks, a virus scanner, a disk with a clock of its own, Windows.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.doctor import examination, machine
from background_training.paths import CHECKOUT, Paths
from background_training.records import pause_file, status
from background_training.records.status import EMPTY_STATS
from background_training.storage.file_lock import LearnerLock, RootLock
from tests import doctor_roots, learner_runs
from tests.doctor_roots import drop, found, look

pytestmark = pytest.mark.slow  # real processes

NOBODY = 65_534 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
"""A user of no other test that runs at the same time: one test takes all watches that a user may have."""
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
DOCTOR = CHECKOUT / "tools" / "doctor.py"


@pytest.fixture(scope="session")
def healthy_machine_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve games trained on by a real learner; only ever copied."""
    root = tmp_path_factory.mktemp("healthy") / "some Wörk"
    root.mkdir()
    doctor_roots.play(root)
    return root


@pytest.fixture
def played(healthy_machine_root: Path, root: Path) -> Paths:
    shutil.copytree(healthy_machine_root, root, dirs_exist_ok=True)
    return Paths(root)


def _told(paths: Paths, *command: str) -> list[str]:
    """What the doctor's command finds, run from within another command."""
    arguments = [*(command or (sys.executable, str(DOCTOR))), "--root", str(paths.root), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS, env=environment)
    assert done.stdout, done.stderr
    return [finding["check"] for finding in json.loads(done.stdout)["findings"]]


AS_NOBODY = (
    "import ctypes, os, sys\n"
    "from background_training.commands import common\n"
    "from background_training.commands import doctor as command\n"
    "arguments = [word for word in sys.argv[1:] if word != 'take-watches']\n"
    "command.look(command.parser().parse_args(arguments))\n"  # loads all that is needed, while it may still be read
    f"if os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    "while 'take-watches' in sys.argv and ctypes.CDLL(None).inotify_init1(0) >= 0: pass\n"
    "sys.exit(common.run(command.parser(), command._run, arguments))"
)
"""The doctor, run by somebody whose rights count."""


@pytest.fixture
def of_somebody_else(healthy_machine_root: Path) -> Iterator[Paths]:
    """The root in a folder that everybody may reach, owned by nobody where this process may do everything."""
    with tempfile.TemporaryDirectory(prefix="doctor of somebody else ") as folder:
        os.chmod(folder, 0o755)
        root = Path(folder) / "root"
        shutil.copytree(healthy_machine_root, root)
        for path in (root, *root.rglob("*")):
            if IS_ROOT:
                os.chown(path, NOBODY, NOBODY)
        yield Paths(root)


def test_settings_that_do_not_exist(played, tmp_path):
    """An unknown key in the file, and an unknown variable."""
    config = tmp_path / "mine.yaml"
    config.write_text("learner:\n  batchsize: 5\n", encoding="utf-8")
    words = found(played.root, "--config", str(config))["settings"]
    assert "learner.batchsize" in words and "mine.yaml" in words


def test_variables_that_set_nothing(played, monkeypatch):
    """Misspelt; one that is right is not told."""
    monkeypatch.setenv("LOCAL_TRAINING_LEARNER_BATCH_SIZE", "5")
    monkeypatch.setenv("LOCAL_TRAINING_LERNER_BATCH_SIZE", "5")
    findings = found(played.root)
    assert list(findings) == ["unknown-variables"] and "LOCAL_TRAINING_LERNER_BATCH_SIZE in" in findings["unknown-variables"]


def test_folders_of_somebody_else(of_somebody_else):
    """Once used with sudo: the user who plays may not write there."""
    paths = of_somebody_else
    assert _told(paths, sys.executable, "-c", AS_NOBODY) == []
    if IS_ROOT:
        os.chown(paths.models, 0, 0)
    os.chmod(paths.models, 0o555)
    assert _told(paths, sys.executable, "-c", AS_NOBODY) == ["not-writable"]
    os.chmod(paths.models, 0o755)


def test_episodes_that_may_not_be_read(of_somebody_else):
    """Written by a bot of another user, for itself only."""
    os.chmod(drop(of_somebody_else.buffer, "mine.npz", 99, 12), 0o000)
    assert _told(of_somebody_else, sys.executable, "-c", AS_NOBODY) == ["unreadable-episodes"]


def test_a_system_that_gives_no_more_watches(of_somebody_else):
    """Other programs of this user have taken all inotify instances; here the process that looks does, and ends."""
    if not sys.platform.startswith("linux") or not IS_ROOT:
        pytest.skip("only of a user of its own may all watches be taken")
    assert _told(of_somebody_else, sys.executable, "-c", AS_NOBODY, "take-watches") == ["no-events"]


def test_a_full_disk(played, tmp_path):
    """A disk of 8 MB; and a large one of which the settings want more to stay free."""
    config = tmp_path / "mine.yaml"
    config.write_text("governor:\n  free_disk_bytes: 1000000000000000\n", encoding="utf-8")
    assert list(found(played.root, "--config", str(config))) == ["full-disk"]
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m none "$0" && shift 0 && exec "$@"', str(played.root)]
    try:
        able = subprocess.run([*mount, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        able = False
    if not able:
        pytest.skip("no small disk can be mounted here")
    assert _told(played, *mount, sys.executable, str(DOCTOR)) == ["nothing-here", "full-disk"]


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("nfs4", "rw", "network-drive"),
        ("NTFS", "rw,remote", "network-drive"),
        ("9p", "rw", "network-drive"),
        ("vfat", "rw", "fat-disk"),
    ],
)
def test_disks_of_other_kinds(played, monkeypatch, kind, options, name):
    """Pretended: what the system would say of such a disk."""
    disk = SimpleNamespace(mountpoint=str(played.root), fstype=kind, opts=options)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [SimpleNamespace(mountpoint="/", fstype="ext4", opts="rw"), disk])
    assert list(found(played.root)) == [name]


def test_a_folder_that_a_cloud_copies(played):
    """Pretended only in so far as no such program runs here; its folder is what counts."""
    there = Paths(played.root / "OneDrive - Somebody" / "bot")
    there.root.mkdir(parents=True)
    for name in ("data", "models", "logs"):
        os.rename(played.root / name, there.root / name)
    assert list(found(there.root)) == ["synced-folder"]


def test_a_disk_without_locks(played, monkeypatch):
    """Pretended: what the kernel says of a file system that has none."""

    fcntl = pytest.importorskip("fcntl", reason="Windows locks in another way")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert list(found(played.root)) == ["no-locks"]


def test_renames_that_somebody_looks_at_first(played, monkeypatch):
    """Pretended: a virus scanner that keeps each new file for a while, on a clock that is moved by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock.now)
    real = os.replace

    def scanned(source: Any, target: Any) -> None:
        clock.now += 0.4
        real(source, target)

    monkeypatch.setattr(os, "replace", scanned)
    findings = found(played.root)
    assert list(findings) == ["slow-renames"] and "400 ms" in findings["slow-renames"]


def test_a_disk_with_a_clock_of_its_own(played):
    """Pretended: the facts of a file server that is ten minutes ahead."""
    facts = look(played.root)
    machine = dataclasses.replace(facts.machine, probe=dataclasses.replace(facts.machine.probe, clock_difference_seconds=600.0))
    (finding,) = examination.examine(dataclasses.replace(facts, machine=machine))
    assert finding.check == "disk-clock" and "10m 0s ahead of" in finding.cause


def test_paths_too_long_for_windows(played):
    """Pretended: the facts of a Windows without long paths."""
    facts = look(played.root)
    deep = dataclasses.replace(facts, paths=Paths(Path("C:/" + "bots/" * 25)))
    windows = dataclasses.replace(facts.machine, platform="win32", long_paths=False)
    assert "path-too-long" in [one.check for one in examination.examine(dataclasses.replace(deep, machine=windows))]
    assert "path-too-long" not in [one.check for one in examination.examine(deep)]
    assert examination.examine(dataclasses.replace(facts, machine=windows)) == []


def test_extras_that_are_needed_and_not_there(played, monkeypatch, tmp_path):
    """Games of Gymnasium were played, replays are to be read, and the packages are gone."""
    (tmp_path / "replays").mkdir()
    (tmp_path / "replays" / "a.SC2Replay").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert found(played.root) == {}
    played.games_log.write_text("number\n", encoding="utf-8")
    assert '[games]"' in found(played.root)["missing-extras"]
    monkeypatch.setitem(sys.modules, "sc2reader", None)
    monkeypatch.setenv("REPLAY_ARCHIVE_DIR", str(tmp_path / "replays"))
    assert "[replays]" in found(played.root)["missing-extras"]


def test_replays_that_are_not_there_or_teach_nothing(played, monkeypatch, tmp_path):
    """No folder, no replay in it, and replays without a Zerg, as the analysis counts them."""
    monkeypatch.setenv("REPLAY_ARCHIVE_DIR", str(tmp_path / "replays"))
    assert "does not exist" in found(played.root)["replays-folder"]
    (tmp_path / "replays").mkdir()
    assert "holds no .SC2Replay" in found(played.root)["replays-folder"]
    (tmp_path / "replays" / "a.SC2Replay").write_bytes(b"x")
    counts = {"seen": 4, "learnt": 0, "players": 0, "skipped": {"no-zerg": 3, "too-short": 1}}
    played.build_orders.write_text(json.dumps({"counts": counts}), encoding="utf-8")
    findings = found(played.root)
    assert list(findings) == ["replays-without-zerg"] and "3 of them because of 'no-zerg'" in findings["replays-without-zerg"]


@pytest.fixture
def at_work(played: Paths) -> Iterator[Paths]:
    """The root with a real learner at work in it."""
    with learner_runs.learner(played.root) as learner:
        wait_until(lambda: learner.get_stats()["active_workers"] and (status.read(played) or {}).get("state") == "idle")
        yield played


def test_nothing_is_found_beside_a_learner_at_work(at_work):
    """It is not disturbed, its locks are its own, and it trains on what comes while the doctor looks."""
    for number in range(20):
        drop(at_work.buffer, f"k{number}.npz", 600 + number, 12)
        if number % 5 == 0:
            assert found(at_work.root) == {}
    wait_until(lambda: len(learner_runs.trained(at_work)) == 32)
    wait_until(lambda: not list(at_work.buffer.glob("*.npz")))
    assert found(at_work.root) == {}
    assert (status.read(at_work) or {})["stats"]["errors"] == 0


def test_a_learner_in_the_way_of_another(at_work):
    """Who is about to start one is told which process to stop."""
    assert f"process {os.getpid()} (" in found(at_work.root, "--before-start")["another-learner"]


@pytest.mark.leaves_partials  # of the episode that was being written when the game was killed
@pytest.mark.parametrize(
    "start", [[str(CHECKOUT / "run_with_training.py")], ["-m", "background_training", "run"]], ids=["script", "verb"]
)
def test_a_game_whose_learner_was_refused(root, start):
    """Two runs in one root: the second one plays, and has no learner."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    command = [sys.executable, *start, "--game", "CartPole-v1", "--root", str(root), "--quiet"]
    with learner_runs.learner(root):
        game = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=learner_runs.environment())
        try:
            assert game.stdout is not None and "another learner is at work" in game.stdout.readline()
            assert f"process {game.pid} (" in found(root)["another-learner"]
        finally:
            game.kill()
            game.communicate()


def test_a_learner_that_is_told_not_to_train(played):
    """Switched off in its settings, while episodes wait."""
    drop(played.buffer, "new.npz", 99, 12)
    with learner_runs.learner(played.root, enable_model_training=False):
        wait_until(lambda: (status.read(played) or {}).get("settings"))
        assert "enable_model_training" in found(played.root)["training-is-off"]


def test_a_learner_that_was_killed(played):
    """First its card is left behind; once it has been silent for long enough, it is called dead."""
    process = learner_runs.started_command(played.root, "--quiet")
    try:
        wait_until(lambda: (status.read(played) or {}).get("state") == "idle")
        workers = learner_runs.workers_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    psutil.wait_procs(workers, timeout=PATIENCE_SECONDS)
    assert list(found(played.root)) == ["stale-card"]
    _rewrite_status(played, updated_at=time.time() - 100)
    assert "no lock file to delete" in found(played.root)["learner-is-dead"]


def test_a_worker_without_a_learner(played):
    """Its lock is held by a process that belongs to nobody."""
    lock = RootLock(played.worker_lock)
    assert lock.try_acquire()
    try:
        assert f"process {os.getpid()} (" in found(played.root)["orphaned-worker"]
    finally:
        lock.release()


@pytest.fixture
def held(played: Paths) -> Iterator[Paths]:
    """The root with its learner's lock taken by this process, which says what the test makes it say."""
    lock = LearnerLock(played)
    lock.acquire()
    yield played
    lock.release()


def _rewrite_status(paths: Paths, **changes: Any) -> None:
    content = json.loads(paths.status.read_bytes())
    paths.status.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_a_learner_that_says_nothing(held):
    """Its process lives, and its last word is old."""
    status.write(held, "idle", EMPTY_STATS)
    _rewrite_status(held, updated_at=time.time() - 300)
    assert list(found(held.root)) == ["learner-is-silent"]


def test_a_learner_that_gave_up(played):
    """A real one, over a ledger that somebody has damaged."""
    lines = played.ledger.read_bytes().splitlines(keepends=True)
    played.ledger.write_bytes(b"".join([lines[0], b"{zeros}\n", *lines[2:]]))
    with learner_runs.learner(played.root) as learner:
        wait_until(lambda: not learner.running)
        wait_until(lambda: (status.read(played) or {}).get("state") == "failed")
    findings = found(played.root)
    assert "line 2 is damaged" in findings["learner-has-failed"] and "ledger-damaged" in findings


@pytest.mark.parametrize(
    ("state", "stats", "name"),
    [
        ("waiting", {"last_error": "OSError: No space left on device"}, "machine-fails"),
        ("idle", {"worker_restarts": 3, "last_error": "the worker process died"}, "worker-keeps-dying"),
    ],
)
def test_a_learner_in_trouble(held, state, stats, name):
    """What its status says is told with what to do."""
    status.write(held, state, {**EMPTY_STATS, **stats})
    findings = found(held.root)
    assert list(findings) == [name] and stats["last_error"] in findings[name]


def test_a_learner_that_is_held_up(held):
    """Paused, while episodes wait for minutes."""
    status.write(held, "paused", EMPTY_STATS, governor={"state": "paused", "reason": "the game is busy"})
    assert found(held.root) == {}
    drop(held.buffer, "old.npz", 99, 12, age_seconds=300)
    findings = found(held.root)
    assert list(findings) == ["held-up"] and "the game is busy" in findings["held-up"]


def test_a_root_that_its_user_has_paused(held):
    """Found also while nothing waits, as it may have been forgotten; the cure goes on as it says."""
    pause_file.pause(held)
    status.write(held, "paused", EMPTY_STATS, governor={"state": "paused", "reason": "the user has asked for it"})
    drop(held.buffer, "old.npz", 99, 12, age_seconds=300)
    findings = found(held.root)
    assert list(findings) == ["paused"] and "--resume" in findings["paused"] and " since 2" in findings["paused"]
    pause_file.resume(held)
    assert list(found(held.root)) == ["held-up"]


def test_games_that_are_too_fast(held):
    """Episodes wait for the better part of the time after which they are too old."""
    status.write(held, "training", EMPTY_STATS)
    for number in range(25):
        drop(held.buffer, f"k{number}.npz", 700 + number, 12, age_seconds=2400)
    assert list(found(held.root)) == ["too-slow"]
