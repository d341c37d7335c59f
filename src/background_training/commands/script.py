"""How every command is started: loaded and ended in one way.

A command's script hands the name of its module to `run` before anything is loaded: loading takes a fifth of a second and more,
and Ctrl+C must not show a traceback in that time. Kept within what old Pythons can read, as the doctor starts here too.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

INTERRUPTED = 130
OLDEST_PYTHON = (3, 10)
_DOCTOR = "background_training.commands.doctor"


def run(name: str, *, quietly: bool = False) -> None:
    """Import the command's module, call its main, and exit with the code that it returns.

    Args:
        name: the dotted name of the module.
        quietly: lower the process's priority before loading: loading is most of what a monitor costs.
    """
    if sys.version_info < OLDEST_PYTHON and name != _DOCTOR:  # the doctor gives a finding of its own
        print(
            "[ERROR] Python 3.10 or newer is needed; this is " + sys.version.split()[0] + ", " + sys.executable, file=sys.stderr
        )
        sys.exit(1)
    # While modules load, nothing has been begun that would have to be ended. And a KeyboardInterrupt in the middle of an
    # import may come out of it as any other error.
    may_be_interrupted = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if may_be_interrupted:
        signal.signal(signal.SIGINT, _leave)
    code = INTERRUPTED
    try:
        if quietly:
            import_module("background_training.ipc.process_limits").lower_priority()
        command = import_module(name)
        if may_be_interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = command.main()
        if may_be_interrupted:
            signal.signal(signal.SIGINT, _leave)
    except ModuleNotFoundError as error:
        from background_training import command_lines  # only now: old Pythons can't read what it imports

        missing = command_lines.missing_package(error)
        if not missing:
            raise
        print("[ERROR] " + missing, file=sys.stderr)
        code = 1
    except (KeyboardInterrupt, Exception) as error:  # the process's main: Ctrl+C may come as any error
        if not was_interrupted(error):
            raise
    sys.exit(code)


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl+C is behind an error: in the middle of an import it may come out as one of the module's own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _leave(number: int, frame: object) -> None:
    """End here and now: nothing is at work yet, or nothing any more."""
    os._exit(INTERRUPTED)
