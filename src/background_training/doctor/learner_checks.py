"""Mistakes around the learner's process: none at work, one too many, dead, silent, held up. Pure."""

from __future__ import annotations

from typing import Any

from background_training import command_lines
from background_training.doctor.facts import Facts
from background_training.doctor.finding import Trouble
from background_training.monitor import words

_WAITED_SECONDS = 60.0
_AT_WORK = ("starting", "idle", "training", "waiting", "paused", "restarting")
_OFTEN_RESTARTED = 2


def no_learner(facts: Facts) -> Trouble | None:
    """Episodes pile up, and nobody trains on them."""
    places = facts.places
    learner = facts.learner
    if (
        learner.holder
        or learner.worker_holder
        or learner.pause
        or not places.waiting
        or places.oldest_waiting_seconds < _WAITED_SECONDS
    ):
        return None
    cause = f"{_waiting(facts)}, and no learner is at work in {facts.paths.root}."
    return Trouble(cause, f"Start one: {command_lines.command('learn', facts.paths.root)} (or with --drain).")


def another_learner(facts: Facts) -> Trouble | None:
    """A learner is at work, and a second one wants to be."""
    learner = facts.learner
    if learner.holder is None or not (facts.about_to_start or learner.rivals):
        return None
    if learner.rivals:
        cause = (
            f"{learner.rivals[0].words} plays in {facts.paths.root} without a learner of its own: {learner.holder.words} has it."
        )
        return Trouble(
            words.visible(cause), "One root, one game, one learner: give the second one a --root of its own, or stop one."
        )
    cause = f"another learner is at work in {facts.paths.root}: {learner.holder.words}; a second one is refused (exit code 3)."
    return Trouble(words.visible(cause), "Stop that process first, or use another --root.")


def orphaned_worker(facts: Facts) -> Trouble | None:
    """A worker has outlived its learner, and keeps the next one waiting."""
    learner = facts.learner
    if learner.worker_holder is None or learner.holder is not None:
        return None
    cause = f"the worker's lock is held by {learner.worker_holder.words}, and there is no learner it could belong to."
    cure = (
        "If that is a --drain, let it finish. A worker left behind by a killed game ends within seconds; end it if it does not."
    )
    return Trouble(words.visible(cause), cure)


def learner_is_dead(facts: Facts) -> Trouble | None:
    """The status says that it works; its process is gone. A lock needs no care: it went with its process."""
    learner = facts.learner
    if learner.holder is not None or learner.state not in _AT_WORK or not learner.silent:
        return None
    cause = f"the learner was killed or its machine went down: {learner.status_words}."
    return Trouble(cause, "Its lock is free; there is no lock file to delete. Start it again: it goes on where it was.")


def stale_card(facts: Facts) -> Trouble | None:
    """What a killed learner wrote about itself still lies there, though nobody holds the lock."""
    learner = facts.learner
    if not learner.card_left_behind or learner_is_dead(facts) is not None:
        return None
    cause = f"{facts.paths.learner_lock} is free, but the card of a learner beside it was left behind: it was killed."
    return Trouble(cause, "Nothing has to be deleted: the next learner takes the lock and writes a card of its own. Start it.")


def learner_is_silent(facts: Facts) -> Trouble | None:
    """Its process lives, and has said nothing for long."""
    learner = facts.learner
    if learner.holder is None or not learner.silent:
        return None
    cause = f"{learner.holder.words} has the learner's lock, and its status is old: {learner.status_words}."
    return Trouble(
        words.visible(cause), "If nothing changes for some minutes, end that process and start it again: nothing is lost."
    )


def learner_has_failed(facts: Facts) -> Trouble | None:
    """It has given up, and says why."""
    if facts.learner.state != "failed":
        return None
    cause = f"the learner has given up: {words.visible(facts.learner.stats.get('last_error') or 'it did not say why', 400)}."
    return Trouble(cause, f"Mend that cause and start it again. {_last_words(facts)}".strip())


def machine_fails(facts: Facts) -> Trouble | None:
    """It waits for the machine to do what it refused: disk full, no permission, input/output error."""
    if facts.learner.state != "waiting" or facts.learner.silent:
        return None
    error = words.visible(facts.learner.stats.get("last_error") or "it does not say for what", 400)
    return Trouble(
        f"the learner waits for a fault of the machine to pass: {error}.", "Mend it; the learner tries again by itself."
    )


def worker_keeps_dying(facts: Facts) -> Trouble | None:
    """The worker process has been replaced time and again."""
    restarts = _number(facts.learner.stats.get("worker_restarts"))
    if restarts < _OFTEN_RESTARTED or facts.learner.state not in _AT_WORK:
        return None
    error = words.visible(facts.learner.stats.get("last_error") or "unknown", 300)
    cause = f"the worker process has died {restarts:.0f} times: {error}."
    cure = f"Too little memory and a package that does not fit this Python are usual. {_last_words(facts)}"
    return Trouble(cause, cure.strip())


def paused(facts: Facts) -> Trouble | None:
    """The user has paused training, and may have forgotten it."""
    pause = facts.learner.pause
    if pause is None:
        return None
    cause = f"{facts.paths.root} is paused, {words.visible(pause.words)}: nothing is trained there, now and after a restart."
    cure = f"To continue: {command_lines.command('monitor', facts.paths.root)} --resume (or r in the monitor)."
    return Trouble(cause, f"{cure} Nothing is lost: the episodes wait, and do not grow too old by it.")


def held_up(facts: Facts) -> Trouble | None:
    """The governor or a game has kept training from going on for a while, and episodes wait."""
    learner = facts.learner
    waited = facts.places.oldest_waiting_seconds
    if learner.state != "paused" or learner.silent or learner.pause is not None or waited < _WAITED_SECONDS:
        return None
    reason = words.visible(learner.governor.get("reason") or learner.stats.get("governor") or "it does not say why", 300)
    cause = f"the learner stands still ({reason}) while {_waiting(facts)}."
    cure = "Close what uses the machine, or let the game say busy() for shorter; governor.* in docs/settings.md sets the limits. "
    return Trouble(cause, cure + "logs/governor.log tells how often it gave way, and to whom.")


def training_is_off(facts: Facts) -> Trouble | None:
    """The learner runs, and has been told not to train."""
    running = (facts.learner.status.content or {}).get("settings")
    learner: Any = running.get("learner") if isinstance(running, dict) else None
    off = isinstance(learner, dict) and learner.get("enable_model_training") is False
    if not off or not facts.places.waiting or facts.learner.holder is None:
        return None
    cause = f"{_waiting(facts)}, and learner.enable_model_training is false in the learner at work."
    return Trouble(cause, "Set it to true, and start the learner again.")


def too_slow(facts: Facts) -> Trouble | None:
    """Games deliver faster than the learner takes; the oldest will be too old before their turn."""
    limit = facts.settings.learner.max_file_age
    waited = facts.places.oldest_waiting_seconds
    if facts.learner.holder is None or facts.learner.silent or facts.learner.state not in ("idle", "training"):
        return None
    if not limit or not limit / 2 < waited <= limit or facts.places.waiting < 2 * facts.settings.learner.batch_size:
        return None
    cause = f"{_waiting(facts)}; after {words.duration(limit)} they are too old."
    return Trouble(cause, "Play less at a time, or make a batch cheaper: lower learning.replay_ratio and learning.n_epochs.")


def _waiting(facts: Facts) -> str:
    places = facts.places
    return f"{words.plural(places.waiting, 'episode')} wait, the oldest for {words.duration(places.oldest_waiting_seconds)}"


def _last_words(facts: Facts) -> str:
    said = facts.learner.last_words
    return f"Its last words, in {facts.paths.worker_stderr}: {words.visible(said.splitlines()[-1], 200)}" if said else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
