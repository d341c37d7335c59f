"""Looks at who is at work in a root. Takes no lock: a doctor that did, if only for a moment, would keep a learner out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from background_training.doctor.facts import Holder, Learner
from background_training.monitor import life_signs, reading
from background_training.paths import CHECKOUT, Paths
from background_training.records import pause_file
from background_training.settings_file import ROOT_VARIABLE
from background_training.storage import file_lock

_RUN_SCRIPT = "run_with_training.py"
_LOCKS = Path("/proc/locks")
_WORDS = 200


def look(paths: Paths, now: float) -> Learner:
    card = file_lock.read_card(paths)
    holder = _holder(paths.learner_lock, card)
    status = reading.status_facts(paths)
    words = life_signs.state_words(status, now)
    return Learner(
        status=status,
        status_words=words,
        silent=words.startswith(life_signs.NO_SIGN),
        holder=holder,
        worker_holder=_holder(paths.worker_lock, None),
        card_left_behind=bool(card) and holder is None,
        rivals=tuple(_rivals(paths, holder)),
        last_words="\n".join(reading.last_lines(paths.worker_stderr, 3)),
        pause=pause_file.read(paths),
    )


def _holder(lock: Path, card: dict[str, Any] | None) -> Holder | None:
    """Who holds a lock: as the kernel tells where it does, else as the card does, if its process lives."""
    pid = _holder_by_kernel(lock)
    if pid is None and card and isinstance(card.get("pid"), int) and 0 < card["pid"] < 2**31 and psutil.pid_exists(card["pid"]):
        pid = card["pid"]
    return Holder(pid, _words_of(pid)) if pid is not None and pid >= 0 else None


def _holder_by_kernel(lock: Path) -> int | None:
    """The process id; -1 if nobody holds it, 0 if somebody does who can't be seen, None where the kernel does not say."""
    try:
        inode = os.stat(lock).st_ino
        lines = _LOCKS.read_text("ascii").splitlines()
    except FileNotFoundError:
        return -1 if sys.platform.startswith("linux") and _LOCKS.exists() else None
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:789 0 EOF
        parts = line.split()
        if len(parts) >= 6 and parts[1] != "->" and parts[5].rpartition(":")[2] == str(inode):
            return max(int(parts[4]), 0)
    return -1


def _words_of(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({' '.join(process.cmdline())[:_WORDS]}, of {process.username()})"
    except (psutil.Error, OSError, KeyError):
        return f"process {pid}" if pid else "a process that this user can't see"


def _rivals(paths: Paths, holder: Holder | None) -> Iterator[Holder]:
    """Runs in the same root that would have a learner too, had the lock been free."""
    if holder is None:
        return
    root = os.path.realpath(paths.root)
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if not _is_run(command) or process.pid == holder.pid or "--no-training" in command:
            continue
        try:
            found = _root_of(process, command)
        except (psutil.Error, OSError):
            continue
        if found == root:
            yield Holder(process.pid, _words_of(process.pid))


def _is_run(command: list[str]) -> bool:
    """Whether a process's command line is that of `run_with_training.py`, or of the console script with the verb run."""
    name = Path(command[1]).name if len(command) > 1 else ""
    is_verb = command[2:3] == ["run"] and name.removesuffix(".exe") == "background-training"
    return name == _RUN_SCRIPT or is_verb or command[1:4] == ["-m", "background_training", "run"]


def _root_of(process: psutil.Process, command: list[str]) -> str:
    """The root that a run works in."""
    folder = Path(process.cwd())
    given = [word.partition("=")[2] for word in command if word.startswith("--root=")]
    given += [following for word, following in itertools.pairwise(command) if word == "--root"]
    if not given:
        script = folder / command[1]
        at_checkout = script.parent if script.name == _RUN_SCRIPT else CHECKOUT or folder
        given = [process.environ().get(ROOT_VARIABLE) or str(at_checkout / "local_training")]
    return os.path.realpath(folder / given[-1])
