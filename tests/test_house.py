"""The house style, as far as a program can see it: which way imports run, what must be said."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
COMPOSER = "run_with_training"
COMPOSING_COMMANDS = {"tools.evaluate"}
"""Commands that need both sides as the composer does, and that nobody imports either: an evaluation plays a model."""

# Optional packages: where they may be imported. One module on each side, but for two: Gymnasium is the language that
# games speak, and cloudpickle is how they are sent to their processes.
OPTIONAL_PACKAGES = {
    "gymnasium": r"local_training\.games\..*",
    "cloudpickle": r"local_training\.games\..*",
    "rich": r"local_training\.games\.progress|tools\.monitor\..*",
    "matplotlib": r"local_training\.games\.learning_curve|tools\.run_report\.pictures",
    "sc2reader": r"tools\.replay\.replay_file",
    "spawningtool": r"tools\.replay\..*",
    "pynvml": r"tools\.learner\.gpu_readings",
    "torch": r"tools\.learner\.torch_.*",
    "nicegui": r"tools\.monitor\.web\.page",
    "fastapi": r"tools\.monitor\.web\.page",
    "uvicorn": r"tools\.monitor\.web\.listener",
    "ray": r"tools\.learner\.ray_.*",
}

# Where anything may be caught: at the mains of processes and threads, where a stranger's environment is called, which may
# raise what it likes, where the self-check goes on with its next check, and at the one boundary of each parser of files that
# anybody may have written.
BROAD_EXCEPT_ALLOWED = {
    "tools.as_script",
    "tools.command_line",
    "tools.learner.ledger_index",  # derived data: on any doubt it is as if it were not there
    "tools.learner.generation",
    "tools.learner.task_worker",
    "tools.learner.worker",
    "tools.replay.worker",
    "tools.test_background_training",
    "local_training.bounded_npz",
    "local_training.episode_file",
    "local_training.model_store",
    "local_training.plain_values",  # a bot's own objects in a meta may raise anything when they are looked at
    "local_training.games.env_host",
    "local_training.games.env_worker",
    "local_training.games.fleet",
    "local_training.games.fork_of_ours",
    "local_training.games.fork_server",
    "local_training.games.forked_command",
    "local_training.games.gymnasium_game",
    "local_training.games.players",
    "local_training.games.resilient_game",
    "local_training.games.seat",
    "local_training.games.run_state",
}


def _modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; packages by the name of their folder."""
    files = [CHECKOUT / f"{COMPOSER}.py"]
    for package in ("local_training", "tools"):
        files += sorted((CHECKOUT / package).rglob("*.py"))
    named = {}
    for file in files:
        parts = file.relative_to(CHECKOUT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


MODULES = _modules()
TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in MODULES.items()}


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a module imports, in functions too; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _own_module(dotted: str) -> str | None:
    """The module of ours that a dotted name lies in, or None."""
    while dotted:
        if dotted in MODULES:
            return dotted
        dotted = dotted.rpartition(".")[0]
    return None


def _graph() -> dict[str, set[str]]:
    graph = {}
    for name, tree in TREES.items():
        found = {_own_module(dotted) for dotted, _ in _imported_names(tree)}
        graph[name] = {target for target in found if target is not None and target != name}
    return graph


GRAPH = _graph()


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _side(module: str) -> str:
    """Which part of the project a module belongs to."""
    if module in COMPOSING_COMMANDS:
        return COMPOSER
    for package in (
        "local_training.games",
        "local_training",
        "tools.learner",
        "tools.monitor",
        "tools.doctor_checks",
        "tools.run_report",
        "tools.replay",
        "tools.pages",
        "tools",
    ):
        if _within(module, package):
            return package
    return module


# What each part may import of ours, beside itself.
ALLOWED = {
    "local_training": set(),
    "local_training.games": {"local_training"},
    "tools": {"local_training", "tools.learner", "tools.monitor", "tools.doctor_checks", "tools.run_report", "tools.replay"},
    "tools.learner": {"local_training"},
    "tools.monitor": {"local_training", "tools", "tools.learner", "tools.run_report"},
    "tools.doctor_checks": {"local_training", "tools", "tools.learner", "tools.monitor"},
    "tools.run_report": {"local_training", "tools.learner", "tools.pages"},
    "tools.replay": {"local_training", "tools.pages"},
    "tools.pages": set(),
    COMPOSER: {"local_training", "local_training.games", "tools", "tools.learner"},
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    """The contract knows nobody, games and tools know only the contract, and nobody imports the composer."""
    side = _side(module)
    wrong = {
        target
        for target in GRAPH[module]
        if (_side(target) != side or target in COMPOSING_COMMANDS) and _side(target) not in ALLOWED[side]
    }
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}; {side} may import {sorted(ALLOWED[side])}"


def test_no_imports_in_a_circle():
    """No two modules need each other, not even from inside a function."""
    state: dict[str, int] = {}

    def visit(module: str, way: list[str]) -> None:
        state[module] = 1
        for target in sorted(GRAPH[module]):
            assert state.get(target) != 1, "a circle: " + " -> ".join([*way[way.index(target) :], target])
            if target not in state:
                visit(target, [*way, target])
        state[module] = 2

    for module in sorted(MODULES):
        if module not in state:
            visit(module, [module])


def test_optional_packages_stay_where_they_belong():
    """An optional package is imported where the house says, and on each side in one module."""
    wrong = []
    for module, tree in TREES.items():
        for dotted, line in _imported_names(tree):
            place = OPTIONAL_PACKAGES.get(dotted.partition(".")[0])
            if place is not None and not re.fullmatch(place, module):
                wrong.append(f"{MODULES[module].relative_to(CHECKOUT)}:{line} imports {dotted}")
    assert not wrong, "\n".join(wrong)


def test_the_core_loads_no_optional_package():
    """A bot that imports the agent and the learner pays for neither Gymnasium nor a plotting library."""
    program = (
        "import sys; import local_training.rl_agent, tools.background_parallel_learner, tools.learner.worker, "
        "local_training.games; "
        f"print(sorted(set(sys.modules) & {set(OPTIONAL_PACKAGES)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_learners_face_loads_nothing_of_the_learning() -> None:
    """A game that starts a learner waits for its imports; batches, actions and the arithmetic belong to the worker."""
    code = "import sys, tools.background_parallel_learner as face; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()

    heavy = (
        "local_training.actions",
        "local_training.batch",
        "local_training.learning",
        "tools.learner.intake",
        "tools.learner.worker",
    )
    assert not set(heavy) & set(loaded)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_says_what_it_answers(module):
    """Every module begins with its docstring."""
    first = TREES[module].body[0]
    assert ast.get_docstring(TREES[module]) and first.lineno == 1, f"{module} has no docstring on line 1"


@pytest.mark.parametrize("module", sorted(name for name, file in MODULES.items() if file.name == "__init__.py"))
def test_packages_hold_names_only(module):
    """An __init__.py holds its docstring and the public names; looking one up lazily is all it may do."""
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    for node in TREES[module].body:
        is_lookup = isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__")
        is_type_checking = not isinstance(node, ast.If) or "TYPE_CHECKING" in ast.unparse(node.test)
        assert (isinstance(node, kinds) and is_type_checking) or is_lookup, f"{module}, line {node.lineno}"


def test_every_package_is_installed():
    """What pip installs is written down by hand, and a package left out is missed only where nobody has a checkout."""
    line = re.search(r"^packages = (\[.*\])$", (CHECKOUT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert line is not None
    packages = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    assert set(ast.literal_eval(line[1])) == packages


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException", "GAME_ERRORS"))
        for kind in kinds
    )


def test_only_mains_catch_everything():
    """Elsewhere a broad except cleans up and raises again."""
    wrong = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            catches_all = isinstance(node, ast.ExceptHandler) and _is_broad(node) and not isinstance(node.body[-1], ast.Raise)
            if catches_all and module not in BROAD_EXCEPT_ALLOWED:
                wrong.append(f"{MODULES[module].relative_to(CHECKOUT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def _test_files() -> list[Path]:
    return sorted((CHECKOUT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("file", _test_files(), ids=lambda file: file.name)
def test_every_test_has_a_sentence(file):
    """Who reads a failing test's name finds beneath it what was promised."""
    silent = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            sentence = ast.get_docstring(node) or ""
            if not sentence.rstrip().endswith((".", "?", "!")):
                silent.append(f"{file.name}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def test_test_folders_bear_no_package_name():
    """Otherwise `import local_training` would find the tests."""
    names = {path.name for path in (CHECKOUT / "tests").rglob("*") if path.is_dir()}
    assert not names & {"local_training", "tools"}


def _committed_files() -> list[Path]:
    """What git knows or would take; without git, all that is no run-time or tool's folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout
        names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
        return [path for name in names if (path := CHECKOUT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        skipped = re.compile(r"[\\/](\.|__pycache__|venv|build|dist|data|models|logs)")
        paths = CHECKOUT.rglob("*")
        return [path for path in paths if path.is_file() and not skipped.search(str(path)[len(str(CHECKOUT)) :])]


# Spelt in pieces, so that this file does not find itself.
_STRANGE = re.compile(
    "|".join(["/wor" + "k/", r"\bfar" + "m-", r"(?<!\w)\.libr" + "ary", "/ro" + "ot/", r"/ho" + "me/[a-z]", r"C:\\Us" + "ers"])
)


def test_committed_files_name_no_machine():
    """No path of somebody's machine, and no tool of somebody's workplace."""
    files = _committed_files()
    assert len(files) > len(MODULES)
    found = []
    for file in files:
        text = file.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if _STRANGE.search(line):
                found.append(f"{file.relative_to(CHECKOUT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
