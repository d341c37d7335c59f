"""All checks in the order in which their findings are printed, and the facts that they look at: gathered without a lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from background_training import settings_file
from background_training.doctor import episodes, folders, learner, machine, records
from background_training.doctor.facts import DoctorFacts
from background_training.doctor.finding import Finding, Trouble
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import SettingsError
from background_training.monitor import humanize
from background_training.records import disk_forecast
from background_training.settings import Settings

Check = Callable[[DoctorFacts], "Trouble | None"]

CHECKS: tuple[Check, ...] = (
    machine.settings,
    machine.unknown_variables,
    folders.part_of_a_root,
    folders.nothing_here,
    folders.episodes_in_another_root,
    folders.episodes_elsewhere,
    folders.not_writable,
    machine.full_disk,
    machine.no_locks,
    machine.network_drive,
    machine.fat_disk,
    machine.synced_folder,
    machine.slow_renames,
    machine.disk_clock,
    folders.clock_behind,
    folders.path_too_long,
    machine.no_events,
    machine.missing_extras,
    learner.another_learner,
    learner.orphaned_worker,
    learner.learner_is_dead,
    learner.stale_card,
    learner.learner_is_silent,
    learner.learner_has_failed,
    learner.machine_fails,
    learner.worker_keeps_dying,
    learner.training_is_off,
    learner.paused,
    learner.held_up,
    learner.no_learner,
    learner.too_slow,
    records.ledger_damaged,
    records.model_unreadable,
    records.model_lost,
    records.another_history,
    records.gone_from_the_archive,
    records.model_not_finite,
    records.loss_not_finite,
    folders.foreign_names,
    folders.unfinished_files,
    folders.unreadable_episodes,
    folders.files_from_the_future,
    records.wrong_width,
    records.actions_outside,
    records.not_finite,
    records.many_rejected,
    records.mostly_stale,
    records.mostly_duplicates,
    episodes.constant_rewards,
    episodes.shifted_rewards,
    episodes.identical_games,
    episodes.unscaled_states,
    episodes.collapsed_policy,
    episodes.games_without_the_model,
    episodes.games_that_do_not_say,
    machine.replays_folder,
    machine.replays_without_zerg,
)


def name_of(check: Check) -> str:
    """What a check is called in reports: its function's name."""
    return check.__name__.replace("_", "-")


def examine(facts: DoctorFacts) -> list[Finding]:
    """What all checks find, in their order."""
    findings = []
    for check in CHECKS:
        trouble = check(facts)
        if trouble is not None:
            findings.append(Finding(name_of(check), *trouble))
    return findings


def gather(settings: Settings, settings_trouble: str, *, before_start: bool = False) -> DoctorFacts:
    """All facts of one moment; nothing is changed, but for a few probe files that are gone when this returns."""
    paths = settings.paths
    machine_facts = machine.look(paths, os.environ)
    ledger = records.records(paths)
    return DoctorFacts(
        paths=paths,
        settings=settings,
        settings_trouble=settings_trouble,
        machine=machine_facts,
        # The model after the ledger: a running learner writes them in the other order, so a model that is older than
        # the ledger was put there by another program.
        records=ledger,
        model=records.model(paths),
        places=folders.look(paths, machine_facts.now),
        learner=learner.look(paths, machine_facts.now),
        replays=records.replays(paths, settings.replays),
        waiting=records.waiting_episodes(paths, settings.limits),
        trained=records.trained_episodes(paths, ledger, settings.limits),
        disk=disk_forecast.look(paths, settings.retention),
        about_to_start=before_start,
    )


def load_settings(config: Path | None, root: Path | None) -> tuple[Settings, str]:
    """The settings, or the defaults and why the settings can't be used."""
    # Misspelt variables have a check of their own and must not stop the other checks.
    strange = settings_file.unknown_variables(os.environ)
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    try:
        return settings_file.load(config, environment, root=root), ""
    except SettingsError as error:
        fallback = Settings() if root is None else Settings(root=root.absolute())
        return fallback, str(error)


def notes(facts: DoctorFacts) -> list[tuple[str, str]]:
    """Facts for the head of the report."""
    counts, learner = facts.records.counts, facts.learner
    holder = f"; at work: {learner.holder.words}" if learner.holder else ""
    fates = ", ".join(f"{counts[fate]:,} {fate}" for fate in (TRAINED, STALE, DUPLICATE, REJECTED))
    version = "none" if facts.model.missing or facts.model.trouble else f"version {facts.model.version}"
    return [
        ("Root", humanize.visible(facts.paths.root)),
        ("Learner", humanize.visible(f"{learner.status_words}{holder}")),
        ("Episodes", f"{facts.places.waiting:,} waiting, {fates}"),
        *_unusable(facts),
        ("Model", version),
        *([("Disk", f"{facts.disk.sentence}. {facts.disk.remedy}")] if facts.disk else []),
    ]


def _unusable(facts: DoctorFacts) -> list[tuple[str, str]]:
    """Waiting files that will be rejected: a note, as a few bad files among many sound ones are no fault of the setup."""
    bad = records.unusable_waiting(facts)
    if not bad:
        return []
    count = f"{len(bad)} of the {humanize.plural(len(facts.waiting), 'newest waiting file')} will be rejected"
    newest = bad[-1]
    return [("Unusable", f"{count}, such as {humanize.name(newest.name)}: {humanize.visible(newest.found, 200)}")]
