"""README and docs are true: their code runs, their commands exist, their links lead somewhere, their tables are complete."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import yaml
from conftest import PATIENCE_SECONDS

from background_training import cli, command_lines, errors, settings_file
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
DOCS = CHECKOUT / "docs"
PAGES = [README, CHECKOUT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

TESTED_ELSEWHERE = {
    "docs/how-to/starcraft2-replays.md": "test_replay_docs.py",
    "docs/how-to/vector-environments.md": "test_vector_docs.py",
}
"""Pages whose code needs something prepared, and the test that prepares and runs it."""


def name_of(page: Path) -> str:
    """A page's path in the checkout, with slashes."""
    return page.relative_to(CHECKOUT).as_posix()


_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands(page: Path) -> list[str]:
    return [line.strip() for block in blocks(page, "console") for line in block.splitlines() if line.strip()]


def flags_by_program() -> dict[str, set[str]]:
    """Each script (`tools/doctor.py`) and verb (`doctor`) that a page shows, and all flags that it is shown with."""
    found: dict[str, set[str]] = {}
    for line in {line.partition("#")[0] for page in PAGES for line in commands(page)}:
        words = line.split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # VARIABLE=value in front of a command
            words = words[1:]
        if words[:1] == ["background-training"] or (words[:1] == ["python"] and words[1].endswith(".py")):
            found.setdefault(words[1], set()).update(word for word in words[2:] if word.startswith("--"))
    return found


PROGRAMS = flags_by_program()


# Box2D's bindings give a warning while they load, and crash Python where it is an error.
OUR_WARNINGS = "error,ignore:builtin type:DeprecationWarning"


def run_python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder as a user would, our packages within reach; warnings of ours are errors there too."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), "PYTHONWARNINGS": OUR_WARNINGS, "MPLBACKEND": "Agg"}
    environment.pop(settings_file.ROOT_VARIABLE, None)
    environment["LOCAL_TRAINING_GOVERNOR_ENABLED"] = "false"  # otherwise the other tests' load decides how long a page takes
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


PAGES_WITH_CODE = [
    page
    for page in PAGES
    if blocks(page, "python") and name_of(page) not in TESTED_ELSEWHERE and page not in (README, DOCS / "tutorial.md")
]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name_of)
def test_python_on_the_page_runs(page, tmp_path):
    """All blocks of a page, one after the other, in an empty folder, in a process of their own."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    run_python([program.name], tmp_path)


def test_pages_tested_elsewhere_are():
    """No page escapes by being listed only."""
    for page, test in TESTED_ELSEWHERE.items():
        assert Path(page).stem in (CHECKOUT / "tests" / test).read_text("utf-8")


def test_the_readme_bot_gets_better(tmp_path):
    """A line every ten games; return and version rise; each of the hundred games has been trained on when the program ends."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(README, "python")), encoding="utf-8")
    said = run_python([program.name], tmp_path).stdout
    lines = re.findall(r"^game (\d+): mean return ([\d.]+), model version (\d+)$", said, re.MULTILINE)
    assert [int(game) for game, _, _ in lines] == list(range(10, 101, 10)), said
    returns, versions = [float(value) for _, value, _ in lines], [int(version) for _, _, version in lines]
    assert max(returns[-3:]) > returns[0] + 3 and versions == sorted(versions) and versions[0] >= 1, said
    data = tmp_path / "my_bot" / "data"
    assert len(list((data / "archive").glob("*.npz"))) == 100 and not list((data / "buffer").glob("*.npz"))


@pytest.mark.slow
def test_the_tutorials_bot_gets_better(tmp_path):
    """The coins at the end are clearly more than at the beginning, and the folders are those that the page names."""
    program = tmp_path / "farm.py"
    program.write_text("\n".join(blocks(DOCS / "tutorial.md", "python")), encoding="utf-8")
    said = run_python([program.name], tmp_path).stdout
    before, after = (float(re.findall(rf"^{word}: ([\d.]+)$", said, re.MULTILINE)[0]) for word in ("before", "after"))
    assert after > before + 10
    assert (tmp_path / "farm" / "models" / "rl_agent_model.npz").is_file()
    assert len(list((tmp_path / "farm" / "data").rglob("*.npz"))) == 151


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_command_exists_and_has_its_flags(program):
    """A script or verb of the docs exists, and its --help names every flag that it is shown with."""
    if program.endswith(".py"):
        assert (CHECKOUT / program).is_file(), f"there is no {program}"
        arguments = [program]
    else:
        assert program == "--help" or program in cli.VERBS
        arguments = ["-m", "background_training", program]
    text = "" if program == "docs/make_settings.py" else run_python([*dict.fromkeys([*arguments, "--help"])], CHECKOUT).stdout
    assert {flag for flag in PROGRAMS[program] if flag not in text} == set()


def test_every_verb_has_its_row():
    """The page of commands lists each verb of the console script, with the script of the same name in a checkout."""
    page = (DOCS / "reference" / "commands.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (?:`([\w/.]+)` )?\|", page, re.MULTILINE))
    assert set(rows) >= set(cli.VERBS)
    assert {verb: rows[verb] for verb in cli.VERBS} == {verb: command_lines.SCRIPTS.get(verb, "") for verb in cli.VERBS}
    for verb, script in command_lines.SCRIPTS.items():
        assert f"background_training.commands.{cli.VERBS[verb][0]}" in (CHECKOUT / script).read_text("utf-8"), script


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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


@functools.cache
def headings(page: Path) -> set[str]:
    """The anchors of a page, as code hosts make them of its headings; lines of code blocks are no headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_every_page_can_be_reached(page):
    """Another page links to it; the README's own links are where a reader starts."""
    targets = {
        (other.parent / target.partition("#")[0]).resolve()
        for other in PAGES
        if other not in (page, CHECKOUT / "CHANGELOG.md")
        for target in _LINK.findall(other.read_text("utf-8"))
    }
    assert page.resolve() in targets


def test_pages_and_images_named_in_the_code_exist():
    """Messages, comments and tests name pages by their path in the checkout."""
    named = {
        (path, target)
        for folder in ("src", "tests", "benchmarks", "examples", "config", "tools", "bat", ".ci")
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file()
        and path.suffix in (".py", ".yaml", ".sh", ".bat", "")
        and not {"venv", "windows-python"} & set(path.parts)
        for target in re.findall(r"\bdocs/[\w/-]+\.(?:md|png|svg)", path.read_text("utf-8", errors="replace"))
    }
    assert sorted(f"{path}: {target}" for path, target in named if not (CHECKOUT / target).is_file()) == []


def test_settings_named_in_the_docs_exist():
    """`section.key`, also `section.key: value`, wherever a page names one; CHANGELOG names old ones too."""
    sections = settings_file.as_sections(Settings())
    unknown = [
        f"{name_of(page)}: {section}.{key}"
        for page in PAGES
        if page.name not in ("CHANGELOG.md", "glossary.md", "settings.md")  # the last is generated, and names former ones
        for section, key in re.findall(rf"`({'|'.join(sections)})\.(\w+)(?:`|:)", page.read_text("utf-8"))
        if key not in sections[section] and key not in ("md", "log", "py")
    ]
    assert unknown == []


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
    script = DOCS / "make_settings.py"
    program = (
        f"import runpy, json, sys; m = runpy.run_path({str(script)!r}); json.dump([m['page'](), m['defaults']()], sys.stdout)"
    )
    page, defaults = yaml.safe_load(run_python(["-c", program], tmp_path).stdout)
    assert (DOCS / "reference" / "settings.md").read_text("utf-8") == page, "run: python docs/make_settings.py"
    assert settings_file.DEFAULT_FILE.read_text("utf-8") == defaults, "run: python docs/make_settings.py"


def test_default_file_changes_nothing():
    """config/default.yaml holds the defaults, each with its type."""
    assert settings_file.load() == Settings()


def test_exit_codes_of_the_docs_are_those_of_the_errors():
    """The table in reference/commands.md names every exit code that an error of ours has."""
    table = (DOCS / "reference" / "commands.md").read_text("utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    assert documented == codes | {0, 130}


def test_every_count_is_documented():
    """What get_stats() returns is explained in reference/status-and-metrics.md."""
    text = (DOCS / "reference" / "status-and-metrics.md").read_text("utf-8")
    assert [key for key in EMPTY_STATS if f"| `{key}` |" not in text] == []


def test_every_data_warning_is_documented():
    """The table of how-to/troubleshooting.md explains each warning that data_checks.py can give."""
    source = (CHECKOUT / "src" / "background_training" / "episodes" / "data_checks.py").read_text("utf-8")
    codes = re.findall(r"DataWarning\(\s*\"([a-z-]+)\"", source)
    table = (DOCS / "how-to" / "troubleshooting.md").read_text("utf-8").partition("### Data warnings")[2]
    assert len(codes) >= 5 and [code for code in codes if f"`{code}`" not in table] == []


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
