"""README and docs are true: their code runs, their commands exist, their links lead somewhere, their tables are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import yaml
from conftest import PATIENCE_SECONDS

from background_training import errors, settings_file
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
PAGES = [README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

TESTED_ELSEWHERE = {"replays.md": "test_replay_docs.py", "vector-envs.md": "test_vector_docs.py"}
"""Pages whose code needs something prepared, and who prepares and runs it."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands(page: Path) -> list[str]:
    return [line.strip() for block in blocks(page, "console") for line in block.splitlines() if line.strip()]


PYTHON_COMMANDS = sorted({line for page in PAGES for line in commands(page) if line.startswith("python ") and ".py" in line})


# Box2D's bindings give a warning while they load, and crash Python where it is an error.
OUR_WARNINGS = "error,ignore:builtin type:DeprecationWarning"


def run_python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder as a user would, our packages within reach; warnings of ours are errors there too."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), "PYTHONWARNINGS": OUR_WARNINGS, "MPLBACKEND": "Agg"}
    environment.pop(settings_file.ROOT_VARIABLE, None)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


PAGES_WITH_CODE = [page for page in PAGES if blocks(page, "python") and page.name not in TESTED_ELSEWHERE]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.name)
def test_python_on_the_page_runs(page, tmp_path):
    """All blocks of a page, one after the other, in an empty folder, in a process of their own."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    run_python([program.name], tmp_path)


def test_pages_tested_elsewhere_are():
    """No page escapes by being listed only."""
    for page, test in TESTED_ELSEWHERE.items():
        assert Path(page).stem in (CHECKOUT / "tests" / test).read_text("utf-8")


def test_the_readme_bot_delivers_its_games(tmp_path):
    """Each of the fifty games of the README's own game has been trained on or still waits; none is lost."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(README, "python")), encoding="utf-8")
    run_python([program.name], tmp_path)
    data = tmp_path / "my_bot" / "data"
    found = {path.name for folder in ("buffer", "archive") for path in (data / folder).glob("*.npz")}
    assert len(found) == 50


@pytest.mark.slow
@pytest.mark.parametrize("command", PYTHON_COMMANDS)
def test_command_exists_and_knows_its_flags(command):
    """A command of the docs has a --help, and that names every flag it is used with."""
    script, *rest = [word for word in command.split()[1:] if word != "-m"]
    assert (CHECKOUT / script).is_file(), f"{command}: there is no {script}"
    text = run_python([script, "--help"], CHECKOUT).stdout if script != "docs/make_settings.py" else ""
    for flag in (word for word in rest if word.startswith("--")):
        assert flag in text, f"{command}: {script} knows no {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every link within the checkout leads to a file, and its fragment to a heading there."""
    broken = []
    for target in _LINK.findall(page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (fragment and fragment not in headings(path)):
            broken.append(target)
    assert not broken


def headings(page: Path) -> set[str]:
    """The anchors of a page, as code hosts make them of its headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_readme_begins_with_two_commands():
    """One installs, one runs; and the extra it installs exists."""
    install, run = blocks(README, "console")[0].splitlines()
    assert install == 'pip install -e ".[games]"'
    assert run == "python run_with_training.py"


def test_extras_that_the_docs_name_exist():
    """What pip is asked for in the docs is defined in pyproject.toml."""
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    extras = re.findall(
        r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2].partition("[tool.")[0], re.MULTILINE
    )
    for page in PAGES:
        for named in re.findall(r"pip install -e \"\.\[([\w,]+)\]\"", page.read_text("utf-8")):
            assert set(named.split(",")) <= set(extras), f"{page.name}: {named}; there are {extras}"


def test_ci_runs_the_readmes_test_command():
    """The README's commands for the tests are, word for word, what CI runs."""
    install, run = blocks(README, "console")[-1].splitlines()
    ci = (CHECKOUT / ".ci" / "run").read_text("utf-8")
    assert run == "python -m pytest -q -n 2"
    assert f"\n{run} " in ci
    assert install.removeprefix("pip install ") in ci


def test_settings_page_and_defaults_are_up_to_date(tmp_path):
    """Both are made from settings.py; the command that makes them is in the message."""
    script = CHECKOUT / "docs" / "make_settings.py"
    program = (
        f"import runpy, json, sys; m = runpy.run_path({str(script)!r}); json.dump([m['page'](), m['defaults']()], sys.stdout)"
    )
    page, defaults = yaml.safe_load(run_python(["-c", program], tmp_path).stdout)
    assert (CHECKOUT / "docs" / "settings.md").read_text("utf-8") == page, "run: python docs/make_settings.py"
    assert settings_file.DEFAULT_FILE.read_text("utf-8") == defaults, "run: python docs/make_settings.py"


def test_default_file_changes_nothing():
    """config/default.yaml holds the defaults, each with its type."""
    assert settings_file.load() == Settings()


def test_exit_codes_of_the_docs_are_those_of_the_errors():
    """The table in operations.md names every exit code that an error of ours has."""
    table = (CHECKOUT / "docs" / "operations.md").read_text("utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    assert documented == codes | {0, 130}


def test_every_count_is_documented():
    """What get_stats() returns is explained in file-formats.md."""
    text = (CHECKOUT / "docs" / "file-formats.md").read_text("utf-8")
    assert [key for key in EMPTY_STATS if f"| `{key}` |" not in text] == []


@pytest.mark.slow
def test_benchmarks_run(tmp_path):
    """The command of performance.md makes its table."""
    script = str(CHECKOUT / "benchmarks" / "run_all.py")
    said = run_python([script, "--quick", "--only", "action_latency", "pickup_latency"], tmp_path).stdout
    assert "| action for one state" in said and "| pick-up latency" in said


@pytest.mark.slow
def test_the_second_command_of_the_readme_plays_and_learns(tmp_path):
    """As in the README, only shorter, in a folder whose name has a space, and it says at the end where things lie."""
    pytest.importorskip("gymnasium")
    root = tmp_path / "a root"
    said = run_python([str(CHECKOUT / "run_with_training.py"), "--games", "12", "--root", str(root)], tmp_path).stdout
    assert "SUMMARY" in said and "Model version:" in said
    assert (root / "models" / "rl_agent_model.npz").is_file()
    assert (root / "logs" / "games.csv").read_text("utf-8").count("\n") == 13


def test_python_blocks_name_their_language():
    """A fenced block without a language is text; one that begins with an import is code that nobody would run."""
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            assert not re.match(r"(import|from) \w+", block), f"{page.name}: {block[:60]}"


@pytest.mark.parametrize("example", sorted((CHECKOUT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_is_sound_python(example):
    """Examples compile, with a docstring first; what they do is tested by their own tests."""
    with tokenize.open(example) as file:
        code = compile(file.read(), str(example), "exec")
    assert code.co_consts and isinstance(code.co_consts[0], str)
