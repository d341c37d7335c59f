"""What commands print: whoever reads along may go away, and a mistyped root is neither read nor made."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import episodes
import learner_runs
import pytest

from background_training import printable
from background_training.learner import drain as drains
from background_training.paths import CHECKOUT, Paths
from background_training.storage import model_store

pytestmark = pytest.mark.slow  # real processes


@pytest.fixture
def played(paths: Paths) -> Paths:
    """A root in which one version was trained."""
    episodes.write(paths.buffer, "game.npz")
    drains.drain(learner_runs.settings(paths.root), lambda event, **facts: None)
    return paths


def _run(*command: str, stdout: int = subprocess.PIPE) -> tuple[int, str]:
    """Exit code and stderr of a command; as most users have it, with output that waits in a buffer."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    tool, *flags = command
    found = subprocess.run(
        [sys.executable, str(CHECKOUT / "tools" / tool), *flags],
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=60,
        check=False,
    )
    return found.returncode, found.stderr.decode()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("explain_episode.py", "--all"), 0),
        (("doctor.py",), 1),  # of a stray file
        (("background_parallel_learner.py", "--drain"), 0),
        (("rebuild_model.py", "--publish"), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_reader_that_has_gone_away_ends_no_command(played: Paths, command: tuple[str, ...], code: int) -> None:
    """As `| head -1` does: no message, the usual exit code, and what was to be done is done."""
    there = model_store.read(played.model).version
    if command[0] == "doctor.py":
        (played.buffer / "no_episode.txt").write_text("nobody takes it")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = _run(*command, "--root", str(played.root), stdout=writing)
    finally:
        os.close(writing)

    assert found == (code, "")
    assert model_store.read(played.model).version == there + ("--publish" in command)


@pytest.mark.skipif(sys.platform == "win32" or not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_a_full_disk_does_not_take_is_an_error(played: Paths) -> None:
    """Of a list that was asked for, a part is missing: that is said."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, said = _run("explain_episode.py", "--all", "--root", str(played.root), stdout=full)
    finally:
        os.close(full)

    assert code == 5 and said.startswith("[ERROR] ") and "No space left" in said and "Traceback" not in said


@pytest.mark.parametrize("command", [("rebuild_model.py",), ("rollback_model.py", "3")], ids=lambda command: command[0])
def test_a_mistyped_root_is_named_and_not_made(tmp_path: Path, command: tuple[str, ...]) -> None:
    """These two begin nothing new: where no learner has worked, there is nothing to train again or to go back to."""
    code, said = _run(*command, "--root", str(tmp_path / "mistyped"))

    assert code == 5 and "there is no run in it" in said
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("background_parallel_learner.py", "--drain", "--root", ""), "--root: the name of a folder is needed"),
        (("monitor_background_training.py", "--web", "--port", "70000"), "--port is 70000; a port from 0 to 65535"),
        (("rebuild_model.py", "--output", os.devnull), f"the name of a file is needed, and {os.devnull!r} is none"),
        (("report.py", "--out", ""), "the name of a file is needed, and '' is none"),
    ],
    ids=["an empty root", "an impossible port", "a device to be replaced", "an empty name"],
)
def test_what_can_not_be_meant_is_bad_usage(command: tuple[str, ...], words: str) -> None:
    """A script's unset variable as the root would mean the folder where one stands; root's model would take /dev/null's place."""
    code, said = _run(*command)

    assert code == 2 and words in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('my own mistake')", "it failed on 'game.npz': RuntimeError: my own mistake"),
        ("return arrays['rewards'][1:]", "it failed on 'game.npz': rewards has 11 steps, states has 12"),
    ],
    ids=["raises", "too short"],
)
def test_a_relabelling_that_fails_is_named_with_its_episode(played: Paths, body: str, words: str) -> None:
    """Whose mistake it is, and for which game it shows, of hundreds; and nothing is published."""
    file = played.root / "rewards.py"
    file.write_text(f"def other(name, arrays):\n    {body}\n")
    before = played.model.read_bytes()

    code, said = _run("rebuild_model.py", "--relabel", f"{file}:other", "--publish", "--root", str(played.root))

    assert code == 2 and words in said and "Traceback" not in said
    assert played.model.read_bytes() == before


def test_episodes_are_trained_again_with_other_rewards(played: Paths) -> None:
    """Relabelled by what they were, the model stays; by others, it becomes another one."""
    file = played.root / "rewards.py"
    file.write_text(
        "def same(name, arrays):\n    return arrays['rewards']\n\ndef less(name, arrays):\n    return arrays['rewards'] - 1\n"
    )
    made = played.models / "rebuilt_model.npz"

    policies = {}
    for function in ("same", "less"):
        assert _run("rebuild_model.py", "--relabel", f"{file}:{function}", "--root", str(played.root)) == (0, "")
        policies[function] = model_store.read(made).arrays["W1"].tobytes()

    assert policies["same"] == model_store.read(played.model).arrays["W1"].tobytes() != policies["less"]


@pytest.mark.parametrize(
    ("platform", "environment", "written"),
    [
        ("win32", {}, "ä☃\n".encode()),
        ("win32", {"PYTHONIOENCODING": "cp1252"}, b"\xe4\\u2603\n"),
        ("linux", {}, b"\xe4\\u2603\n"),
    ],
)
def test_windows_writes_utf_8_into_pipes(platform: str, environment: dict[str, str], written: bytes) -> None:
    """Unless the user chose an encoding; what an encoding lacks is written as escapes everywhere."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")

    printable.prepare(stream, platform, environment)
    stream.write("ä☃\n")
    stream.flush()

    assert stream.buffer.getvalue() == written  # type: ignore[attr-defined]


def test_a_closed_pipe_is_recognised_by_what_each_system_calls_it() -> None:
    """Windows reports an invalid argument, without a file's name; with one, it is an invalid name."""
    assert printable.reader_is_gone(BrokenPipeError(), "linux")
    assert printable.reader_is_gone(OSError(errno.EINVAL, "Invalid argument"), "win32")
    assert not printable.reader_is_gone(OSError(errno.EINVAL, "Invalid argument", "a?b"), "win32")
    assert not printable.reader_is_gone(OSError(errno.EINVAL, "Invalid argument"), "linux")
