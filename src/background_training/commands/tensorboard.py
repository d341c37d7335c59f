"""Write TensorBoard's event files of a run, and keep them up to date: python tools/export_tensorboard.py --help

Reads the metrics history, as every monitor does. Killing it, or never starting it, makes no difference to the learner.
"""

from __future__ import annotations

import argparse
import time

from background_training import command_lines, printable
from background_training.commands import common
from background_training.monitor.tensorboard import Follower
from background_training.paths import Paths

LOOK_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _export, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("tensorboard"),
        description="Write event files for TensorBoard into logs/tensorboard, and follow the training until Ctrl+C.",
    )
    common.add_common(parser)
    parser.add_argument("--once", action="store_true", help="write what there is, and exit")
    return parser


def _export(options: argparse.Namespace) -> int:
    paths = common.settings_of(options).paths
    follower = Follower(paths)
    try:
        if options.once:
            _print_progress(paths, _first_look(follower))
        else:
            _follow(paths, follower)
    except KeyboardInterrupt:
        printable.say("\nExport stopped; the learner continues.")
    finally:
        follower.close()
    return 0


def _first_look(follower: Follower) -> int:
    progress = common.ProgressBar("batches")
    try:
        return follower.look(progress.show)
    finally:
        progress.end()


def _follow(paths: Paths, follower: Follower) -> None:
    batches = _first_look(follower)
    _print_progress(paths, batches)
    printable.say("[INFO] Ctrl+C ends it; the learner continues.")
    trouble = ""
    while True:
        time.sleep(LOOK_SECONDS)
        found, before = "", batches
        try:
            batches = follower.look()
        except OSError as error:  # may be transient, such as a full disk
            found = str(error)
        if batches and not before:
            _print_progress(paths, batches)
        if found and found != trouble:
            printable.say(f"[WARNING] Not written: {found}; retrying.")
        trouble = found


def _print_progress(paths: Paths, batches: int) -> None:
    if batches:
        printable.say(f'[OK] Batches in the event files: {batches:,}. To see them: tensorboard --logdir "{paths.tensorboard}"')
    else:
        printable.say(f"[INFO] No batch has been trained yet in {paths.root}, according to its metrics history.")
