"""Ways for tests to run the learner: in this process, in one of its own, and to picture what it left behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil

from background_training import BackgroundParallelLearner
from background_training.learner import drain as drains
from background_training.learner.metrics_writer import MetricsHistory
from background_training.paths import CHECKOUT, Paths
from background_training.records import ledger_lines, metrics
from background_training.settings import Settings

if TYPE_CHECKING:
    import pytest

COMMAND = CHECKOUT / "tools" / "background_parallel_learner.py"


def settings(root: Path, *, learning: dict[str, Any] | None = None, **learner: Any) -> Settings:
    """Settings under which small tests run: no age check, no reports, no pauses for other programs, a small network,
    batches of the same size however many files wait."""
    values = {"max_file_age": 0.0, "verbose": False, "batch_size": 3, "history_every": 2, "backlog_steps": 0} | learner
    sections = {"learner": values, "learning": {"hidden_size": 8, "n_epochs": 1} | (learning or {})}
    if hasattr(Settings, "governor"):
        sections["governor"] = {"enabled": False}
    return Settings(root=root).with_values("test", **sections)


IN_THE_MIDDLE = """
import os
from background_training.learner import throttle, worker
rest, points, done = throttle.Throttle.rest, 0, False
def counted(self):
    global points
    points += 1
    if points >= int(os.environ["MIDDLE_AT"]) and not done:
        exec(os.environ["IN_THE_MIDDLE"], globals())
        self._look_due = float("-inf")  # however quick the machine is, it is noticed before the batch ends
    return rest(self)
throttle.Throttle.rest = counted
os._exit(worker.main())
"""
"""A worker that does something at its yield points, until it says that it is `done`."""


def worker_does_in_the_middle(statements: str, monkeypatch: pytest.MonkeyPatch, at: int = 100) -> None:
    """Have the worker itself do something in the middle of its work: no other process need be quick enough for it."""
    real = subprocess.Popen
    monkeypatch.setenv("IN_THE_MIDDLE", statements)
    monkeypatch.setenv("MIDDLE_AT", str(at))

    def popen(arguments: list[str], **more: Any) -> subprocess.Popen[bytes]:
        is_for_worker = arguments[1:] == [
            "-m",
            "background_training.learner.worker",
        ]  # which it goes on to say, so that it is known as one
        return real([sys.executable, "-c", IN_THE_MIDDLE, *arguments[1:]] if is_for_worker else arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", popen)


def drain(root: Path, *, learning: dict[str, Any] | None = None, **learner: Any) -> dict[str, Any]:
    """Drain the buffer in this very process; the counts."""
    return drains.drain(settings(root, learning=learning, **learner), lambda event, **facts: None)


def learner(root: Path, *, learning: dict[str, Any] | None = None, **values: Any) -> BackgroundParallelLearner:
    return BackgroundParallelLearner(settings=settings(root, learning=learning, **values))


def environment() -> dict[str, str]:
    ours = {"PYTHONPATH": str(CHECKOUT / "src"), "PYTHONIOENCODING": "utf-8", "LOCAL_TRAINING_GOVERNOR_ENABLED": "false"}
    ours["LOCAL_TRAINING_LEARNER_BACKLOG_STEPS"] = "0"
    return {**os.environ, **ours}


def command(root: Path, *flags: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run the learner's command to its end."""
    arguments = [sys.executable, str(COMMAND), "--root", str(root), *flags]
    return subprocess.run(
        arguments, capture_output=True, text=True, encoding="utf-8", env=environment(), timeout=timeout, check=False
    )


def started_command(root: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the learner's command; the caller ends it."""
    arguments = [sys.executable, str(COMMAND), "--root", str(root), *flags]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment())


def started_script(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a program of a user's, given as text; its stdout can be read, its stdin keeps it waiting."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
        cwd=cwd,
    )


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes below a process, dead ones left out."""
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in family if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "background_training.learner.worker" in process.cmdline()
    except psutil.Error:
        return False


def picture(paths: Paths) -> dict[str, str]:
    """What a root holds, logs and hidden files left out: each file by its hash, folders and links by their kind."""
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(paths.root):
        folders[:] = sorted(name for name in folders if name != "logs")
        for name in names:
            path = Path(parent) / name
            if not name.startswith("."):
                found[str(path.relative_to(paths.root))] = _content(path)
        for name in folders:
            found[str((Path(parent) / name).relative_to(paths.root))] = "folder"
    return found


def _content(path: Path) -> str:
    return f"link to {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def trained(paths: Paths) -> list[tuple[str, int]]:
    """(name, version) of every trained line of the ledger."""
    return [(line["name"], line["seq"]) for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == "trained"]


def reason(paths: Paths, fate: str, name: str) -> str:
    """The text of the reason file beside an episode that was set aside."""
    return (paths.archive / fate / f"{name}.reason.txt").read_text(encoding="utf-8")


def add_to_history(paths: Paths, made: list[tuple[Any, Any]], **bounds: int) -> None:
    """Put (batch records, game records) at the end of the metrics history, as its writer does after training."""
    newest = metrics.read(paths).batches["version"].max(initial=0)
    history = MetricsHistory(paths, SimpleNamespace(last_seq=0), **bounds)  # type: ignore[arg-type]
    history.open_at(SimpleNamespace(version=int(newest)))  # type: ignore[arg-type]
    history.append(made)
