"""A command of ours that runs in a forked process, which has loaded what it needs before it begins."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any, NoReturn

from background_training.envs import fork_server
from background_training.envs.fork_server import ForkServer
from background_training.ipc import process_names

_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.0005, 0.02


@dataclass(frozen=True)
class Command:
    """What is to be run.

    main: "package.module:function"; it takes no arguments and returns the exit code.
    name: of process_names.py.
    arguments: as sys.argv holds them, behind the name.
    environment: what differs from ours.
    folder: where it is at work; "" for ours.
    """

    main: str
    name: str
    arguments: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""


class ForkedCommand:
    """A command that a fork server runs for us, with the few things of subprocess.Popen that are asked of it.

    Attributes:
        stdin, stdout: our ends of its pipes.
    """

    def __init__(self, server: ForkServer, command: Command, stdout: int | None, stderr: int) -> None:
        """Have it started.

        Args:
            stdout: where it writes to; None: into a pipe.

        Raises:
            OSError: the server is gone, or does not answer.
        """
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        try:
            self._process = server.run(asdict(command), (theirs_in, theirs_out if stdout is None else stdout, stderr))
        except BaseException:
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self.pid = self._process.pid
        self.stdin: IO[bytes] | None = open(ours_in, "wb")  # noqa: SIM115  # as long as somebody talks to it
        self.stdout: IO[bytes] | None = open(ours_out, "rb")  # noqa: SIM115

    def poll(self) -> int | None:
        return self._process.exit_status()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that killed it.

        Raises:
            subprocess.TimeoutExpired: it lives.
        """
        end = float("inf") if timeout is None else time.monotonic() + timeout
        pause = _SHORTEST_WAIT_SECONDS
        while (status := self._process.exit_status()) is None:
            if timeout is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired([], timeout)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT_SECONDS)
        return status

    def kill(self) -> None:
        self._process.kill()


def become(command: dict[str, Any], descriptors: tuple[int, int, int]) -> NoReturn:
    """In a freshly forked child: be the command, and never return to what the parent was doing."""
    code = 1
    try:
        _leave_the_parent_behind(descriptors)
        process_names.call_this_process(command["name"])
        os.environ.update(command["environment"])
        if command["folder"]:
            sys.path[:] = [os.path.abspath(entry) for entry in sys.path]
            os.chdir(command["folder"])
        sys.argv = [command["name"], *command["arguments"]]
        module, _, function = command["main"].partition(":")
        code = getattr(importlib.import_module(module), function)()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(code)


def _leave_the_parent_behind(descriptors: tuple[int, int, int]) -> None:
    """Streams, signals and log handlers as in a new interpreter, in a session of its own."""
    os.setsid()
    fork_server.reseed()
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    # By their second names too: a command may put others under the first ones, and use what is under these.
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    logging.root.handlers.clear()  # they belong to the parent's command
