"""Ctrl+C while a command still loads its packages: exit code 130, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT

# A package that takes for ever to load, and that answers an interrupt as the real one may: with an error of its own.
SLOW = """
import os, time
os.write(1, b"loading")
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("it failed to load")
"""

COMMANDS = [
    ["run_with_training.py", "--games", "1"],
    ["tools/background_parallel_learner.py", "--drain"],
    ["tools/monitor_background_training.py", "--once"],
    ["tools/export_tensorboard.py", "--once"],
    ["tools/explain_episode.py", "--all"],
    ["tools/rebuild_model.py"],
    ["tools/rollback_model.py", "1"],
    ["tools/widen_model.py", "--add-feature", "x"],
    ["tools/report.py"],
    ["tools/evaluate.py"],
    ["tools/analyze_replays.py"],
    ["tools/doctor.py"],
    ["tools/test_background_training.py"],
]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to another process")
@pytest.mark.parametrize("package", ["yaml", "numpy"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[0]).stem)
def test_interrupt_while_a_command_loads_shows_no_traceback(command: list[str], package: str, root: Path, tmp_path: Path) -> None:
    """From another process, at a moment that is certain: in the middle of an import, at the top of the command's modules
    (yaml) or, with most commands, within a function (numpy)."""
    if package == "numpy" and "tools/analyze_replays.py" in command:
        pytest.skip("it needs no NumPy")
    (tmp_path / "modules" / package).mkdir(parents=True)
    (tmp_path / "modules" / package / "__init__.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "modules")}
    new = root / "new"
    (new / "data").mkdir(parents=True)  # some commands look for a run before they load anything
    arguments = [sys.executable, str(CHECKOUT / command[0]), *command[1:], "--root", str(new)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes, env=environment, cwd=tmp_path, start_new_session=True) as process:
        said = b""
        while not said.endswith(b"loading"):
            more = process.stdout.read(1)
            assert more, f"it never loads the package: {said!r} {process.stderr.read().decode()}"
            said += more
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()

    assert (process.returncode, errors.decode()) == (130, "")


@pytest.mark.parametrize("how", ["file", "module", "safe path", "link"])
def test_command_is_found_however_it_is_started(how: str, tmp_path: Path) -> None:
    """As a file or as a module, from anywhere, by way of a link, and where Python does not look into the script's folder."""
    file = CHECKOUT / "tools" / "explain_episode.py"
    link = tmp_path / "explain.py"
    link.symlink_to(file)
    started = {
        "file": [str(file)],
        "module": ["-m", "background_training.commands.explain"],
        "safe path": [str(file)],
        "link": [str(link)],
    }[how]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"} if how == "safe path" else dict(os.environ)
    folder = CHECKOUT if how == "module" else tmp_path

    done = subprocess.run(
        [sys.executable, *started, "--all", "--root", str(tmp_path)],
        env=environment,
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
