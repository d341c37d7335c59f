"""How every command of ours is run as a script: loaded and ended in one way.

A command begins with a few lines that hand its file to `run`, before it loads anything: loading takes a fifth of a second and
more, and Ctrl+C must not show a traceback in that time. Kept within what old Pythons can read, as doctor.py begins here too.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

INTERRUPTED = 130
_TOOLS = Path(__file__).resolve().parent


def run(file: str, *, quietly: bool = False) -> None:
    """Import the command in `file` by its name, call its main, and exit with the code that it returns.

    So the file itself is not loaded twice: what it holds belongs to a module that others find under the same name.

    Args:
        quietly: at low priority, from before it loads: loading is most of what a monitor costs.
    """
    # While modules load, nothing has been begun that would have to be ended. And a KeyboardInterrupt in the middle of an
    # import may come out of it as any other error.
    may_be_interrupted = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if may_be_interrupted:
        signal.signal(signal.SIGINT, _leave)
    if str(_TOOLS) in sys.path:
        sys.path.remove(str(_TOOLS))  # the script's own folder: what is in it must not hide others' modules of the same names
    name = ".".join(Path(file).resolve().relative_to(_TOOLS.parent).with_suffix("").parts)
    code = INTERRUPTED
    try:
        if quietly:
            import_module("tools.learner.quiet_process").lower_priority()
        command = import_module(name)
        if may_be_interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = command.main()
        if may_be_interrupted:
            signal.signal(signal.SIGINT, _leave)
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
