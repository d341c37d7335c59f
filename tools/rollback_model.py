"""Publish an earlier version of the model as the next one: python tools/rollback_model.py VERSION"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse

from local_training import blas_threads
from local_training.root_lock import LearnerLock
from tools import command_line


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rollback_model.py",
        description="Publish an earlier version of the model as the next one. Games pick it up; training goes on from it.",
    )
    command_line.add_common(parser)
    parser.add_argument("version", type=int, metavar="VERSION", help="the version to go back to")
    return parser


def _run(options: argparse.Namespace) -> int:
    # Before NumPy is loaded: a version that has to be trained again takes its bits from it.
    blas_threads.limit_blas_threads()
    from tools.learner import publishing

    settings = command_line.settings_of(options)
    paths = settings.paths
    command_line.check_there_is_a_run(paths)
    lock = LearnerLock(paths)
    lock.acquire()
    try:
        found = publishing.version_of(paths, options.version)
        reason = f"rollback to version {options.version}"
        published = publishing.publish(paths, found, reason, durable=settings.learner.durable)
    finally:
        lock.release()
    command_line.answer(f"[OK] Version {options.version} is published again, as version {published.version}: {paths.model}")
    return 0
