"""The launchers set up what is missing, once, and pass everything through. The .bat files are checked as texts only."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT

BAT = CHECKOUT / "bat"
TOOLS = ("dirname", "cmp", "cp", "mkdir", "rm", "cat", "chmod", "sh")

# A Python that makes environments holding itself, and writes down what it is asked. VERSION is what it says it is.
STUB = """#!/bin/sh
case "$2" in
    *version_info*\\<*) exit $TOO_OLD ;;
    *version_info*) echo 3.8; exit 0 ;;
esac
if [ "$1 $2" = "-m venv" ]; then
    echo "venv" >> "$ASKED"
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python"
    exit $?
fi
if [ "$1 $2" = "-m pip" ]; then
    [ "$3" = "--version" ] && exit 0
    echo "install in $PWD: $6 $7" >> "$ASKED"
    exit ${PIP_EXIT:-0}
fi
for argument in "$@"; do echo "<$argument>" >> "$ASKED"; done
exit ${RUN_EXIT:-0}
"""

needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")


class Sandbox:
    """A copy of the launchers in an awkward folder, with nothing but a few tools and perhaps a Python in reach."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a Wörk (1) & co"
        shutil.copytree(BAT, self.checkout / "bat")
        (self.checkout / "pyproject.toml").write_text("first")
        self.programs = folder / "programs"
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(str(shutil.which(tool)))
        self._asked = folder / "asked.txt"

    def add_python(self, name: str = "python3") -> None:
        (self.programs / name).write_text(STUB)
        (self.programs / name).chmod(0o755)

    def run(self, script: str, *options: str, too_old: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        self._asked.unlink(missing_ok=True)
        environment = {"PATH": str(self.programs), "ASKED": str(self._asked), "TOO_OLD": str(too_old), **more}
        command = [str(self.checkout / "bat" / script), *options]
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)

    def start(self, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("start_model_training.sh", *options, **more)

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text("utf-8").splitlines() if self._asked.exists() else []


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    made = Sandbox(tmp_path)
    made.add_python()
    return made


@needs_sh
def test_first_start_makes_installs_and_runs(sandbox: Sandbox) -> None:
    """From nothing, on a path with spaces, from any folder: an environment, an installation, the run."""
    done = sandbox.start("--games", "3", "--root", "some where & else")

    assert done.returncode == 0, done.stderr
    assert sandbox.asked == [
        "venv",
        f"install in {sandbox.checkout}: -e .[games]",
        f"<{sandbox.checkout}/run_with_training.py>",
        "<--games>",
        "<3>",
        "<--root>",
        "<some where & else>",
    ]


@needs_sh
def test_second_start_only_runs(sandbox: Sandbox) -> None:
    """What has been set up is not set up again, so the second start costs nothing."""
    sandbox.start()
    sandbox.start("--quiet")
    assert sandbox.asked == [f"<{sandbox.checkout}/run_with_training.py>", "<--quiet>"]


@needs_sh
def test_changed_requirements_are_installed(sandbox: Sandbox) -> None:
    """After an update of the project its new dependencies are installed by themselves."""
    sandbox.start()
    (sandbox.checkout / "pyproject.toml").write_text("second")
    sandbox.start()
    assert [line.split()[0] for line in sandbox.asked[:1]] == ["install"]


@needs_sh
def test_failed_installation_is_said_and_tried_again(sandbox: Sandbox) -> None:
    """Without network nothing is run, and the next start goes on where this one failed."""
    done = sandbox.start(PIP_EXIT="1")
    assert done.returncode == 1 and "[ERROR] the installation failed" in done.stderr
    assert not [line for line in sandbox.asked if "run_with_training" in line]

    assert sandbox.start().returncode == 0
    assert [line.split()[0] for line in sandbox.asked] == ["install", f"<{sandbox.checkout}/run_with_training.py>".split()[0]]


@needs_sh
def test_environment_without_its_python_is_made_anew(sandbox: Sandbox) -> None:
    """An upgrade of the system's Python takes an environment's one away; that mends itself."""
    sandbox.start()
    (sandbox.checkout / ".venv" / "bin" / "python").unlink()
    assert sandbox.start().returncode == 0
    assert sandbox.asked[0] == "venv"


@needs_sh
def test_exit_code_is_passed_on(sandbox: Sandbox) -> None:
    """A script around the launcher sees how the run ended."""
    assert sandbox.start(RUN_EXIT="3").returncode == 3


@needs_sh
def test_missing_python_is_said(tmp_path: Path) -> None:
    """Without Python, one line says what is needed and where it is to be had."""
    done = Sandbox(tmp_path).start()
    assert done.returncode == 1
    assert done.stderr.startswith("[ERROR] no Python was found; 3.10 or newer is needed")


@needs_sh
def test_old_python_is_said(sandbox: Sandbox) -> None:
    """With an old Python, one line says which was found."""
    done = sandbox.start(too_old=1)
    assert done.returncode == 1
    assert done.stderr.startswith("[ERROR] Python 3.8 is too old; 3.10 or newer is needed")


@needs_sh
@pytest.mark.parametrize(
    ("script", "tool"), [("monitor.sh", "monitor_background_training.py"), ("self_check.sh", "test_background_training.py")]
)
def test_tools_run_in_the_environment(sandbox: Sandbox, script: str, tool: str) -> None:
    """The small launchers run their tool in the environment, or say how to get one."""
    done = sandbox.run(script)
    assert done.returncode == 1 and "there is no virtual environment yet" in done.stderr

    sandbox.start()
    sandbox.run(script, "--a flag")
    assert sandbox.asked == [f"<{sandbox.checkout}/tools/{tool}>", "<--a flag>"]
    assert (CHECKOUT / "tools" / tool).is_file()


BATCH_FILES = sorted(BAT.glob("*.bat"))


def _code(path: Path) -> list[str]:
    """The lines that cmd.exe runs."""
    return [line for line in path.read_bytes().decode("ascii").split("\r\n") if line and not line.startswith("rem ")]


@pytest.mark.parametrize("path", BATCH_FILES, ids=lambda path: path.name)
def test_batch_file_is_one_that_cmd_reads(path: Path) -> None:
    """ASCII with CRLF throughout, as cmd.exe loses labels in a file without; and git leaves it so."""
    data = path.read_bytes()
    assert data.endswith(b"\r\n") and data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r")
    data.decode("ascii")
    assert "*.bat -text" in (BAT / ".gitattributes").read_text()


@pytest.mark.parametrize("path", BATCH_FILES, ids=lambda path: path.name)
def test_batch_file_quotes_every_path(path: Path) -> None:
    """Each variable that holds a path, and the launcher's own folder, stand inside quotation marks."""
    for line in _code(path):
        outside = "".join(line.split('"')[::2])
        assert line.count('"') % 2 == 0, line
        assert not re.search(r"%(checkout|venv|python_in_venv|installed|~dp0)", outside), line


@pytest.mark.parametrize("path", BATCH_FILES, ids=lambda path: path.name)
def test_batch_file_has_no_blocks_that_a_path_could_end(path: Path) -> None:
    """No command stands in parentheses; only the text of the version check and the list of `for` do."""
    for line in _code(path):
        outside = "".join(line.split('"')[::2])
        if not line.startswith("for "):
            assert "(" not in outside and ")" not in outside, line


def test_every_label_of_the_launcher_is_there_and_used() -> None:
    """A goto without its label ends a batch file without a word."""
    code = _code(BAT / "start_model_training.bat")
    labels = {line[1:] for line in code if line.startswith(":")}
    used = {match for line in code for match in re.findall(r"goto (\w+)", line)}
    assert used == labels


def test_every_step_of_the_launcher_is_checked() -> None:
    """After each program that may fail, the next line looks at its exit code."""
    code = _code(BAT / "start_model_training.bat")
    for line, following in itertools.pairwise(code):
        if re.match(r'("%python_in_venv%"|%python%|py |python |fc |copy )', line):
            assert "errorlevel" in following, line


@pytest.mark.parametrize("path", BATCH_FILES, ids=lambda path: path.name)
def test_batch_file_passes_options_and_exit_code(path: Path) -> None:
    """All options reach the program, and its exit code is the launcher's."""
    code = _code(path)
    runs = [index for index, line in enumerate(code) if line.endswith("%*")]
    assert len(runs) == 1
    target = re.search(r'\\((?:tools\\)?\w+\.py)" %\*$', code[runs[0]])
    assert target is not None and (CHECKOUT / target.group(1).replace("\\", os.sep)).is_file()
    rest = code[runs[0] + 1 :]
    assert not rest or (rest[0].lstrip("@") == 'set "exit_code=%errorlevel%"' and "exit /b %exit_code%" in rest[-1])


def test_launchers_install_what_the_project_offers() -> None:
    """The extra that both launchers install exists."""
    assert "\ngames = [" in (CHECKOUT / "pyproject.toml").read_text("utf-8")
    for name in ("start_model_training.sh", "start_model_training.bat"):
        assert '-e ".[games]"' in (BAT / name).read_text("ascii")
