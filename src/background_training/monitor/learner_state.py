"""Whether the learner is running, judged by the age of its last status, and which of its figures are still valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from background_training.monitor import humanize
from background_training.monitor.facts import Snapshot, StatusFacts
from background_training.records import status as status_file

NO_SIGN = "NOT RESPONDING"
"""Prefix of the text about a learner that does not respond."""
_GONE_AFTER_RESCANS_AND_SECONDS = (1, 3.0)
_LIVE_STATS = ("active_workers", "governor", "workers_allowed")
"""Statistics that describe a running learner only; all others are counts, which stay true after its end."""


def state_words(status: StatusFacts, now: float) -> str:
    """The learner's state in words, with its age; one that has been silent for too long is reported as not responding.

    Args:
        now: seconds since 1970.
    """
    content = status.content
    if content is None:
        return "status.json can't be read" if status.is_there else "no learner has run here yet (there is no status.json)"
    state, written = humanize.visible(content.get("state", "unknown"), 40), status_file.moment_of(content)
    if written is None:
        return f"{state}; status.json has no valid time"
    age, spoken = now - written, humanize.ago(written, now)
    if state in status_file.ENDED:
        return f"{state} {spoken}"
    if status.writer_is_gone and age > status_file.silence_limit(content, *_GONE_AFTER_RESCANS_AND_SECONDS):
        return f"{NO_SIGN} for {humanize.duration(age)} (it was {state}); its process is gone from this machine"
    if age > status_file.silence_limit(content, *status_file.SILENT_AFTER_RESCANS_AND_SECONDS):
        return f"{NO_SIGN} for {humanize.duration(age)} (it was {state}); it hangs, was killed, or trains a very long batch"
    return f"{state} (last update {spoken})"


def is_running(status: StatusFacts, now: float) -> bool:
    """Whether the status is that of a running learner: recent, of a process that exists, and not its last one."""
    return status_file.is_running(status.content or {}, status.writer_is_gone, now)


def current_stats(snapshot: Snapshot) -> dict[str, Any]:
    """The status's statistics as far as they hold now; empty if there are none.

    `model_version` is that of the published model, as a rollback or another learner may have replaced it since the status was
    written; the key is missing if no version is known. Without a running learner, its throttle and its workers are left out.
    """
    content = snapshot.status.content or {}
    found = content.get("stats")
    if not isinstance(found, Mapping):
        return {}
    stats = {key: value for key, value in found.items() if key != "model_version"}
    if not is_running(snapshot.status, snapshot.now):
        for key in _LIVE_STATS:
            stats.pop(key, None)
        if content.get("state") in status_file.ENDED or snapshot.status.writer_is_gone:
            stats["active_workers"] = 0
    return stats if snapshot.model.version is None else {**stats, "model_version": snapshot.model.version}


def throttle(snapshot: Snapshot) -> tuple[str, str]:
    """The throttle's present state and its reason; ("", "") without a running learner or a recorded state."""
    if not is_running(snapshot.status, snapshot.now):
        return "", ""
    governed: Any = (snapshot.status.content or {}).get("governor")
    if not isinstance(governed, Mapping) or not (governed.get("state") or governed.get("reason")):
        governed = {"state": current_stats(snapshot).get("governor")}
    return humanize.visible(governed.get("state") or "", 300), humanize.visible(governed.get("reason") or "", 300)
