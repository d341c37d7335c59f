"""logs/status.json: a snapshot of everything a monitor may show, replaced atomically, never fatal."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from background_training.paths import Paths
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

SCHEMA = 1


def write(paths: Paths, state: str, stats: Mapping[str, Any], **more: Any) -> None:
    """Replace the snapshot.

    Args:
        state: "starting", "idle", "training", "waiting" (for a machine's fault to pass), "paused" (by the governor),
            "restarting", "failed" or "stopped".
        stats: as get_stats() returns them.
        more: further facts by name.
    """
    content = {
        "schema": SCHEMA,
        "state": state,
        "updated_at": time.time(),
        "writer_pid": os.getpid(),
        "stats": dict(stats),
        **more,
    }
    try:
        atomic_files.write_atomically(paths.status, json.dumps(content).encode(), durable=False)
    except OSError as error:
        logger.warning("status not written: %s", error)


def read(paths: Paths) -> dict[str, Any] | None:
    """The newest snapshot; None if there is none or it can't be read."""
    try:
        text = atomic_files.read_regular_file(paths.status, max_bytes=10_000_000)
        content = json.loads(text, parse_int=_countable)
    except (OSError, ValueError, OverflowError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("schema") == SCHEMA else None


DEFAULT_RESCAN_SECONDS = 5.0
ENDED = ("stopped", "failed")
SILENT_AFTER_RESCANS_AND_SECONDS = (3, 30.0)
"""A long batch and a back-off of 30 s are silences that end by themselves."""


def is_running(content: Mapping[str, Any], writer_is_gone: bool, now: float) -> bool:
    """Whether a snapshot is that of a running learner: recent, of a process that exists, and not its last one.

    Args:
        now: seconds since 1970.
    """
    written = moment_of(content)
    if written is None or content.get("state") in ENDED or writer_is_gone:
        return False
    return now - written <= silence_limit(content, *SILENT_AFTER_RESCANS_AND_SECONDS)


def writer_is_gone(content: Mapping[str, Any] | None) -> bool:
    """Whether no process of this machine has the writer's process id; False where that can't be found out."""
    pid: Any = (content or {}).get("writer_pid")
    if not (isinstance(pid, int) and 0 < pid < 2**31):
        return False
    try:
        import psutil  # only now: a bot without it plays all the same
    except ImportError:
        return False
    return not psutil.pid_exists(pid)


def silence_limit(content: Mapping[str, Any], rescans: int, seconds: float) -> float:
    """Age in seconds up to which a snapshot is usual: an idle learner writes one at each rescan of the buffer."""
    rescan: Any = content.get("settings")
    for key in ("learner", "rescan_seconds"):
        rescan = rescan.get(key) if isinstance(rescan, Mapping) else None
    usual = rescan if isinstance(rescan, (int, float)) and rescan > 0 else DEFAULT_RESCAN_SECONDS
    return rescans * float(usual) + seconds


def moment_of(content: Mapping[str, Any]) -> float | None:
    """When the snapshot was written, in seconds since 1970; None if it has no valid time."""
    try:
        written = float(content["updated_at"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return written if math.isfinite(written) else None


def _countable(digits: str) -> int:
    """An integer within the range of a float, so that readers can calculate with it.

    Raises:
        OverflowError: it is beyond that range.
    """
    float(number := int(digits))
    return number


EMPTY_STATS: dict[str, Any] = {
    "files_processed": 0,
    "batches_trained": 0,
    "models_trained": 0,
    "total_samples": 0,
    "avg_loss": 0.0,
    "last_loss": 0.0,
    "total_processing_time": 0.0,
    "active_workers": 0,
    "max_workers": 0,
    "errors": 0,
    "last_batch_time": None,
    "last_error": "",
    "buffer_file_count": 0,
    "archive_file_count": 0,
    "files_skipped_old": 0,
    "files_rejected": 0,
    "files_misfit": 0,
    "last_misfit": "",
    "files_duplicate": 0,
    "replays_analyzed": 0,
    "model_version": 0,
    "mean_return": 0.0,
    "rollbacks": 0,
    "guard": "",
    "traps": "",
    "worker_restarts": 0,
    "governor": "",
    "workers_allowed": 0,
}
"""All keys of get_stats(), with the values of a learner that has not done anything yet."""
