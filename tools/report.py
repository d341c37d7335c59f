"""Write a page that tells of a run, made for posting: python tools/report.py --help"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import argparse
import time

from local_training import atomic_files
from tools import command_line
from tools.run_report import report, run_facts


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write one HTML page, complete in itself, that tells what was played and how the bot improved; "
        "and its pictures as PNG files beside it.",
    )
    command_line.add_common(parser)
    parser.add_argument(
        "--out", type=command_line.output_file, metavar="FILE", help="the page (by default logs/report.html in the root)"
    )
    parser.add_argument("--no-png", action="store_true", help="only the page; its pictures are within it anyway")
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = command_line.settings_of(options)
    paths = settings.paths
    command_line.check_there_is_a_run(paths)
    out = (options.out or paths.logs / "report.html").absolute()
    written = report.write(run_facts.gather(settings), run_facts.private_words(paths), time.time())
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_atomically(out, written.page.encode("utf-8", "replace"), durable=False)
    for name, png in written.pictures.items() if not options.no_png else ():
        atomic_files.write_atomically(out.with_name(f"{out.stem}_{name}.png"), png, durable=False)
    command_line.answer(f"[OK] Report written to {out}")
    return 0
