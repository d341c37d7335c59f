"""Replays are analysed by the learner while it trains, in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from conftest import wait_until
from replay_fakes import replays_folder

from background_training import BackgroundParallelLearner
from background_training.paths import Paths
from background_training.settings import Settings
from tests import episodes

pytestmark = pytest.mark.slow  # real processes

pytest.importorskip("sc2reader", reason="the replays extra is not installed")


def _settings(root: Path, folder: Path) -> Settings:
    replays = {"folder": str(folder), "rescan_seconds": 0.2, "settle_seconds": 0.0}
    return dataclasses.replace(Settings().with_values("test", replays=replays, learner={"verbose": False}), root=root)


def test_new_replays_are_learnt_from_while_training_goes_on(paths: Paths, tmp_path: Path) -> None:
    """Replays that come while the learner runs are in the summary; episodes are trained on meanwhile."""
    source = sorted((replays_folder() / "zerg_1v1").glob("burny*.SC2Replay"))
    folder = tmp_path / "replays"
    folder.mkdir()

    with BackgroundParallelLearner(settings=_settings(paths.root, folder)) as learner:
        for seed in range(5):
            episodes.write(paths.buffer, f"game_{seed}.npz", seed)
        shutil.copy(source[0], folder)
        wait_until(lambda: learner.get_stats()["replays_analyzed"] == 1)
        wait_until(lambda: learner.get_stats()["files_processed"] == 5)

    summary = json.loads(paths.build_orders.read_text("utf-8"))
    assert summary["counts"]["seen"] == 1


def test_missing_replay_folder_is_said_and_training_goes_on(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not there is named once, and costs no episode."""
    with BackgroundParallelLearner(settings=_settings(paths.root, tmp_path / "nowhere")) as learner:
        episodes.write(paths.buffer, "game.npz")
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
        wait_until(lambda: learner.get_stats()["errors"] > 1)

    assert capsys.readouterr().out.count("nowhere") == 1
