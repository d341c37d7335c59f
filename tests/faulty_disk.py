"""Every change that the learner makes to a root, one by one: to count them, to die or fail at one, to lose some in a power cut.

It stands between our code and the system, from the outside: the product knows nothing of it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from background_training.errors import MachineError
from background_training.records import ledger, ledger_lines
from background_training.storage import atomic_files

Perform = Callable[[], Any]
Patch = Callable[[Any, str, Any], None]

_KINDS = (
    (r"data/\.+(learner|worker)\..*", ""),
    (r"models/\.rl_agent_model\.npz\.part", "partial model"),
    (r"models/rl_agent_model\.npz", "model"),
    (r"models/history/\..*", "partial history"),
    (r"models/history/.+", "history"),
    (r"data/ledger\.jsonl", "ledger"),
    (r"data/archive/(stale|duplicate|rejected)/\..*\.reason\.txt\.part", "partial reason"),
    (r"data/archive/(stale|duplicate|rejected)/.*\.reason\.txt", "reason"),
    (r"data/archive/(stale|duplicate|rejected)/.+", "file aside"),
    (r"data/archive/.+\.npz", "archived file"),
    (r"data/buffer/.+", "waiting file"),
    (r"data/\.leaving", "folder"),
    (r"data/\.leaving/.+", "leaving file"),
    (r"logs/background_training\.log", "log"),
    (r"logs/\.?status\.json(\.part)?", "status"),
    (r"\.|(?!.*\.)[a-z/]*", "folder"),
)


@dataclass(frozen=True)
class Step:
    """One change: what is done, to which path below the root, and with which bytes."""

    op: str
    path: str
    target: str = ""
    data: bytes = b""

    @property
    def kind(self) -> str:
        """What is changed, in a word; "" for what does not belong to the records (locks)."""
        path = self.target or self.path
        return next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, path, re.DOTALL)), "something unknown")

    @property
    def name(self) -> str:
        return f"{self.op} {self.kind}"


class _File:
    """A file that is open for writing; its every write is a step."""

    def __init__(self, path: Path | int, mode: str) -> None:
        flags = {"wb": os.O_CREAT | os.O_TRUNC, "xb": os.O_CREAT | os.O_EXCL, "r+b": 0}[mode]
        self._descriptor = path if isinstance(path, int) else os.open(path, os.O_RDWR | flags, 0o666)

    def write(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _opened(path: Path | int, mode: str) -> Any:
    """What `open` does for our code: reading changes nothing, and stays what it is."""
    return open(path, mode) if mode == "rb" else _File(path, mode)


class _System:
    """The system's calls, each passed through a hook where it changes something below the root."""

    def __init__(self, root: Path, hook: Callable[[Step, Perform], Any]) -> None:
        self._root = os.path.abspath(root)
        self._hook = hook
        self._open_files: dict[int, str] = {}
        self._real = {name: getattr(os, name) for name in _CALLS}

    def install(self, patch: Patch) -> None:
        for name in _CALLS:
            patch(os, name, getattr(self, name))
        for module in (atomic_files, ledger, ledger_lines):
            patch(module, "open", _opened)

    def _below(self, path: Any) -> str | None:
        relative = os.path.relpath(os.path.abspath(os.fsdecode(path)), self._root)
        return None if relative.startswith("..") else relative.replace(os.sep, "/")

    def _do(self, op: str, path: str | None, perform: Perform, target: str = "", data: bytes = b"") -> Any:
        step = Step(op, path or "", target, data)
        return perform() if path is None or not step.kind else self._hook(step, perform)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        def perform() -> int:
            return int(self._real["open"](path, flags, mode, **more))

        below = self._below(path)
        if flags & os.O_CREAT and not os.path.lexists(path):
            descriptor = self._do("create", below, perform)
        elif flags & os.O_TRUNC:
            descriptor = self._do("empty", below, perform)
        else:
            descriptor = perform()
        if below is not None:
            self._open_files[descriptor] = below
        return int(descriptor)

    def close(self, descriptor: int) -> None:
        self._open_files.pop(descriptor, None)
        self._real["close"](descriptor)

    def write(self, descriptor: int, data: Any) -> Any:
        return self._do(
            "write", self._open_files.get(descriptor), lambda: self._real["write"](descriptor, data), data=bytes(data)
        )

    def ftruncate(self, descriptor: int, size: int) -> None:
        # To cut a file to the size it has is no change.
        path = self._open_files.get(descriptor) if os.fstat(descriptor).st_size != size else None
        self._do("cut", path, lambda: self._real["ftruncate"](descriptor, size), data=str(size).encode())

    def fsync(self, descriptor: int) -> None:
        self._do("flush", self._open_files.get(descriptor), lambda: self._real["fsync"](descriptor))

    def _of_two(self, op: str, source: Any, target: Any, **more: Any) -> None:
        self._do(op, self._below(source), lambda: self._real[op](source, target, **more), target=self._below(target) or "")

    def replace(self, source: Any, target: Any) -> None:
        self._of_two("replace", source, target)

    def rename(self, source: Any, target: Any) -> None:
        self._of_two("rename", source, target)

    def link(self, source: Any, target: Any, **more: Any) -> None:
        self._of_two("link", source, target, **more)

    def _of_one(self, op: str, path: Any, *arguments: Any) -> None:
        # What is not there is not changed either: such a call is no step.
        there = os.path.lexists(path) is not (op == "mkdir")
        self._do(op, self._below(path) if there else None, lambda: self._real[op](path, *arguments))

    def unlink(self, path: Any) -> None:
        self._of_one("unlink", path)

    def rmdir(self, path: Any) -> None:
        self._of_one("rmdir", path)

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        self._of_one("mkdir", path, mode)


_CALLS = ("open", "close", "write", "ftruncate", "fsync", "replace", "rename", "link", "unlink", "rmdir", "mkdir")


def recorded(root: Path, action: Callable[[], Any]) -> list[Step]:
    """Do `action`, and list every change it makes below `root`."""
    steps: list[Step] = []

    def hook(step: Step, perform: Perform) -> Any:
        result = perform()
        steps.append(step)
        return result

    with pytest.MonkeyPatch.context() as patch:
        _System(root, hook).install(lambda owner, name, value: patch.setattr(owner, name, value, raising=False))
        action()
    return steps


def dying(root: Path, action: Callable[[], Any], number: int, *, torn: bool = False) -> int:
    """Do `action` in a child process that kills itself before its `number`-th change (from 0), or in the middle of it.

    Returns:
        Its exit code: -9 when it was killed, 0 when it did not get that far.
    """

    def die(step: Step, descriptor_write: Perform) -> Any:
        if torn and step.op == "write":
            raise _HalfWritten
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return _in_child(root, action, number, die)


def failing(root: Path, action: Callable[[], Any], number: int, error_number: int) -> int:
    """Do `action` in a child process in which the `number`-th change fails; its exit code, 5 for MachineError."""

    def fail(step: Step, perform: Perform) -> Any:
        raise OSError(error_number, os.strerror(error_number), step.path)

    return _in_child(root, action, number, fail)


class _HalfWritten(BaseException):
    """Asks for a write that is cut in half, and the end of the process."""


def _in_child(root: Path, action: Callable[[], Any], number: int, then: Callable[[Step, Perform], Any]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: NumPy's sleep, and this child needs none
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        done = 0
        real_write = os.write

        def hook(step: Step, perform: Perform) -> Any:
            nonlocal done
            done += 1
            if done != number + 1:
                return perform()
            return then(step, perform)

        system = _System(root, hook)
        system.install(setattr)
        half = system.write

        def write(descriptor: int, data: Any) -> Any:
            try:
                return half(descriptor, data)
            except _HalfWritten:
                real_write(descriptor, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        os.write = write  # type: ignore[assignment]
        action()
        code = 0
    except MachineError:
        code = 5
    except BaseException:  # noqa: BLE001  # the child's main
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@dataclass
class _Disk:
    """A disk that remembers what has been flushed: names folder by folder, contents file by file.

    files: number of the file -> content now; flushed: the same, as of the last flush of the file.
    names: path -> number of the file now; pending: per folder, the changes of names since its last flush, in order.
    """

    files: dict[int, bytes] = field(default_factory=dict)
    flushed: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    firm_names: dict[str, int] = field(default_factory=dict)
    pending: dict[str, list[list[tuple[str, int | None]]]] = field(default_factory=dict)

    def apply(self, step: Step) -> None:
        path, target = step.path, step.target
        number = self.names.get(path, -1)
        if step.op in ("create", "empty"):
            # A file that is emptied is written anew at once; to lose both is to lose the file's content.
            number = number if step.op == "empty" else max(self.files, default=0) + 1
            self.files[number] = b""
            self.flushed.setdefault(number, b"")
            self._name([(path, number)])
        elif step.op == "write":
            self.files[number] += step.data
        elif step.op == "cut":
            self.files[number] = self.files[number][: int(step.data)]
        elif step.op == "flush" and number in self.files:
            self.flushed[number] = self.files[number]
        elif step.op == "flush":
            self._flush_folder(path)
        elif step.op in ("replace", "rename"):
            self._name([(path, None), (target, number)])
        elif step.op == "link":
            self._name([(target, number)])
        elif step.op == "unlink":
            self._name([(path, None)])
        elif step.op not in ("mkdir", "rmdir"):
            raise AssertionError(f"a change of an unknown kind: {step}")

    def _name(self, changes: list[tuple[str, int | None]]) -> None:
        _rename(self.names, changes)
        folders = {os.path.dirname(path) for path, _ in changes}
        if len(folders) == 1:
            self.pending.setdefault(folders.pop(), []).append(changes)
        else:
            for path, number in changes:
                self.pending.setdefault(os.path.dirname(path), []).append([(path, number)])

    def _flush_folder(self, folder: str) -> None:
        for changes in self.pending.pop(folder, []):
            _rename(self.firm_names, changes)

    def after_power_cut(self, mode: str, rng: random.Random) -> dict[str, int]:
        """The names, and the number of the file of each, that are on the disk after a power cut now.

        mode: "amnesia": what was not flushed is gone. "names": all names, but no content that was not flushed. "contents":
        all contents, but no name that was not flushed. "zeros": as "names", with zeros for lost content. "mixed": of
        each folder's changes the first few, of each file a part.
        """
        names = dict(self.names) if mode in ("names", "zeros") else dict(self.firm_names)
        if mode == "mixed":
            for changes in self.pending.values():
                for change in changes[: rng.randint(0, len(changes))]:
                    _rename(names, change)
        return names

    def content(self, number: int, mode: str, rng: random.Random) -> bytes:
        """What a file holds after that power cut."""
        now, firm = self.files[number], self.flushed[number]
        if mode == "contents":
            return now
        if mode == "zeros":
            return firm + b"\0" * (len(now) - len(firm))
        if mode == "mixed":
            return rng.choice([now, firm, now[: rng.randint(len(firm), max(len(now), len(firm)))]])
        return firm


def _rename(names: dict[str, int], changes: list[tuple[str, int | None]]) -> None:
    for path, number in changes:
        if number is None:
            names.pop(path, None)
        else:
            names[path] = number


POWER_CUT_MODES = ("amnesia", "names", "contents", "zeros", "mixed")


def after_power_cut(seed: Path, steps: list[Step], mode: str, rng: random.Random, target: Path) -> None:
    """Make `target` what a disk holds after a power cut that follows `steps`, done on a copy of `seed`; files only."""
    disk = _Disk()
    shutil.copytree(seed, target, symlinks=True)
    for number, path in enumerate(sorted(path for path in seed.rglob("*") if path.is_file())):
        relative = str(path.relative_to(seed))
        disk.files[number] = disk.flushed[number] = path.read_bytes()
        disk.names[relative] = disk.firm_names[relative] = number
    for step in steps:
        disk.apply(step)
    for relative in disk.names.keys() | disk.firm_names.keys():
        (target / relative).unlink(missing_ok=True)
    names = disk.after_power_cut(mode, rng)
    first_names: dict[int, Path] = {}
    for relative, number in names.items():
        if number in first_names:
            os.link(first_names[number], target / relative)  # two names of one file, as a move leaves them half way
        else:
            first_names[number] = target / relative
            first_names[number].write_bytes(disk.content(number, mode, rng))
