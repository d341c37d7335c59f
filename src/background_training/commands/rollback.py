"""Publish an earlier version of the model as the next one: python tools/rollback_model.py VERSION"""

from __future__ import annotations

import argparse

from background_training import command_lines
from background_training.commands import common
from background_training.ipc import process_limits
from background_training.storage.file_lock import both_locks


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("rollback"),
        description="Publish an earlier version of the model as the next one. Games load it; training continues from it.",
    )
    common.add_common(parser)
    parser.add_argument("version", type=int, metavar="VERSION", help="the version to go back to")
    return parser


def _run(options: argparse.Namespace) -> int:
    # Before NumPy is loaded: a version that has to be trained again takes its bits from it.
    process_limits.limit_blas_threads()
    from background_training.learner import publish

    settings = common.settings_of(options)
    paths = settings.paths
    common.check_there_is_a_run(paths)
    with both_locks(paths):
        found = publish.version_of(paths, options.version)
        reason = f"rollback to version {options.version}"
        published = publish.publish(paths, found, reason, durable=settings.learner.durable)
    common.answer(f"[OK] Version {options.version} is published again, as version {published.version}: {paths.model}")
    return 0
