"""The console script: its verbs, its help, what it says of a verb that it has not; and names of commands in messages."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training import __version__, cli, command_lines
from background_training.paths import CHECKOUT

SOURCE = CHECKOUT / "src" / "background_training"


VERBS_ONLY = {"check-game", "check-episode", "watch"}
"""Verbs that have no script in a checkout."""


def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of the console script, which runs no verb here."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/background-training", *arguments])
    monkeypatch.setattr(command_lines, "_program", "")
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str]
) -> None:
    """One line each; without arguments too."""
    code, out, err = _run(capsys, monkeypatch, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("usage: background-training VERB [options]\n")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(cli.VERBS)


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--version prints the package's, and the Python that runs it."""
    code, out, _ = _run(capsys, monkeypatch, "--version")
    assert code == 0 and out.startswith(f"background-training {__version__} (Python 3.")


def test_unknown_verb_is_bad_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, one line, with the nearest verb where one is near."""
    assert _run(capsys, monkeypatch, "rolback") == (2, "", "[ERROR] unknown command 'rolback'. Did you mean rollback?\n")
    code, out, err = _run(capsys, monkeypatch, "xyzzy")
    assert (code, out) == (2, "") and err.startswith("[ERROR] unknown command 'xyzzy'; known are run, learn, monitor,")
    assert err.count("\n") == 1


def test_every_verb_has_its_module_and_its_script() -> None:
    """The script of a checkout starts the same module as the verb."""
    assert [verb for verb in cli.VERBS if verb not in VERBS_ONLY] == list(command_lines.SCRIPTS)
    for verb, (module, _) in cli.VERBS.items():
        assert util.find_spec(f"background_training.commands.{module}") is not None
        if verb not in VERBS_ONLY:
            script = (CHECKOUT / command_lines.SCRIPTS[verb]).read_text("utf-8")
            assert f'script.run("background_training.commands.{module}"' in script


def test_every_script_of_the_checkout_has_its_verb() -> None:
    """No command exists only as a script."""
    scripts = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tools").glob("*.py") if path.name != "__init__.py"}
    assert scripts | {"run_with_training.py"} == set(command_lines.SCRIPTS.values())


def test_module_can_be_run(tmp_path: Path) -> None:
    """`python -m background_training` is the console script, and names itself so."""
    command = [sys.executable, "-m", "background_training", "rollback", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert done.stdout.startswith("usage: python -m background_training rollback ") and done.returncode == 0


def test_messages_name_a_command_as_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script of the checkout, or a verb."""
    monkeypatch.setattr(command_lines, "_program", "")
    assert command_lines.command("run", "my bot") == 'python run_with_training.py --root "my bot"'
    assert command_lines.usage_name("rollback") == "rollback_model.py"
    command_lines.started_as("background-training")
    assert command_lines.command("rollback") == "background-training rollback"
    assert command_lines.usage_name("rollback") == "background-training rollback"


def test_what_installs_a_package_in_a_checkout_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, with the interpreter that lacks it; elsewhere from the index."""
    assert command_lines.install("games", "/a b/python") == f'"/a b/python" -m pip install -e "{CHECKOUT}[games]"'
    monkeypatch.setattr(command_lines, "CHECKOUT", None)
    assert command_lines.install("games") == 'python -m pip install "background-training[games]"'
    assert command_lines.install() == 'python -m pip install "background-training"'


def test_extras_exist_and_bring_their_packages() -> None:
    """Every extra that a message may name is one of pyproject.toml."""
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    for extra in set(command_lines.EXTRAS.values()) - {""}:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


def test_no_message_names_a_script_of_the_checkout() -> None:
    """Where there is none, they could not be followed: command_lines.command gives the name. Docstrings may."""
    named = re.compile(r"""(tools/\w+\.py|run_with_training\.py|pip install)""")
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.name == "command_lines.py":
            continue
        code = re.sub(r'"""(.*?)"""', "", path.read_text("utf-8"), flags=re.DOTALL)
        for line in code.splitlines():
            if named.search(line.partition("  #")[0]) and not line.lstrip().startswith("#"):
                found.append(f"{path.relative_to(SOURCE)}: {line.strip()}")
    # What the doctor looks for, how a checkout is known, and an upgrade of one package.
    allowed = ("_RUN_SCRIPT = ", "_IS_CHECKOUT = ", 'Finding("old-package"')
    assert [line for line in found if not any(part in line for part in allowed)] == []
