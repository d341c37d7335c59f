"""Train in this process on what is in the buffer now, then stop: for scripts, tests and cron."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from background_training.errors import MachineError, PausedError
from background_training.learner import recovery, retention
from background_training.learner.counters import Counters
from background_training.learner.data_warnings import DataWarnings
from background_training.learner.metrics_writer import BatchContext
from background_training.learner.trainer import open_trainer
from background_training.learner.triage import send_excluded
from background_training.records import pause_file, status
from background_training.records.status import EMPTY_STATS
from background_training.settings import Settings
from background_training.storage.file_lock import both_locks


def drain(settings: Settings, send: Callable[..., None]) -> dict[str, Any]:
    """Take one snapshot of the buffer, in the order of the names' bytes, and work through it in batches.

    Returns:
        The counts, as get_stats() has them.

    Raises:
        AnotherLearnerError: a learner runs in this root.
        PausedError: the user has paused the root; what was committed before stays.
        LockUnavailableError: the folder can't be locked.
        LedgerError, ModelError: model and ledger contradict each other, or another program changed the model.
        MachineError: a file can't be read, or written; what was committed before stays.
    """
    paths = settings.paths
    if (pause := pause_file.read(paths)) is not None:
        raise PausedError(str(paths.root), pause.words)
    try:
        recovery.make_skeleton(paths, durable=settings.learner.durable)
        with both_locks(paths):
            return _drained(settings, send)
    except OSError as error:
        if hasattr(error, "exit_code"):
            raise
        raise MachineError(f"draining {paths.buffer}", f"{error}. What was committed stays; run it again") from error


def _drained(settings: Settings, send: Callable[..., None]) -> dict[str, Any]:
    trainer, _ = open_trainer(settings.paths, settings, send, patient=False)
    counters, troubles = Counters(), []
    warnings = DataWarnings(settings.paths, settings.learner.log_bytes)
    trainer.take_snapshot()
    pause = None
    while trainer.waiting() and (pause := pause_file.read(settings.paths)) is None:
        done = trainer.train_next_batch()
        counters.add(done, time.time())
        trainer.history.add(done, BatchContext(trainer.waiting(), "off"))
        troubles += done.troubles
        for item in done.excluded:
            send_excluded(send, item)
        for notice in trainer.guard.taken_notices() + done.notices + warnings.after(done.episodes, trainer.actions):
            send("warning", sentence=notice)
        if done.trained is not None:
            send("batch", version=done.trained.version, seconds=done.seconds, report=dict(done.trained.report))
    retention.apply(settings.paths, settings, trainer.ledger)
    present = trainer.present
    manifest, version = (dict(present.manifest), present.version) if present else ({}, 0)
    stats = {
        **EMPTY_STATS,
        "max_workers": settings.learner.max_workers,
        **counters.as_stats(trainer.ledger, manifest, version, 0, trainer.guard.text()),
        "traps": warnings.text(),
    }
    status.write(settings.paths, "stopped", stats)
    if pause is not None:
        raise PausedError(str(settings.root), pause.words)
    if troubles:
        raise MachineError(f"draining {settings.paths.buffer}", f"{len(troubles)} files can't be read: {troubles[0]}")
    return stats
