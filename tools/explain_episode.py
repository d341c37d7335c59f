"""What became of an episode file: python tools/explain_episode.py NAME..."""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from local_training import atomic_files, buffer_folder
from local_training.paths import Paths
from local_training.visible_text import visible
from tools import command_line
from tools.learner import ledger as ledgers


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 if a file has never been seen."""
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="explain_episode.py", description="Say what became of episode files: trained, stale, duplicate, rejected, waiting."
    )
    command_line.add_common(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file's name, or the start of its sha256")
    parser.add_argument("--all", action="store_true", help="all files that ever came")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _run(options: argparse.Namespace) -> int:
    if not options.names and not options.all:
        print("explain_episode.py: a NAME or --all is needed", file=sys.stderr)
        return command_line.USAGE_ERROR
    paths = command_line.settings_of(options).paths
    lines = list(ledgers.read_lines(paths.ledger))
    unseen = 0
    names: list[str | None] = [None] if options.all else [Path(given).name for given in options.names]
    for name in names:
        fates = list(fates_of(paths, lines, name))
        unseen += not fates and name is not None
        unknown = "forgotten or never seen" if any(line["fate"] == ledgers.SUMMARY for line in lines) else "never seen"
        for fate in fates or ([{"name": name, "fate": unknown}] if name is not None else []):
            command_line.answer(json.dumps(fate) if options.json else sentence(fate))
    return 1 if unseen else 0


def fates_of(paths: Paths, lines: Iterable[Mapping[str, Any]], name: str | None) -> Iterable[dict[str, Any]]:
    """Everything that is known of a file, oldest first; of all files for None.

    Args:
        lines: the ledger's.
        name: a file's name in the buffer or in the archive, or at least 8 digits of its sha256.
    """
    known: set[tuple[str, str]] = set()
    for line in lines:
        if name is None or _is_meant(line, name):
            stored_as = line.get("archived_as", line["name"])
            known.add((line["fate"], stored_as))
            if line["fate"] not in ledgers.OF_NO_FILE:
                yield dict(line)
    if not atomic_files.exists(paths.buffer):
        return
    for waiting in buffer_folder.waiting_names(paths):
        if name is None or waiting == name:
            yield {"name": waiting, "fate": "waiting"}
    for fate in (buffer_folder.TRAINED, buffer_folder.STALE, buffer_folder.DUPLICATE, buffer_folder.REJECTED):
        for path in sorted(buffer_folder.folder_of(paths, fate).glob("*.npz")):
            if (name is None or path.name == name) and (fate, path.name) not in known:
                yield {"name": path.name, "fate": "not in the ledger", "found_in": path.parent.relative_to(paths.data).as_posix()}


def sentence(fate: Mapping[str, Any]) -> str:
    """One line for a person."""
    name = visible(fate["name"])
    kind = fate["fate"]
    version = f"version {fate.get('seq')}"
    if fate.get(ledgers.RECONSTRUCTED):
        version = "a version that is not known any more, as the ledger had lost this line, which was made from the archive"
    if kind == buffer_folder.TRAINED:
        text = f"trained in {version} ({fate.get('steps', '?')} steps, return {fate.get('return', '?')})"
    elif kind == "forgotten or never seen":
        return f"{name}: not among what the ledger still holds; its oldest lines were left out (retention.ledger_lines)"
    elif kind in ("waiting", "never seen"):
        return f"{name}: {'waits in the buffer for its turn' if kind == 'waiting' else 'no file of this name has come here'}"
    elif kind == "not in the ledger":
        return f"{name}: lies in {fate['found_in']}, and the ledger does not know it: put there by hand, or older than the ledger"
    else:
        text = f"{kind}, with {version}, because {fate.get('reason', 'of a reason that was not noted')}"
    text += f", and deleted since: {fate[buffer_folder.DELETED]}" if buffer_folder.DELETED in fate else ""
    stored = f"; stored as {fate['archived_as']}" if "archived_as" in fate else ""
    return f"{name}: {text}{stored} [sha256 {fate['sha256'][:12] or 'none'}]"


def _is_meant(line: Mapping[str, Any], name: str) -> bool:
    if not line["name"]:
        return False
    by_hash = len(name) >= 8 and bool(line["sha256"]) and line["sha256"].startswith(name.casefold())
    return by_hash or name in (line["name"], line.get("archived_as"))
