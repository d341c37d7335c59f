"""All checks in the order in which their findings are told: what explains most comes first."""

from __future__ import annotations

from collections.abc import Callable

from background_training.doctor import episode_checks as episodes
from background_training.doctor import learner_checks as learner
from background_training.doctor import machine_checks as machine
from background_training.doctor import place_checks as places
from background_training.doctor import record_checks as records
from background_training.doctor.facts import Facts
from background_training.doctor.finding import Finding, Trouble

Check = Callable[[Facts], "Trouble | None"]

CHECKS: tuple[Check, ...] = (
    machine.settings,
    machine.unknown_variables,
    places.part_of_a_root,
    places.nothing_here,
    places.episodes_in_another_root,
    places.episodes_elsewhere,
    places.not_writable,
    machine.full_disk,
    machine.no_locks,
    machine.network_drive,
    machine.fat_disk,
    machine.synced_folder,
    machine.slow_renames,
    machine.disk_clock,
    places.clock_behind,
    places.path_too_long,
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
    places.foreign_names,
    places.unfinished_files,
    places.unreadable_episodes,
    places.files_from_the_future,
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


def examine(facts: Facts) -> list[Finding]:
    """What all checks find, in their order."""
    findings = []
    for check in CHECKS:
        trouble = check(facts)
        if trouble is not None:
            findings.append(Finding(name_of(check), *trouble))
    return findings
