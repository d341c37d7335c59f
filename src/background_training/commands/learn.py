"""Run the learner without a game, or train once on what waits: python tools/background_parallel_learner.py --help"""

from __future__ import annotations

import argparse
import time
from typing import Any

from background_training import command_lines, printable
from background_training.commands import common
from background_training.ipc import process_limits
from background_training.learner import console
from background_training.learner.background_learner import BackgroundParallelLearner
from background_training.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("learn"),
        description="Train on the episodes that games deposit in the buffer, until Ctrl+C; or once on those that wait (--drain).",
    )
    common.add_common(parser)
    parser.add_argument("--drain", action="store_true", help="train on the files in the buffer, then exit")
    parser.add_argument("--max-file-age", type=float, metavar="S", help="seconds after which an episode is stale; 0: never")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="2: analyse replays beside the training; 1: while no episodes wait"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="episodes in one batch, at most")
    parser.add_argument("--durability", choices=("full", "fast"), help="full: survives a power cut; fast: survives a crash")
    parser.add_argument(
        "--overnight", action="store_true", help="do not give way to other programs (governor.profile: overnight)"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def _run(options: argparse.Namespace) -> int:
    learner_flags = {
        "max_file_age": options.max_file_age,
        "max_workers": options.workers,
        "batch_size": options.batch_size,
        "durability": options.durability,
        "verbose": False if options.quiet else None,
    }
    settings = common.settings_of(options, learner=learner_flags, governor=common.governor_flags(options))
    common.make_root(settings.root)
    return _drain(settings, options.quiet) if options.drain else _learn_until_interrupted(settings)


def _drain(settings: Settings, quiet: bool) -> int:
    # Before NumPy is loaded: the bits of the model depend on the number of its threads.
    process_limits.limit_blas_threads()
    from background_training.learner.drain import drain

    def report(event: str, **facts: Any) -> None:
        if not quiet:
            printable.say(console.event_line(event, facts))

    stats = drain(settings, report)
    if not quiet:
        printable.say(console.drained(stats))
        if console.misfits(stats):
            printable.say(f"[WARNING] Episodes that do not fit: {console.misfits(stats)}")
    return 0


def _learn_until_interrupted(settings: Settings) -> int:
    learner = BackgroundParallelLearner(settings=settings)
    started = False
    try:
        # Within the try: the user may press Ctrl+C while the learner starts.
        started = learner.start()
        printable.say("[OK] Background parallel learner initialized and started")
        printable.say(f"[INFO] Monitoring directory: {learner.data_dir}")
        while learner.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        return 0
    finally:
        learner.stop()
        if started:
            printable.say("[OK] Background parallel learner stopped")
    return 1
