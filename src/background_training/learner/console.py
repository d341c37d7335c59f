"""The learner's console output: reports in the form that the guides show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from background_training import command_lines

RULE = "=" * 70


def status_report(stats: Mapping[str, Any], max_file_age_seconds: float) -> str:
    """The report that is printed every 30 s."""
    age = f"{max_file_age_seconds / 60:.1f} min" if max_file_age_seconds else "unlimited"
    sections = {
        "Training Statistics": [
            ("Files Processed", stats["files_processed"]),
            ("Files Skipped (Old)", stats["files_skipped_old"]),
            ("Files Rejected", stats["files_rejected"]),
            ("Batch Training Runs", stats["batches_trained"]),
            ("Total Samples", stats["total_samples"]),
            ("Average Loss", f"{stats['avg_loss']:.4f}"),
            ("Last Loss", f"{stats['last_loss']:.4f}"),
            ("Mean Return", f"{stats['mean_return']:.4g}"),
            ("Model Version", stats["model_version"]),
        ],
        "Directory Status": [
            ("Buffer Files", stats["buffer_file_count"]),
            ("Archived Files", stats["archive_file_count"]),
            ("Max File Age", age),
        ],
        "System Status": [
            ("Active Workers", f"{stats['active_workers']}/{stats['max_workers']}"),
            ("Governor", stats["governor"] or "unknown"),
            ("Total Process Time", f"{stats['total_processing_time']:.2f}s"),
            ("Errors", stats["errors"]),
            ("Last Training", _moment(stats["last_batch_time"])),
        ],
    }
    lines = [RULE, "[BACKGROUND LEARNER] STATUS REPORT", RULE]
    for title, rows in sections.items():
        lines += [f"{title}:", *(f"  {key + ':':<22}{value}" for key, value in rows), ""]
    if stats["last_error"]:
        lines += [f"Last error: {stats['last_error']}"]
    if stats["traps"]:
        lines += [f"Warning: {stats['traps']}"]
    return "\n".join([*lines, RULE])


def statistics(stats: Mapping[str, Any]) -> str:
    """The shorter report that is printed every five games."""
    rows = [
        ("Experience Files Processed", stats["files_processed"]),
        ("Batch Training Runs", stats["batches_trained"]),
        ("Total Training Samples", stats["total_samples"]),
        ("Average Loss", f"{stats['avg_loss']:.4f}"),
        ("Mean Return", f"{stats['mean_return']:.4g}"),
        ("Model Version", stats["model_version"]),
        ("Total Processing Time", f"{stats['total_processing_time']:.2f}s"),
        ("Active Workers", f"{stats['active_workers']}/{stats['max_workers']}"),
        ("Errors", stats["errors"]),
    ]
    return "\n".join([RULE, "[BACKGROUND LEARNING] STATISTICS", RULE, *(f"{key}: {value}" for key, value in rows), RULE])


def event_line(event: str, facts: Mapping[str, Any]) -> str:
    """One line for an event from a worker."""
    if event == "batch":
        report = facts["report"]
        text = f"[OK] Version {facts['version']}: {report['games']} games, {report['steps']} steps"
        return f"{text}, mean return {report['mean_return']:.4g}, loss {report['loss']:.4f}, {facts['seconds']:.2f}s"
    if event == "set_aside":
        return f"[INFO] {facts['name']} is {facts['fate']}: {facts['reason']}"
    return f"[WARNING] {facts.get('sentence', event)}"


def drained(stats: Mapping[str, Any]) -> str:
    """The last line of a drain."""
    return (
        f"[OK] Drained: model version {stats['model_version']}, {stats['files_processed']} files trained in all, "
        f"{stats['files_skipped_old']} stale, {stats['files_rejected']} rejected, {stats['files_duplicate']} duplicate"
    )


def misfits(stats: Mapping[str, Any]) -> str:
    """How many episodes did not match the model, with the reason of the last one; empty if none."""
    count = stats["files_misfit"]
    if not count:
        return ""
    mismatch = "they do not match this root's model (state width or action space)"
    return f"{count} rejected: {mismatch}. The last one: {stats['last_misfit']}"


def still_waiting(count: int, root: object) -> str:
    """How many episodes are in the buffer at the end of a run, and the command that trains on them."""
    return f"{count}; to train on them: {command_lines.command('learn', root)} --drain"


def _moment(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "never"
