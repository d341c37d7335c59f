"""TensorBoard's files say what the metrics history says, each batch once, whoever is killed when."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.errors import BackgroundTrainingError
from background_training.monitor import event_file, tensorboard
from background_training.monitor.tensorboard import Follower
from background_training.paths import CHECKOUT, Paths
from background_training.records import metrics
from background_training.records.metrics import BATCHES, GAMES

pytestmark = pytest.mark.slow  # real processes

SCRIPT = CHECKOUT / "tools" / "export_tensorboard.py"


def _recorded(paths: Paths, first: int, last: int, *, most: int = 1000) -> None:
    """Batches of versions first to last, in the history as its writer puts them there."""
    records = np.zeros(last - first + 1, BATCHES)
    records["version"], records["weight"] = np.arange(first, last + 1), 1
    records["moment"] = 1.7e9 + records["version"]
    records["mean_return"] = records["version"] / 4
    records["loss"] = np.nan
    learner_runs.add_to_history(paths, [(records, np.zeros(0, GAMES))], most_batches=most)


def _points(paths: Paths) -> dict[str, dict[int, tuple[float, float]]]:
    """By tag and step, what TensorBoard's own reader finds: the moment and the value; a step that comes twice fails."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard (extra tensorboard) is not installed"
    )
    reader = accumulators.EventAccumulator(str(paths.tensorboard), size_guidance={"scalars": 0})
    reader.Reload()
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for tag in reader.Tags()["scalars"]:
        events = reader.Scalars(tag)
        found[tag] = {event.step: (event.wall_time, event.value) for event in events}
        assert len(found[tag]) == len(events), f"{tag}: a step is there twice"
    return found


def _event_files(paths: Paths) -> list[Path]:
    return sorted(paths.tensorboard.glob("events.out.tfevents.*"))


def _command(paths: Paths, *flags: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--root", str(paths.root), *flags]


def _once(paths: Paths) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(paths, "--once"),
        capture_output=True,
        text=True,
        env=learner_runs.environment(),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_values_are_those_of_the_history(paths: Paths) -> None:
    """Of batches that a real learner has trained, under the field's names; what is not known has no point."""
    for number in range(7):
        episodes.write(paths.buffer, f"game_{number}.npz", number)
    learner_runs.drain(paths.root)
    done = _once(paths)
    assert (done.returncode, done.stderr) == (0, "") and "event files: 3." in done.stdout

    batches, found = metrics.read(paths).batches, _points(paths)
    for tag, values in tensorboard.columns(batches).items():
        wanted = {
            int(batch["version"]): (float(batch["moment"]), float(value))
            for batch, value in zip(batches, values.astype(np.float32), strict=True)
            if math.isfinite(value)
        }
        assert found.get(tag, {}) == wanted, tag
    usual = ("rollout/ep_rew_mean", "rollout/ep_len_mean", "train/loss", "train/entropy_loss", "train/value_loss")
    usual += ("train/approx_kl", "train/clip_fraction", "train/learning_rate", "time/total_timesteps", "data/staleness_versions")
    assert all(len(found[tag]) == 3 for tag in usual)
    assert found["train/entropy_loss"][1][1] == -float(batches["entropy"][0])
    assert found["time/total_timesteps"][3][1] == float(batches["steps"].sum())


def test_it_follows_and_goes_on_after_a_kill(paths: Paths) -> None:
    """Killed without a warning, its place is taken by another one, which writes nothing twice."""
    _recorded(paths, 1, 5)
    for last in (6, 9):
        with subprocess.Popen(_command(paths), stdout=subprocess.PIPE, env=learner_runs.environment()) as process:
            try:
                assert process.stdout is not None and process.stdout.readline().startswith(b"[OK]")
                before = _event_files(paths)[0].stat().st_size
                newest = last + (2 if last == 6 else 0)
                _recorded(paths, last, newest)
                wait_until(lambda before=before: _event_files(paths)[0].stat().st_size > before)  # type: ignore[misc]
                wait_until(lambda newest=newest: newest in _points(paths)["rollout/ep_rew_mean"])  # type: ignore[misc]
            finally:
                process.kill()
    assert len(_event_files(paths)) == 1
    assert _points(paths)["rollout/ep_rew_mean"] == {step: (1.7e9 + step, step / 4) for step in range(1, 10)}


@pytest.mark.parametrize("left", [0, 1, 11, 40, 137, -9, -1])
def test_a_torn_end_is_made_whole(paths: Paths, left: int) -> None:
    """Whatever part of its bytes a killed one has written, the next one ends with the same file."""
    _recorded(paths, 1, 4)
    follower = Follower(paths)
    assert follower.look() == 4
    follower.close()
    (file,) = _event_files(paths)
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    follower = Follower(paths)
    follower.look()
    follower.close()
    assert [path.read_bytes() for path in _event_files(paths) if path.stat().st_size] == [whole]


def test_a_shortened_history_takes_the_place_of_the_former(paths: Paths) -> None:
    """Points of batches that are gone do not stay, and those that stay are there once."""
    follower = Follower(paths)
    _recorded(paths, 1, 150, most=200)
    assert follower.look() == 150
    _recorded(paths, 151, 230, most=200)
    kept = metrics.read(paths).batches["version"].tolist()
    assert follower.look() == len(kept) < 230
    assert list(_points(paths)["rollout/ep_rew_mean"]) == kept
    _recorded(paths, 231, 233, most=200)
    follower.look()
    follower.close()
    assert list(_points(paths)["rollout/ep_rew_mean"]) == [*kept, 231, 232, 233]


def test_another_history_is_not_mixed_with_the_former(paths: Paths) -> None:
    """A root that was begun anew has steps that were there before; files of other programs are left alone."""
    _recorded(paths, 1, 20)
    follower = Follower(paths, clock=lambda: 1000.0)
    follower.look()
    foreign = paths.tensorboard / "events.out.tfevents.1.other"
    foreign.write_bytes(b"")
    paths.metrics.unlink()
    assert follower.look() == 0
    _recorded(paths, 1, 3)
    assert follower.look() == 3
    follower.close()
    assert list(_points(paths)["rollout/ep_rew_mean"]) == [1, 2, 3]
    assert foreign.exists() and len(_event_files(paths)) == 3


def test_only_one_writes(paths: Paths) -> None:
    """Of two, the second says who is in the way, and touches nothing."""
    _recorded(paths, 1, 3)
    follower = Follower(paths)
    follower.look()
    done = _once(paths)
    assert done.returncode == 1 and "another program writes the event files" in done.stderr
    with pytest.raises(BackgroundTrainingError):
        Follower(paths).look()
    follower.close()
    assert _once(paths).returncode == 0


def test_without_a_batch_it_says_so_and_makes_nothing(paths: Paths) -> None:
    """It may be started before everything else."""
    done = _once(paths)
    assert done.returncode == 0 and "No batch has been trained yet" in done.stdout
    assert not paths.tensorboard.exists()


def test_the_check_is_castagnoli_s() -> None:
    """Test vectors: RFC 3720, B.4, and the usual one."""
    vectors: list[tuple[bytes, int]] = [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
    for text, check in vectors:
        assert event_file.crc32c(np.frombuffer(text * 2, np.uint8).reshape(2, -1)).tolist() == [check, check]


def test_numbers_beyond_a_float_are_left_out() -> None:
    """An infinite value would spoil TensorBoard's axes."""

    def written(*values: Any) -> bytes:
        return event_file.scalars(np.zeros(len(values)), [1] * len(values), {"a": np.array(values, float)})

    assert written(1e300) == written(math.inf) == written(math.nan) != written(1e30)
    assert written() == b""
