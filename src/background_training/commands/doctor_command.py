"""The doctor's command: gather, check, tell. It takes no lock, moves no file, and reads what a learner may be writing."""

from __future__ import annotations

import argparse
import os

from background_training import command_lines, settings_file
from background_training.commands import common
from background_training.doctor import all_checks, finding, learner_facts, machine_facts, place_facts, record_facts
from background_training.doctor.facts import Facts
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import SettingsError
from background_training.monitor import words
from background_training.records import disk_forecast
from background_training.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return common.run(parser(), _run, arguments)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=command_lines.usage_name("doctor"),
        description="Look for what is set up wrongly in a root and on this machine, and name cause and cure.",
        epilog="Exit codes: 0 nothing wrong was found, 1 something was, 2 bad usage, 5 the machine failed the doctor itself.",
    )
    common.add_common(made)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument(
        "--before-start", action="store_true", help="I want to start a learner now: one that is at work is in the way"
    )
    return made


def _run(options: argparse.Namespace) -> int:
    facts = gather(options)
    findings = all_checks.examine(facts)
    tell = finding.as_json if options.json else finding.as_text
    common.answer(tell(notes(facts), findings, len(all_checks.CHECKS)))
    return 1 if findings else 0


def gather(options: argparse.Namespace) -> Facts:
    """All facts of one moment; nothing is changed, but for a few probe files that are gone when this returns."""
    settings, trouble = _settings(options)
    common.check_root(settings.root)
    paths = settings.paths
    machine = machine_facts.look(paths, os.environ)
    records = record_facts.records(paths)
    return Facts(
        paths=paths,
        settings=settings,
        settings_trouble=trouble,
        machine=machine,
        # The model after the ledger: a learner at work writes them in the other order, so a model that is older than
        # the ledger is one that somebody else has put there.
        records=records,
        model=record_facts.model(paths),
        places=place_facts.look(paths, machine.now),
        learner=learner_facts.look(paths, machine.now),
        replays=record_facts.replays(paths, settings.replays),
        waiting=record_facts.waiting_episodes(paths, settings.limits),
        trained=record_facts.trained_episodes(paths, records, settings.limits),
        disk=disk_forecast.look(paths, settings.retention),
        about_to_start=options.before_start,
    )


def _settings(options: argparse.Namespace) -> tuple[Settings, str]:
    """The settings, or the defaults and why the settings can't be used."""
    # Misspelt variables have a check of their own, and keep none of the others from being made.
    strange = settings_file.unknown_variables(os.environ)
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    try:
        return settings_file.load(options.config, environment, root=options.root), ""
    except SettingsError as error:
        fallback = Settings() if options.root is None else Settings(root=options.root.absolute())
        return fallback, str(error)


def notes(facts: Facts) -> list[tuple[str, str]]:
    """What was seen, wrong or not."""
    counts, learner = facts.records.counts, facts.learner
    holder = f"; at work: {learner.holder.words}" if learner.holder else ""
    fates = ", ".join(f"{counts[fate]:,} {fate}" for fate in (TRAINED, STALE, DUPLICATE, REJECTED))
    version = "none" if facts.model.missing or facts.model.trouble else f"version {facts.model.version}"
    return [
        ("Root", words.visible(facts.paths.root)),
        ("Learner", words.visible(f"{learner.status_words}{holder}")),
        ("Episodes", f"{facts.places.waiting:,} waiting, {fates}"),
        ("Model", version),
        *([("Disk", f"{facts.disk.sentence}. {facts.disk.remedy}")] if facts.disk else []),
    ]
