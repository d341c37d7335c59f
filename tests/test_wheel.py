"""The wheel in a clean environment: it holds one package, runs beside any bot's folders, and leaves site-packages alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import util
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import PATIENCE_SECONDS
from filelock import FileLock

from background_training.cli import VERBS
from background_training.paths import CHECKOUT, Paths

pytestmark = pytest.mark.slow

DEPENDENCIES = ("numpy", "yaml", "filelock", "psutil", "watchdog")
OPTIONAL = ("gymnasium", "cloudpickle", "rich", "matplotlib")

README_PROGRAM = re.search(r"```python\n(import random\n.*?)```", (CHECKOUT / "README.md").read_text("utf-8"), re.DOTALL)[1]
OWN_GAME = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register(id="Mine-v0", entry_point=CartPoleEnv, max_episode_steps=20)
"""


class Installed(NamedTuple):
    """A virtual environment with our wheel in it."""

    python: Path
    script: Path
    site: Path

    def run(self, *arguments: object, cwd: Path, exit_code: int = 0) -> str:
        """Run a program of the environment; returns what it printed."""
        command = [str(argument) for argument in arguments]
        done = subprocess.run(
            command, cwd=cwd, env=_clean(), capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE_SECONDS
        )
        assert done.returncode == exit_code, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr


def _clean() -> dict[str, str]:
    """The environment without what would lead to the checkout or change its settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "LOCAL_TRAINING_", "PYTHONHOME"))
    }
    return {**kept, "PYTHONIOENCODING": "utf-8"}


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, env=_clean(), capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    if "No matching distribution found for setuptools" in done.stdout + done.stderr:
        pytest.skip("building a wheel needs setuptools from pip's index, and it is out of reach")
    assert done.returncode == 0, (command, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The wheel, built once for all processes of a test run, from a copy: building leaves folders in a checkout."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not list(folder.glob("*.whl")):
            source = tmp_path_factory.mktemp("source")
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                (source / name).write_bytes((CHECKOUT / name).read_bytes())
            for file in (CHECKOUT / "src" / "background_training").rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts:
                    copy = source / file.relative_to(CHECKOUT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
            _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


def _environment(folder: Path) -> Installed:
    """A virtual environment with nothing in it."""
    venv.create(folder, with_pip=False)
    variables = {"base": str(folder), "platbase": str(folder), "installed_base": str(folder)}
    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else None
    found = sysconfig.get_paths(scheme, vars=variables) if scheme else sysconfig.get_paths(vars=variables)
    programs, ending = Path(found["scripts"]), ".exe" if sys.platform == "win32" else ""
    return Installed(programs / f"python{ending}", programs / f"background-training{ending}", Path(found["purelib"]))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel and its dependencies, and in its site-packages what other packages may have brought: a
    config/default.yaml, and backports of modules that Python has.

    Dependencies are those of the running environment. A .pth file adds their folders, whose own .pth files, as that of an
    editable installation, Python does not read.
    """
    made = _environment(tmp_path_factory.mktemp("installed") / "an Ümgebung")
    _pip("--python", made.python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    specs = [util.find_spec(name) for name in DEPENDENCIES + OPTIONAL]
    folders = dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin is not None)
    (made.site / "dependencies.pth").write_text("\n".join(folders) + "\n", "utf-8")
    found = made.run(made.python, "-c", "import background_training; print(background_training.__file__)", cwd=made.site.parent)
    assert Path(found.strip()).parent == made.site / "background_training"
    for name in ("argparse", "pathlib", "uuid", "socket", "json"):
        (made.site / f"{name}.py").write_text(
            'raise ImportError("a backport for old Pythons, which must not come before the real one")'
        )
    (made.site / "config").mkdir()
    (made.site / "config" / "default.yaml").write_text("of_another_package: true\n")
    return made


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _check_programs_of_bot(installed: Installed, bot: Path, program: str, root: str) -> None:
    """Play and train in a bot's folder, with site-packages read-only, and train on the rest by the console script."""
    (bot / "my_bot.py").write_text(program, "utf-8")
    own = {path: path.read_bytes() for path in bot.rglob("*") if path.is_file()}
    before = _listing(installed.site)
    modes = {folder: folder.stat().st_mode for folder in [installed.site, *installed.site.rglob("*")] if folder.is_dir()}
    for folder, mode in modes.items():
        folder.chmod(mode & ~0o222)
    try:
        installed.run(installed.python, "my_bot.py", cwd=bot)
        errors = Paths(bot / root).logs / "worker_stderr.txt"
        assert not errors.exists() or errors.read_text() == ""
        options = [] if root == "local_training" else ["--root", root]
        installed.run(installed.script, "learn", "--drain", "--quiet", *options, cwd=bot)
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)

    assert len(list(Paths(bot / root).archive.glob("*.npz"))) == 100
    assert Paths(bot / root).model.is_file()
    assert {path: path.read_bytes() for path in own} == own
    assert _listing(installed.site) == before


BOTS = {
    "no folders": ({}, ""),
    "tools is a package": ({"tools/__init__.py": "MINE = 1\n"}, "import tools\nassert tools.MINE == 1\n"),
    "tools is a folder": ({"tools/helper.py": "MINE = 2\n"}, "import tools.helper\nassert tools.helper.MINE == 2\n"),
    "local_training holds data": (
        {"local_training/data/notes.txt": "mine", "local_training/own.csv": "1,2"},
        "import pathlib\nassert pathlib.Path('local_training/own.csv').exists()\n",
    ),
    "local_training is a package": (
        {"local_training/__init__.py": "MINE = 3\n", "local_training/brain.py": "MINE = 4\n", "config/default.yaml": "mine: 1\n"},
        "import local_training.brain\nassert local_training.brain.MINE == 4\n",
    ),
}


@pytest.mark.parametrize("root", ["my_bot", "local_training"])
@pytest.mark.parametrize("bot", BOTS)
def test_readme_program_runs_beside_any_bot(installed: Installed, tmp_path: Path, bot: str, root: str) -> None:
    """With the root that README names, and without one, which is then ./local_training. Nothing of the bot's is touched, and
    nothing is written into site-packages."""
    files, imports = BOTS[bot]
    folder = tmp_path / "a bot's földer"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    program = README_PROGRAM if root == "my_bot" else README_PROGRAM.replace('root="my_bot", ', "").replace('root="my_bot"', "")

    _check_programs_of_bot(installed, folder, imports + program, root)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """At top level only background_training and its metadata; every module, and the page's style sheet."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        metadata = {name.rpartition("/")[2]: archive.read(name).decode() for name in names if ".dist-info/" in name}
    folders = {name.partition("/")[0] for name in names}
    info = next(name for name in folders if name.endswith(".dist-info"))
    assert folders == {"background_training", info}
    assert {line.split(",")[0] for line in metadata["RECORD"].splitlines()} == set(names)
    source = CHECKOUT / "src"
    expected = {path.relative_to(source).as_posix() for path in (source / "background_training").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == expected
    assert "background_training/monitor/web/page.css" in names
    assert metadata["entry_points.txt"].split() == [
        "[console_scripts]",
        "background-training",
        "=",
        "background_training.cli:main",
    ]


def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    """Every file of the environment is as before the installation, after a command has run too."""
    made = _environment(tmp_path / "environment")
    before = {str(path) for path in (tmp_path / "environment").rglob("*")}
    _pip("--python", made.python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    assert made.script.is_file()
    assert made.run(made.script, "--version", cwd=tmp_path).startswith("background-training 0.")
    _pip("--python", made.python, "uninstall", "--quiet", "--yes", "background-training")

    assert {str(path) for path in (tmp_path / "environment").rglob("*")} == before


def test_every_verb_names_itself(installed: Installed, tmp_path: Path) -> None:
    """`background-training VERB --help` shows its usage under that name, and no script of a checkout."""
    for verb in VERBS:
        printed = installed.run(installed.script, verb, "--help", cwd=tmp_path)
        assert printed.startswith(f"usage: background-training {verb} "), printed
        assert not re.search(r"tools/|\w+_\w+\.py", printed), printed
    assert list(tmp_path.iterdir()) == []


def test_messages_name_the_verbs(installed: Installed, tmp_path: Path) -> None:
    """What the doctor and the monitor advise can be typed where there is no checkout."""
    installed.run(installed.script, "learn", "--drain", "--root", "bot", cwd=tmp_path)
    (Paths(tmp_path / "bot").buffer / "damaged.npz").write_bytes(b"no episode")
    printed = installed.run(installed.script, "monitor", "--pause", "--root", "bot", cwd=tmp_path)
    printed += installed.run(installed.script, "learn", "--drain", "--root", "bot", cwd=tmp_path, exit_code=6)
    printed += installed.run(installed.script, "doctor", "--root", "bot", cwd=tmp_path, exit_code=1)
    printed += installed.run(installed.script, "monitor", "--resume", "--root", "bot", cwd=tmp_path)
    printed += installed.run(installed.script, "monitor", "--once", "--root", "bot", cwd=tmp_path)

    assert "background-training monitor --root" in printed
    assert not re.search(r"tools[/\\]|run_with_training", printed), printed


def test_a_game_of_the_current_folder_is_found(installed: Installed, tmp_path: Path) -> None:
    """`--game module:ID`, played here, in processes of their own, and evaluated."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    (tmp_path / "my_game.py").write_text(OWN_GAME)
    for options in (["--games", "2"], ["--games", "4", "--instances", "2"]):
        installed.run(installed.script, "run", "--game", "my_game:Mine-v0", "--quiet", *options, cwd=tmp_path)
    assert "my_game:Mine-v0" in installed.run(installed.script, "evaluate", "--episodes", "5", cwd=tmp_path)
    assert len(list(Paths(tmp_path / "local_training").data.rglob("*.npz"))) == 6


def test_self_check_passes(installed: Installed, tmp_path: Path) -> None:
    """The checks that a user runs on their own machine."""
    installed.run(installed.script, "selfcheck", cwd=tmp_path)
