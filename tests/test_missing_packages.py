"""A command that lacks a package says so in one line, with the command that installs it, and shows no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training import command_lines
from background_training.paths import CHECKOUT

pytestmark = pytest.mark.slow  # real processes

# For Python it is as if the packages were not installed: neither can they be imported nor found.
BLOCKER = """
import os
from importlib.machinery import PathFinder

find, blocked = PathFinder.find_spec, os.environ["BLOCKED"].split()
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in blocked else find(name, path, target)
)
"""

COMMANDS = {
    "run": ["--games", "1", "--quiet"],
    "learn": ["--drain"],
    "monitor": ["--once"],
    "selfcheck": [],
    "evaluate": ["--game", "CartPole-v1"],
    "explain": ["--all"],
    "rebuild": [],
    "rollback": ["1"],
    "widen": ["--add-feature", "x"],
    "report": [],
    "tensorboard": ["--once"],
    "replays": ["."],
}


def _run(tmp_path: Path, verb: str, *options: str, blocked: str) -> subprocess.CompletedProcess[str]:
    modules, root = tmp_path / "modules", tmp_path / "a root"
    modules.mkdir(exist_ok=True)
    (modules / "sitecustomize.py").write_text(BLOCKER)
    (root / "data").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(modules), "BLOCKED": blocked}
    command = [sys.executable, str(CHECKOUT / command_lines.SCRIPTS[verb]), *options]
    command += [] if verb == "selfcheck" else ["--root", str(root)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)


def _sentence(package: str, extra: str = "") -> str:
    cure = command_lines.install(extra, sys.executable)
    return f"[ERROR] the package {package} is not installed; run: {cure}\n"


@pytest.mark.parametrize("verb", COMMANDS)
def test_command_without_a_core_package_names_it_and_the_cure(tmp_path: Path, verb: str) -> None:
    """Every command reads settings."""
    done = _run(tmp_path, verb, *COMMANDS[verb], blocked="yaml")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", _sentence("PyYAML"))


@pytest.mark.parametrize("package", ["numpy", "filelock", "psutil", "watchdog"])
@pytest.mark.parametrize("verb", COMMANDS)
def test_command_names_each_core_package_that_it_needs(tmp_path: Path, verb: str, package: str) -> None:
    """Or it works without: no command ends with a traceback, whichever is missing."""
    done = _run(tmp_path, verb, *COMMANDS[verb], blocked=package)
    assert "Traceback" not in done.stderr
    if verb == "run" or "not installed" in done.stderr:
        assert (done.returncode, done.stderr) == (1, _sentence(package))


@pytest.mark.parametrize("package", ["numpy", "yaml", "filelock", "psutil", "watchdog"])
def test_doctor_finds_a_missing_package(tmp_path: Path, package: str) -> None:
    """It runs where nothing is installed."""
    done = _run(tmp_path, "doctor", blocked=package)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"the package {command_lines.pip_name(package)} is not installed" in " ".join(done.stdout.split())
    assert f'pip install -e "{CHECKOUT}"' in " ".join(done.stdout.split())


@pytest.mark.parametrize("verb", ["run", "evaluate"])
@pytest.mark.parametrize("package", ["gymnasium", "cloudpickle"])
def test_games_without_their_extra(tmp_path: Path, verb: str, package: str) -> None:
    """One line, before a folder is made; evaluating needs no processes, and so no cloudpickle."""
    done = _run(tmp_path, verb, *COMMANDS[verb], blocked=package)
    assert "Traceback" not in done.stderr
    if package == "gymnasium" or "not installed" in done.stderr:
        assert (done.returncode, done.stderr) == (1, _sentence(package, "games"))
        assert [path.name for path in (tmp_path / "a root").rglob("*")] == ["data"]


def test_web_monitor_without_its_extra(tmp_path: Path) -> None:
    """One line."""
    done = _run(tmp_path, "monitor", "--web", blocked="nicegui")
    assert "NiceGUI is not installed" in done.stderr and command_lines.install("web") in done.stderr
    assert done.stderr.count("\n") == 1 and done.returncode != 0


def test_pictures_and_the_terminal_screen_may_be_missing(tmp_path: Path) -> None:
    """Without matplotlib and rich a run goes through, and the monitor prints lines."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    for verb, options in {"run": ["--games", "2", "--game", "CartPole-v1"], "monitor": ["--once"], "report": []}.items():
        done = _run(tmp_path, verb, *options, blocked="matplotlib rich")
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
