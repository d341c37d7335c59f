"""Watch the training live: python tools/monitor_background_training.py --help

Reads logs/status.json and the folders, and nothing else. Killing it, or never starting it, makes no difference to the
learner.
"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse
import contextlib
import os
import sys
import time
from importlib import util

from local_training import pausing
from local_training.errors import MachineError, SettingsError
from local_training.paths import Paths
from tools import command_line
from tools.learner import quiet_process
from tools.monitor import dashboard
from tools.monitor.folder_census import MEASURED_PER_LOOK, NAMES_KEPT
from tools.monitor.reading import Reader
from tools.monitor.screen import Screen


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(_parser(), _monitor, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="monitor_background_training.py", description="Show what the background learner does, until Ctrl+C."
    )
    command_line.add_common(parser)
    parser.add_argument("--once", action="store_true", help="show it once, whole, and exit")
    parser.add_argument("--pause", action="store_true", help="let the learner stand still, until --resume, and exit")
    parser.add_argument("--resume", action="store_true", help="let it go on, and exit")
    parser.add_argument("--web", action="store_true", help="show it as a page for a browser on this machine")
    parser.add_argument("--port", type=int, default=8765, metavar="P", help="port of the page (8765; 0: any that is free)")
    return parser


def _monitor(options: argparse.Namespace) -> int:
    paths = command_line.settings_of(options).paths
    if options.pause or options.resume:
        return _tell_learner(paths, options)
    quiet_process.lower_priority()
    if options.web:
        return _serve(paths, options.port)
    # Asked once, it may take its time to measure all files; live, the rest follows at the next looks.
    reader = Reader(paths, time.time(), NAMES_KEPT if options.once else MEASURED_PER_LOOK)
    try:
        _show(reader, once=options.once)
    except KeyboardInterrupt:
        print("\nMonitoring stopped; the learner goes on.")
    except BrokenPipeError:
        # Whoever read along has read enough. Without this, the interpreter complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _tell_learner(paths: Paths, options: argparse.Namespace) -> int:
    if options.pause and options.resume:
        raise SettingsError("--pause", True, "not together with --resume", "command line")
    if not paths.data.is_dir():
        raise SettingsError(
            "--root", str(paths.root), "a folder with data/ in it is needed; no learner has worked here", "command line"
        )
    changed = pausing.pause(paths) if options.pause else pausing.resume(paths)
    _say(pausing.sentence(paths, changed=changed))
    return 0


def _show(reader: Reader, *, once: bool) -> None:
    screen = Screen(sys.stdout, overwrite=not once)
    screen.show(dashboard.lines(reader.snapshot()))
    while not once:
        time.sleep(dashboard.REFRESH_SECONDS)
        screen.show(dashboard.lines(reader.snapshot()))


def _serve(paths: Paths, port: int) -> int:
    if util.find_spec("nicegui") is None:
        raise MachineError("opening the page", 'NiceGUI is not installed. Run: python -m pip install -e ".[web]"')
    # Only now, as it takes a second and is an extra.
    from tools.monitor.web import server

    with contextlib.suppress(KeyboardInterrupt):
        server.serve(paths, port, _say)
    _say("Monitoring stopped; the learner goes on.")
    return 0


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # who reads along may have gone away
        print(sentence, flush=True)
