"""Analyse a folder of StarCraft II replays: python tools/analyze_replays.py --help"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from background_training import command_lines
from background_training.commands import common
from background_training.errors import SettingsError
from background_training.settings import Settings
from background_training.starcraft.replays import analysis, report, summary
from background_training.starcraft.replays.replay_archive import ReplayArchive
from background_training.starcraft.replays.worker_pool import WorkerPool

SAVE_SECONDS = 10.0
"""Time between two summaries of a long run, so that a bot need not wait for its end."""


def main(arguments: list[str] | None = None) -> int:
    """Analyse what the arguments name; the exit code."""
    return common.run(_parser(), _analyse, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("replays"),
        description="Read StarCraft II replays and sum up what their Zerg players build, in models/learned_build_orders.json.",
        epilog="Exit codes: 0 done, 2 bad usage, 4 results can't be locked, 5 disk or permission, 130 interrupted, 1 any other.",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="folder of replays (default: REPLAY_ARCHIVE_DIR)")
    common.add_common(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read replays")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds one replay may take")
    parser.add_argument("--details", metavar="FILE", help="write one JSON object per replay, one a line")
    parser.add_argument("--report", action="store_true", help="write a page with the distributions, models/replay_report.html")
    parser.add_argument("--move-to", metavar="DIR", help="move analysed replays there; default: they stay")
    parser.add_argument("--retry-failed", action="store_true", help="retry replays that could not be read")
    parser.add_argument("--watch", action="store_true", help="keep running and read new replays as they appear, until Ctrl+C")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    return parser


def _analyse(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    settings = _settings(options)
    folder = settings.replays.folder
    if not folder or not os.path.exists(folder):
        needed = "an existing folder is needed, as argument or in REPLAY_ARCHIVE_DIR"
        raise SettingsError("DIR", folder, needed, "command line")
    common.make_root(settings.root)
    analysis.demand_library()
    archive = ReplayArchive(settings.paths, settings.replays, folder)
    archive.prepare()
    try:
        _read_all(archive, options)
    except KeyboardInterrupt:
        print("[INFO] Interrupted; the results so far are kept", file=sys.stderr)
        raise
    if options.details:
        archive.write_details(Path(options.details).resolve())
    if options.report:
        report.write_report(archive)
    if not options.quiet:
        print(summary.table(archive.summarise()))
        print(f"\nWritten to {archive.paths.build_orders}")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    given = {
        "folder": options.folder,
        "workers": options.workers,
        "timeout_seconds": options.timeout,
        "move_analysed_to": options.move_to,
    }
    return common.settings_of(options, replays=given)


def _read_all(archive: ReplayArchive, options: argparse.Namespace) -> None:
    """Read until nothing new is found; with --watch, until interrupted."""
    progress = common.ProgressBar("replays", enabled=not options.quiet)
    retry_failed = options.retry_failed
    try:
        while True:
            settled_before = time.time() - archive.settings.settle_seconds if options.watch else None
            waiting = archive.look(settled_before=settled_before, retry_failed=retry_failed)
            if waiting:
                _read(archive, waiting, progress)
            elif not options.watch:
                return
            else:
                archive.write_summary()
                threading.Event().wait(archive.settings.rescan_seconds)
    finally:
        progress.end()
        archive.write_summary()


def _read(archive: ReplayArchive, waiting: list[str], progress: common.ProgressBar) -> None:
    saved = time.monotonic()
    with WorkerPool(archive.settings, archive.paths.replay_results) as pool:
        for done, (path, result) in enumerate(pool.read(waiting), 1):
            archive.take(path, result)
            progress.show(done, len(waiting))
            if time.monotonic() - saved > SAVE_SECONDS:
                archive.write_summary()
                saved = time.monotonic()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
