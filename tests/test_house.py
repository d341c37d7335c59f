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
SOURCE = CHECKOUT / "src"
PACKAGE = "background_training"

# What each room may import, beside itself. A module that lies in no folder is a room of its own.
_BASE = {
    "errors",
    "printable",
    "paths",
    "command_lines",
    "plain_values",
    "settings",
    "settings_file",
    "html_page",
}
_CONTRACT = _BASE | {"spaces", "storage", "episodes"}
_BELOW = _CONTRACT | {"algo", "ipc", "records"}
_GAME = {"agent", "agent_model"}
ALLOWED = {
    **dict.fromkeys(_BASE, _BASE),
    "spaces": _BASE,
    "storage": _BASE | {"spaces"},
    "episodes": _BASE | {"spaces", "storage"},
    "algo": _CONTRACT,
    "ipc": _CONTRACT,
    "records": _CONTRACT | {"algo"},
    **dict.fromkeys(_GAME, _BELOW | _GAME),
    "learner": _BELOW,
    "envs": _BELOW,
    "starcraft": _BELOW,
    "reports": _BELOW,
    "monitor": _BELOW,
    "doctor": _BELOW | {"monitor"},
    "runs": _BELOW | _GAME | {"envs", "learner", "monitor"},  # a run composes all of them; its panel is drawn by the monitor
    "commands": None,  # these compose: they may import everything but `cli`
    "cli": {"commands", "command_lines", ""},
    "__main__": {"cli"},
    "": {"agent", "learner"},  # background_training itself, which looks its two names up when they are asked for
}

# Work that one room hands on by name, so that a bot without it loads nothing of it.
BY_NAME = {("learner", "starcraft")}

# Optional packages and where they may be imported.
OPTIONAL_PACKAGES = {
    "gymnasium": r"(envs|runs)\..*",
    "cloudpickle": r"envs\..*",
    "rich": r"runs\.progress|monitor\..*",
    "matplotlib": r"runs\.learning_curve|reports\.pictures",
    "PIL": r"runs\.animation",
    "sc2reader": r"starcraft\.replays\.replay_file",
    "pynvml": r"learner\.gpu_readings",
    "nicegui": r"monitor\.web\.page",
    "fastapi": r"monitor\.web\.page",
    "uvicorn": r"monitor\.web\.(server|listener)",
    "torch": r"torch_backend\..*",
    "ray": r"cluster\..*",
}

# Where anything may be caught: the mains of processes and threads, the boundary of a parser of foreign bytes (which turns it
# into the parser's own error), a stranger's environment, and the self-check, which continues with its next check.
BROAD_EXCEPT_ALLOWED = {
    "commands.script",
    "commands.common",
    "records.ledger",  # derived data: on any doubt it is as if it were not there
    "learner.checkpoint",
    "ipc.job_process",
    "learner.worker",
    "starcraft.replays.worker",
    "commands.selfcheck",
    "storage.npz",
    "episodes.episode_file",
    "storage.model_store",
    "plain_values",  # a bot's own objects in a meta may raise anything when they are looked at
    "envs.env_host",
    "envs.env_worker",
    "envs.worker_supervisor",
    "runs.gymnasium_game",
    "runs.game_runner",
    "runs.game_check",
    "envs.resilient_game",
    "runs.run_state",
}


def _modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without the package's; packages by the name of their folder."""
    named = {}
    for file in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = file.relative_to(SOURCE / PACKAGE).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


MODULES = _modules()
TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in MODULES.items()}


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a module imports, in functions and by importlib too; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
            and node.args
        ):
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value).rstrip("."), node.lineno


def _own_module(dotted: str) -> str | None:
    """The module of ours that a dotted name lies in, or None."""
    if dotted != PACKAGE and not dotted.startswith(f"{PACKAGE}."):
        return None
    dotted = dotted[len(PACKAGE) + 1 :]
    while dotted and dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted


def _graph() -> dict[str, set[str]]:
    graph = {}
    for name, tree in TREES.items():
        found = {_own_module(dotted) for dotted, _ in _imported_names(tree)}
        graph[name] = {target for target in found if target is not None and target != name}
    return graph


GRAPH = _graph()


def _room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    """Rooms import what lies below them; learner, envs, monitor and the others beside each other are composed by commands."""
    room = _room(module)
    allowed = set(ALLOWED) - {"cli", "__main__"} if ALLOWED[room] is None else ALLOWED[room]
    wrong = {target for target in GRAPH[module] if _room(target) not in allowed | {room}}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}; {room} may import {sorted(allowed)}"


def test_work_that_is_handed_on_by_name_is_listed():
    """A string that names a module of another room is an import too, made later and in another process."""
    pattern = re.compile(rf"{PACKAGE}((?:\.\w+)+):\w+")
    found = set()
    for module, tree in TREES.items():
        strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found |= {(_room(module), _room(match[1][1:])) for text in strings if (match := pattern.fullmatch(text))}
    assert {pair for pair in found if pair[0] != pair[1] and pair[0] != "commands"} <= BY_NAME


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
    """An optional package is imported where the house says, and nowhere else."""
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
        "import sys, background_training, background_training.envs, background_training.learner.worker; "
        "background_training.RLAgent, background_training.BackgroundParallelLearner; "
        f"print(sorted(set(sys.modules) & {set(OPTIONAL_PACKAGES)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_learners_face_loads_nothing_of_the_learning() -> None:
    """A game that starts a learner waits for its imports; batches, actions and the arithmetic belong to the worker."""
    code = "import sys, background_training; background_training.BackgroundParallelLearner; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=True).stdout.split()

    heavy = ("spaces", "algo.batch", "algo.train_step", "learner.triage", "learner.worker")
    assert not {f"{PACKAGE}.{name}" for name in heavy} & set(loaded)


def test_no_two_classes_of_one_name():
    """A class name stands for one thing."""
    places: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    several = {name: found for name, found in places.items() if len(found) > 1}
    assert not several


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
    """Otherwise `import background_training` could find the tests."""
    names = {path.name for path in (CHECKOUT / "tests").rglob("*") if path.is_dir()}
    assert not names & {"background_training", "local_training", "tools"}


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
