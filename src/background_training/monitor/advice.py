"""What is wrong, according to status and folders, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from background_training import command_lines
from background_training.monitor import humanize, learner_state
from background_training.monitor.facts import Snapshot
from background_training.records.disk_forecast import SOON_DAYS

ERROR, WARNING, NOTE = "error", "warning", "note"
_MANY_WAIT = 3
_MOSTLY = 0.5
_FEW = 20
_SCARCE_BYTES = 1 << 20
_URGENT_DAYS = 3.0


@dataclass(frozen=True)
class Advice:
    """One problem: its level, what was found, and what to do."""

    level: str
    seen: str
    cure: str


def advice(snapshot: Snapshot, root: str) -> list[Advice]:
    """All problems, the worst first.

    Args:
        root: as given to --root.
    """
    content = snapshot.status.content or {}
    stats = content.get("stats")
    found = [*_disk(snapshot), *_life(snapshot, root), *_pause(snapshot), *_folders(snapshot)]
    found += [*_errors(stats, root), *_fates(stats, root)] if isinstance(stats, Mapping) else []
    return sorted(found, key=lambda item: (ERROR, WARNING, NOTE).index(item.level))


def _life(snapshot: Snapshot, root: str) -> Iterator[Advice]:
    start = command_lines.command("learn", root)
    said = learner_state.state_words(snapshot.status, snapshot.now)
    content = snapshot.status.content
    waiting = humanize.plural(snapshot.buffer.count, "episode")
    if content is None:
        if _disk_is_full(snapshot):
            return  # a running learner could not write its status
        if snapshot.status.is_there:
            yield Advice(ERROR, said, "The next learner replaces it. Until then the folders and the ledger are shown.")
        elif snapshot.buffer.count:
            yield Advice(WARNING, f"{waiting} in the buffer, and no learner has run here yet", f"Start one: {start}")
        else:
            yield Advice(NOTE, said, f"Start one with a game, or alone: {start}")
    elif said.startswith(learner_state.NO_SIGN):
        yield Advice(ERROR, said, f"Nothing is lost. Look at logs/worker_stderr.txt, then start it again: {start}")
    elif content.get("state") == "failed":
        yield Advice(ERROR, f"The learner has given up ({said})", f"Fix the error shown below, then start it again: {start}")
    elif content.get("state") == "waiting":
        yield Advice(
            ERROR, "The learner is waiting because of a disk or permission error", "See the last error. It retries by itself."
        )
    elif content.get("state") == "stopped" and snapshot.buffer.count >= _MANY_WAIT:
        yield Advice(WARNING, f"{waiting} wait, and the learner was stopped", f"Start it again: {start}")


def _disk_is_full(snapshot: Snapshot) -> bool:
    return snapshot.free_disk_bytes is not None and snapshot.free_disk_bytes < _SCARCE_BYTES


def _disk(snapshot: Snapshot) -> Iterator[Advice]:
    if _disk_is_full(snapshot):
        free = humanize.size(int(snapshot.free_disk_bytes or 0))
        cure = "Free some space. A running learner then continues by itself; until then it may be unable to write its status."
        yield Advice(ERROR, f"The disk is full: {free} are free", cure)
    elif snapshot.disk is not None and snapshot.disk.days < SOON_DAYS:
        yield Advice(WARNING if snapshot.disk.days < _URGENT_DAYS else NOTE, snapshot.disk.sentence, snapshot.disk.remedy)


def _pause(snapshot: Snapshot) -> Iterator[Advice]:
    if snapshot.pause is not None:
        waiting = humanize.plural(snapshot.buffer.count, "episode")
        seen = f"Training is paused, {humanize.visible(snapshot.pause.words)}; {waiting} wait"
        yield Advice(WARNING, seen, "To resume: r in the terminal monitor, or its command with --resume")


def _folders(snapshot: Snapshot) -> Iterator[Advice]:
    for folder in (snapshot.buffer, snapshot.archive):
        if folder.trouble.startswith("can't"):
            yield Advice(
                ERROR,
                f"{humanize.visible(folder.path)} {humanize.visible(folder.trouble)}",
                "Look at its permissions and its drive.",
            )
    if snapshot.model.trouble.startswith(("can't", "not a")):
        cure = f"Look at its permissions; {command_lines.command('rebuild')} makes a lost model again."
        yield Advice(ERROR, f"The model {humanize.visible(snapshot.model.trouble)}", cure)


def _errors(stats: Mapping[str, Any], root: str) -> Iterator[Advice]:
    doctor = f"{command_lines.command('doctor', root)} looks for the cause."
    if stats.get("last_error"):
        seen = f"Last of {humanize.number(stats.get('errors', 1), ',d')} errors: {humanize.visible(stats['last_error'], 400)}"
        yield Advice(ERROR, seen, doctor)
    if _count(stats, "worker_restarts"):
        seen = f"The worker process died and was replaced {humanize.plural(_count(stats, 'worker_restarts'), 'time')}"
        yield Advice(WARNING, seen, "Its last output is in logs/worker_stderr.txt. No data is lost.")
    if stats.get("last_misfit"):
        misfits = humanize.plural(_count(stats, "files_misfit"), "episode")
        seen = f"{misfits} of another game: {humanize.visible(stats['last_misfit'], 300)}"
        yield Advice(WARNING, seen, "One root holds one game. Give each its own --root.")
    guard = stats.get("rollbacks")
    if isinstance(guard, int) and guard > 0:
        cure = "Performance had dropped significantly; docs/how-to/troubleshooting.md lists what may help."
        yield Advice(WARNING, f"The regression guard rolled back to an earlier version {humanize.plural(guard, 'time')}", cure)


def _fates(stats: Mapping[str, Any], root: str) -> Iterator[Advice]:
    trained, stale = _count(stats, "files_processed"), _count(stats, "files_skipped_old")
    rejected, duplicate = _count(stats, "files_rejected"), _count(stats, "files_duplicate")
    came = trained + stale + rejected + duplicate
    if came < _FEW:
        return
    if stale > _MOSTLY * came:
        cure = "Start the learner beside the game, or raise learner.max_file_age (0: never stale)."
        yield Advice(WARNING, f"{stale:,} of {came:,} files were stale when they were read", cure)
    if rejected > _MOSTLY * came:
        cure = f"The reasons are below. {command_lines.command('doctor', root)} shows more."
        yield Advice(WARNING, f"{rejected:,} of {came:,} files were rejected", cure)
    if duplicate > _MOSTLY * came:
        yield Advice(WARNING, f"{duplicate:,} of {came:,} files were duplicates", "Give each game an episode_id of its own.")


def _count(stats: Mapping[str, Any], key: str) -> int:
    value = stats.get(key)
    return value if isinstance(value, int) and value > 0 else 0
