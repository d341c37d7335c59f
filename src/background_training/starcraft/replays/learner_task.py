"""Replay analysis as a task of the learner: a plain function that takes and returns what fits into JSON."""

from __future__ import annotations

from typing import Any

from background_training.settings import ReplaySettings
from background_training.starcraft.replays.replay_archive import analyse_some

MAX_FILES = 10
"""Replays of one task; between two tasks the learner looks whether training has to go first."""


def analyse_new(root: str, settings: dict[str, Any]) -> dict[str, int]:
    """Analyse some of the replays that are new in `settings["folder"]`; see replay_archive.analyse_some."""
    chosen = ReplaySettings(**settings)
    return analyse_some(root, chosen.folder, chosen, MAX_FILES)
