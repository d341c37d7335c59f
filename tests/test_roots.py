"""A root that is no folder and can't become one: every command refuses it in its own words, and leaves nothing behind."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from background_training.commands import common
from background_training.errors import MachineError, SettingsError
from background_training.paths import CHECKOUT

COMMANDS = {
    "background_training.commands.run": ["--games", "1", "--game", "CartPole-v1", "--quiet"],
    "background_training.commands.learn": ["--drain"],
    "background_training.commands.replays": ["."],
    "background_training.commands.doctor": [],
    "background_training.commands.evaluate": ["--game", "CartPole-v1"],
    "background_training.commands.explain": ["--all"],
    "background_training.commands.tensorboard": [],
    "background_training.commands.monitor": ["--once"],
    "background_training.commands.rebuild": [],
    "background_training.commands.report": [],
    "background_training.commands.rollback": ["1"],
}
WRITERS = ("background_training.commands.run", "background_training.commands.learn", "background_training.commands.replays")


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """Commands that run in this process say what SIGTERM means."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _refused(command: str, root: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of a command that runs in this process."""
    code = importlib.import_module(command).main([*COMMANDS[command], "--root", root])
    said = capsys.readouterr().err
    assert said.startswith("[ERROR] ") and said.count("\n") == 1 and "Errno" not in said and "Traceback" not in said
    return code, said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_can_be_no_folder_is_bad_usage_for_every_command(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, a path below a file, a device, a name too long, a NUL, half a letter, a link into nothing or to itself."""
    (tmp_path / "file").write_text("mine")
    inputs = {
        str(tmp_path / "file"): "it is a file",
        str(tmp_path / "file" / "below" / "it"): f"{tmp_path / 'file'} is a file",
        str(tmp_path / ("x" * 300)): "longer than the file system allows",
        str(tmp_path / "a\0b"): "without NUL",
        str(tmp_path / "half \ud83d letter"): "half letters",
    }
    if sys.platform != "win32":
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        inputs[str(tmp_path / "nowhere")] = "where nothing is"
        inputs[str(tmp_path / "circle")] = "in a circle"
        inputs[os.devnull] = "it is a file"
    before = sorted(os.listdir(tmp_path))

    for root, words in inputs.items():
        code, said = _refused(command, root, capsys)
        assert code == 2 and words in said, said
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a file system in which nobody can make a folder")
@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("root", ["/proc/nope", "/proc/self/nope/deeper", "/proc/1/nope"])
def test_a_folder_that_the_system_does_not_make_is_the_machines_fault(
    command: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that write to a root make it, and say what is in the way."""
    code, said = _refused(command, root, capsys)

    assert code == 5 and f"the root {root}" in said


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs another user to be without rights"
)
@pytest.mark.parametrize(
    ("mode", "below", "words"),
    [
        (0o755, "root", "may not be written to"),
        (0o700, "root", "no permission"),
        (0o555, "", "may not be written to"),
    ],
    ids=["not to be made", "not to be reached", "read-only"],
)
def test_missing_permission_is_named(tmp_path: Path, mode: int, below: str, words: str) -> None:
    """As another user, who may read but not write, or not even enter."""
    probe = "import sys; from pathlib import Path; "
    probe += "from background_training.commands import common as c; c.make_root(Path(sys.argv[1]))"
    folder = Path("/tmp") / f"root_of_another_user_{os.getpid()}"
    folder.mkdir()
    try:
        folder.chmod(mode)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", probe, str(folder / below)],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            timeout=60,
        )
    finally:
        folder.chmod(0o755)
        folder.rmdir()
    if "Permission denied" in done.stderr and "MachineError" not in done.stderr:
        pytest.skip("another user may not even start this Python")
    assert "MachineError" in done.stderr and words in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EROFS, 5, "read-only"),
        (errno.EACCES, 5, "no permission"),
        (errno.ENOSPC, 5, "No space left"),
        (errno.EINVAL, 2, "allows no such name"),
        (errno.EIO, 5, "input/output error"),
    ],
)
def test_what_making_the_root_meets_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, words: str
) -> None:
    """Whatever the system answers; a name that the file system refuses is bad usage, all else is the machine."""

    def refuses(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "new"))

    monkeypatch.setattr(Path, "mkdir", refuses)

    with pytest.raises((SettingsError, MachineError)) as caught:
        common.make_root(tmp_path / "new")
    assert caught.value.exit_code == code and words in str(caught.value) and "Errno" not in str(caught.value)


def test_a_missing_drive_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing above the root is there, not even its drive."""
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)

    with pytest.raises(SettingsError, match="there is no drive /") as caught:
        common.check_root(Path("/bots/zerg"))
    assert caught.value.exit_code == 2


def test_a_new_root_is_made_with_those_above_it(tmp_path: Path) -> None:
    """Checking makes nothing; making it twice is no error."""
    common.check_root(tmp_path / "a" / "b c" / "ü")
    assert not (tmp_path / "a").exists()

    for _ in range(2):
        common.make_root(tmp_path / "a" / "b c" / "ü")
    assert (tmp_path / "a" / "b c" / "ü").is_dir()
