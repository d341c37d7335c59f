"""run_with_training.py started again: it goes on where it was, and accounts for what this run played."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT, Paths
from background_training.storage import model_store

pytestmark = pytest.mark.slow  # real processes


def _summary(root: Path) -> dict[str, str]:
    options = ["--game", "CartPole-v1", "--games", "5", "--quiet", "--root", str(root)]
    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


def test_second_run_waits_for_its_own_games(root: Path) -> None:
    """What former runs had trained is not taken for this run's: its last games are trained on before the summary."""
    _summary(root)
    summary = _summary(root)

    model = model_store.read(Paths(root).model)
    assert model.manifest["episodes_trained"] == 10
    assert int(summary["Versions trained"]) >= 1
    assert int(summary["Model version"]) == model.version
