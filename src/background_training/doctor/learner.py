"""Checks of the learner's process: none running, one too many, dead, silent, held up; and the readings they need."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from background_training import command_lines
from background_training.doctor.facts import DoctorFacts, Holder, LearnerFacts
from background_training.doctor.finding import Trouble
from background_training.monitor import facts, humanize, learner_state
from background_training.paths import CHECKOUT, Paths
from background_training.records import pause_file
from background_training.settings_file import ROOT_VARIABLE
from background_training.storage import file_lock

_RUN_SCRIPT = "run_with_training.py"
_LOCKS = Path("/proc/locks")
_WORDS = 200


def look(paths: Paths, now: float) -> LearnerFacts:
    card = file_lock.read_card(paths)
    holder = _holder(paths.learner_lock, card)
    status = facts.status_facts(paths)
    said = learner_state.state_words(status, now)
    return LearnerFacts(
        status=status,
        status_words=said,
        silent=said.startswith(learner_state.NO_SIGN),
        holder=holder,
        worker_holder=_holder(paths.worker_lock, None),
        card_left_behind=bool(card) and holder is None,
        rivals=tuple(_rivals(paths, holder)),
        last_words="\n".join(facts.last_lines(paths.worker_stderr, 3)),
        pause=pause_file.read(paths),
    )


def _holder(lock: Path, card: dict[str, Any] | None) -> Holder | None:
    """The holder of a lock: from the kernel where possible, else from the card if its process exists."""
    pid = _holder_by_kernel(lock)
    if pid is None and card and isinstance(card.get("pid"), int) and 0 < card["pid"] < 2**31 and psutil.pid_exists(card["pid"]):
        pid = card["pid"]
    return Holder(pid, _words_of(pid)) if pid is not None and pid >= 0 else None


def _holder_by_kernel(lock: Path) -> int | None:
    """The process id; -1 if it is free, 0 if the holder is not visible, None if the kernel gives no information."""
    try:
        inode = os.stat(lock).st_ino
        lines = _LOCKS.read_text("ascii").splitlines()
    except FileNotFoundError:
        return -1 if sys.platform.startswith("linux") and _LOCKS.exists() else None
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:789 0 EOF
        parts = line.split()
        if len(parts) >= 6 and parts[1] != "->" and parts[5].rpartition(":")[2] == str(inode):
            return max(int(parts[4]), 0)
    return -1


def _words_of(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({' '.join(process.cmdline())[:_WORDS]}, of {process.username()})"
    except (psutil.Error, OSError, KeyError):
        return f"process {pid}" if pid else "a process that this user can't see"


def _rivals(paths: Paths, holder: Holder | None) -> Iterator[Holder]:
    """Runs in the same root that would have a learner too, had the lock been free."""
    if holder is None:
        return
    root = os.path.realpath(paths.root)
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if not _is_run(command) or process.pid == holder.pid or "--no-training" in command:
            continue
        try:
            found = _root_of(process, command)
        except (psutil.Error, OSError):
            continue
        if found == root:
            yield Holder(process.pid, _words_of(process.pid))


def _is_run(command: list[str]) -> bool:
    """Whether a process's command line is that of `run_with_training.py`, or of the console script with the verb run."""
    name = Path(command[1]).name if len(command) > 1 else ""
    is_verb = command[2:3] == ["run"] and name.removesuffix(".exe") == "background-training"
    return name == _RUN_SCRIPT or is_verb or command[1:4] == ["-m", "background_training", "run"]


def _root_of(process: psutil.Process, command: list[str]) -> str:
    """The root that a run works in."""
    folder = Path(process.cwd())
    given = [word.partition("=")[2] for word in command if word.startswith("--root=")]
    given += [following for word, following in itertools.pairwise(command) if word == "--root"]
    if not given:
        script = folder / command[1]
        at_checkout = script.parent if script.name == _RUN_SCRIPT else CHECKOUT or folder
        given = [process.environ().get(ROOT_VARIABLE) or str(at_checkout / "local_training")]
    return os.path.realpath(folder / given[-1])


_WAITED_SECONDS = 60.0
_AT_WORK = ("starting", "idle", "training", "waiting", "paused", "restarting")
_OFTEN_RESTARTED = 2


def no_learner(facts: DoctorFacts) -> Trouble | None:
    """Episodes pile up without a learner."""
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
    cause = f"{_waiting(facts)}, and no learner is running in {facts.paths.root}."
    return Trouble(cause, f"Start one: {command_lines.command('learn', facts.paths.root)} (or with --drain).")


def another_learner(facts: DoctorFacts) -> Trouble | None:
    """A learner is running, and a second one is to be started."""
    learner = facts.learner
    if learner.holder is None or not (facts.about_to_start or learner.rivals):
        return None
    if learner.rivals:
        cause = (
            f"{learner.rivals[0].words} plays in {facts.paths.root} without a learner of its own: {learner.holder.words} has it."
        )
        return Trouble(
            humanize.visible(cause), "One root, one game, one learner: give the second one a --root of its own, or stop one."
        )
    cause = f"another learner is at work in {facts.paths.root}: {learner.holder.words}; a second one is refused (exit code 3)."
    return Trouble(humanize.visible(cause), "Stop that process first, or use another --root.")


def orphaned_worker(facts: DoctorFacts) -> Trouble | None:
    """A worker has outlived its learner, and blocks the next one."""
    learner = facts.learner
    if learner.worker_holder is None or learner.holder is not None:
        return None
    cause = f"the worker's lock is held by {learner.worker_holder.words}, and no learner is running that could own it."
    cure = (
        "If that is a --drain, let it finish. A worker left behind by a killed game ends within seconds; end it if it does not."
    )
    return Trouble(humanize.visible(cause), cure)


def learner_is_dead(facts: DoctorFacts) -> Trouble | None:
    """The status is that of a running learner, but its process is gone; its lock was released with it."""
    learner = facts.learner
    if learner.holder is not None or learner.state not in _AT_WORK or not learner.silent:
        return None
    cause = f"the learner was killed or its machine went down: {learner.status_words}."
    return Trouble(cause, "Its lock is free; there is no lock file to delete. Start it again: it continues from the last commit.")


def stale_card(facts: DoctorFacts) -> Trouble | None:
    """The card of a killed learner is still there, though the lock is free."""
    learner = facts.learner
    if not learner.card_left_behind or learner_is_dead(facts) is not None:
        return None
    cause = f"{facts.paths.learner_lock} is free, but the card of a learner beside it was left behind: it was killed."
    return Trouble(cause, "Nothing has to be deleted: the next learner takes the lock and writes a card of its own. Start it.")


def learner_is_silent(facts: DoctorFacts) -> Trouble | None:
    """Its process exists, but has not written a status for long."""
    learner = facts.learner
    if learner.holder is None or not learner.silent:
        return None
    cause = f"{learner.holder.words} has the learner's lock, and its status is old: {learner.status_words}."
    return Trouble(
        humanize.visible(cause), "If nothing changes for some minutes, end that process and start it again: no data is lost."
    )


def learner_has_failed(facts: DoctorFacts) -> Trouble | None:
    """It has given up."""
    if facts.learner.state != "failed":
        return None
    cause = f"the learner has given up: {humanize.visible(facts.learner.stats.get('last_error') or 'no reason recorded', 400)}."
    return Trouble(cause, f"Fix that and start it again. {_last_words(facts)}".strip())


def machine_fails(facts: DoctorFacts) -> Trouble | None:
    """It waits because of an error of the machine: disk full, no permission, input/output error."""
    if facts.learner.state != "waiting" or facts.learner.silent:
        return None
    error = humanize.visible(facts.learner.stats.get("last_error") or "no error recorded", 400)
    return Trouble(
        f"the learner is waiting because of a disk or permission error: {error}.", "Fix it; the learner retries by itself."
    )


def worker_keeps_dying(facts: DoctorFacts) -> Trouble | None:
    """The worker process has been replaced time and again."""
    restarts = _number(facts.learner.stats.get("worker_restarts"))
    if restarts < _OFTEN_RESTARTED or facts.learner.state not in _AT_WORK:
        return None
    error = humanize.visible(facts.learner.stats.get("last_error") or "unknown", 300)
    cause = f"the worker process has died {restarts:.0f} times: {error}."
    cure = f"Too little memory and a package that does not fit this Python are usual. {_last_words(facts)}"
    return Trouble(cause, cure.strip())


def paused(facts: DoctorFacts) -> Trouble | None:
    """The user has paused training, and may have forgotten it."""
    pause = facts.learner.pause
    if pause is None:
        return None
    cause = f"{facts.paths.root} is paused, {humanize.visible(pause.words)}: nothing is trained there, now and after a restart."
    cure = f"To continue: {command_lines.command('monitor', facts.paths.root)} --resume (or r in the monitor)."
    return Trouble(cause, f"{cure} No data is lost: the episodes wait, and do not become stale because of it.")


def held_up(facts: DoctorFacts) -> Trouble | None:
    """The throttle or a game has held training up for a while, and episodes wait."""
    learner = facts.learner
    waited = facts.places.oldest_waiting_seconds
    if learner.state != "paused" or learner.silent or learner.pause is not None or waited < _WAITED_SECONDS:
        return None
    reason = humanize.visible(learner.governor.get("reason") or learner.stats.get("governor") or "no reason recorded", 300)
    cause = f"the learner is idle ({reason}) while {_waiting(facts)}."
    cure = (
        "Close programs that use the CPU, or call busy() for shorter; governor.* in docs/reference/settings.md sets the limits. "
    )
    return Trouble(cause, cure + "logs/governor.log lists each throttling and its cause.")


def training_is_off(facts: DoctorFacts) -> Trouble | None:
    """The learner runs with training switched off."""
    running = (facts.learner.status.content or {}).get("settings")
    learner: Any = running.get("learner") if isinstance(running, dict) else None
    off = isinstance(learner, dict) and learner.get("enable_model_training") is False
    if not off or not facts.places.waiting or facts.learner.holder is None:
        return None
    cause = f"{_waiting(facts)}, and learner.enable_model_training is false in the learner at work."
    return Trouble(cause, "Set it to true, and start the learner again.")


def too_slow(facts: DoctorFacts) -> Trouble | None:
    """Games outrun the learner; the oldest episodes will become stale before they are read."""
    limit = facts.settings.learner.max_file_age
    waited = facts.places.oldest_waiting_seconds
    if facts.learner.holder is None or facts.learner.silent or facts.learner.state not in ("idle", "training"):
        return None
    if not limit or not limit / 2 < waited <= limit or facts.places.waiting < 2 * facts.settings.learner.batch_size:
        return None
    cause = f"{_waiting(facts)}; after {humanize.duration(limit)} they are stale."
    return Trouble(cause, "Play less at a time, or make a batch cheaper: lower learning.replay_ratio and learning.n_epochs.")


def _waiting(facts: DoctorFacts) -> str:
    places = facts.places
    return (
        f"{humanize.plural(places.waiting, 'episode')} waiting, the oldest for {humanize.duration(places.oldest_waiting_seconds)}"
    )


def _last_words(facts: DoctorFacts) -> str:
    said = facts.learner.last_words
    return f"Its last output, in {facts.paths.worker_stderr}: {humanize.visible(said.splitlines()[-1], 200)}" if said else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
