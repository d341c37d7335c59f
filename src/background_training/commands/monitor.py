"""Watch the training live: python tools/monitor_background_training.py --help

Reads the root's files, and writes none but the user's pause (--pause, or the key p). Killing it, or never starting it,
makes no difference to the learner.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import time
from importlib import util

from background_training import command_lines, printable
from background_training.commands import common
from background_training.errors import MachineError, SettingsError
from background_training.monitor import advice, dashboard, history
from background_training.monitor.dashboard import Screen
from background_training.monitor.facts import Reader
from background_training.monitor.folder_census import MEASURED_PER_LOOK, NAMES_KEPT
from background_training.paths import Paths
from background_training.records import pause_file
from background_training.records.metrics import MetricsReader

SHORTEST_SECONDS, LONGEST_SECONDS = 0.05, 3600.0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _monitor, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("monitor"), description="Show what the background learner does, until Ctrl+C."
    )
    common.add_common(parser)
    parser.add_argument("--once", action="store_true", help="show it once, whole, and exit")
    parser.add_argument("--plain", action="store_true", help="show lines of text only, also on a terminal")
    parser.add_argument("--interval", type=float, metavar="S", help="seconds between two looks (0.5; with plain lines 2)")
    parser.add_argument("--pause", action="store_true", help="pause the learner until --resume, and exit")
    parser.add_argument("--resume", action="store_true", help="resume it, and exit")
    parser.add_argument("--web", action="store_true", help="show it as a page for a browser on this machine")
    parser.add_argument("--port", type=int, default=8765, metavar="P", help="port of the page (8765; 0: any that is free)")
    return parser


def _monitor(options: argparse.Namespace) -> int:
    paths = common.settings_of(options).paths
    if options.pause or options.resume:
        return _tell_learner(paths, options)
    if not 0 <= options.port <= 65535:
        raise SettingsError("--port", options.port, "a port from 0 to 65535 is needed", "command line")
    if options.web:
        return _serve(paths, options.port)
    if options.interval is not None and not SHORTEST_SECONDS <= options.interval <= LONGEST_SECONDS:
        needed = f"seconds from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} are needed"
        raise SettingsError("--interval", options.interval, needed, "command line")
    try:
        if options.once or options.plain or not _can_draw():
            _show(paths, options.interval or dashboard.REFRESH_SECONDS, once=options.once)
        else:
            _show_live(paths, options.interval)
            printable.say("Monitoring stopped; the learner continues.")
    except KeyboardInterrupt:
        printable.say("\nMonitoring stopped; the learner continues.")
    except OSError as error:
        if not printable.reader_is_gone(error) and error.errno != errno.EIO:
            raise
        # The reader of the pipe or the terminal is gone. Otherwise the interpreter prints an error at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _tell_learner(paths: Paths, options: argparse.Namespace) -> int:
    if options.pause and options.resume:
        raise SettingsError("--pause", True, "not together with --resume", "command line")
    if not paths.data.is_dir():
        raise SettingsError(
            "--root", str(paths.root), "a folder with data/ in it is needed; no learner has worked here", "command line"
        )
    changed = pause_file.pause(paths) if options.pause else pause_file.resume(paths)
    printable.say(pause_file.sentence(paths, changed=changed))
    return 0


def _show(paths: Paths, seconds: float, *, once: bool) -> None:
    # With --once all files are measured at once; live, the rest follows at the next looks.
    reader = Reader(paths, time.time(), NAMES_KEPT if once else MEASURED_PER_LOOK)
    screen, metrics = Screen(sys.stdout, overwrite=not once), MetricsReader(paths)
    while True:
        metrics.look()
        found = history.learning(metrics.batches, metrics.games)
        seen = reader.snapshot()
        screen.show(dashboard.lines(seen, seconds, found, advice.advice(seen, str(paths.root))))
        if once:
            return
        time.sleep(seconds)


def _can_draw() -> bool:
    if not sys.stdout.isatty() or util.find_spec("rich") is None:
        return False
    # Only now, as it is an extra.
    from background_training.monitor.terminal import screen

    return screen.can_draw(sys.stdout)


def _show_live(paths: Paths, seconds: float | None) -> None:
    from background_training.monitor.terminal import session

    session.run(paths, seconds or session.INTERVAL_SECONDS, sys.stdout, sys.stdin)


def _serve(paths: Paths, port: int) -> int:
    if util.find_spec("nicegui") is None:
        raise MachineError("opening the page", f"NiceGUI is not installed. Run: {command_lines.install('web')}")
    # Only now, as it takes a second and is an extra.
    from background_training.monitor.web import server

    with contextlib.suppress(KeyboardInterrupt):
        server.serve(paths, port, printable.say)
    printable.say("Monitoring stopped; the learner continues.")
    return 0
