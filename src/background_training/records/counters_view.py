"""What the learner counts, as get_stats() and the monitors show it."""

from __future__ import annotations

from typing import Any

EMPTY: dict[str, Any] = {
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
