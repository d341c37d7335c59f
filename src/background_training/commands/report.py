"""Write a page about a run, to be shared: python tools/report.py --help"""

from __future__ import annotations

import argparse
import time

from background_training import command_lines
from background_training.commands import common
from background_training.reports import report, run_facts
from background_training.storage import atomic_files


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_lines.usage_name("report"),
        description="Write one self-contained HTML page that shows what was played and how the bot improved; "
        "and its pictures as PNG files beside it.",
    )
    common.add_common(parser)
    parser.add_argument(
        "--out", type=common.output_file, metavar="FILE", help="the page (by default logs/report.html in the root)"
    )
    parser.add_argument("--no-png", action="store_true", help="only the page; its pictures are within it anyway")
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = common.settings_of(options)
    paths = settings.paths
    common.check_there_is_a_run(paths)
    out = (options.out or paths.logs / "report.html").absolute()
    written = report.write(run_facts.gather(settings), run_facts.private_words(paths), time.time())
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_atomically(out, written.page.encode("utf-8", "replace"), durable=False)
    for name, png in written.pictures.items() if not options.no_png else ():
        atomic_files.write_atomically(out.with_name(f"{out.stem}_{name}.png"), png, durable=False)
    common.answer(f"[OK] Report written to {out}")
    return 0
