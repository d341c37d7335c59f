"""Print the fate of episode files: python tools/explain_episode.py NAME..."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from background_training import command_lines
from background_training.commands import common
from background_training.records import episode_fate, ledger_lines


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 if a file has never been seen."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("explain"),
        description="Print the fate of episode files: trained, stale, duplicate, rejected or waiting, and why.",
    )
    common.add_common(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file's name, or the start of its sha256")
    parser.add_argument("--all", action="store_true", help="all files of this root")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _run(options: argparse.Namespace) -> int:
    if not options.names and not options.all:
        print("explain_episode.py: a NAME or --all is needed", file=sys.stderr)
        return common.USAGE_ERROR
    paths = common.settings_of(options).paths
    lines = list(ledger_lines.read_lines(paths.ledger))
    unseen = 0
    names: list[str | None] = [None] if options.all else [Path(given).name for given in options.names]
    for name in names:
        fates = list(episode_fate.fates_of(paths, lines, name))
        unseen += not fates and name is not None
        unknown = episode_fate.UNKNOWN_SINCE_COMPACTION if any(map(ledger_lines.is_compaction, lines)) else "never seen"
        for fate in fates or ([{"name": name, "fate": unknown}] if name is not None else []):
            common.answer(json.dumps(fate) if options.json else episode_fate.sentence(fate))
    return 1 if unseen else 0
