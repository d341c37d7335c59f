"""Keeps TensorBoard's event files in step with the metrics history."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from background_training.errors import BackgroundTrainingError
from background_training.monitor import event_file
from background_training.paths import Paths
from background_training.records.metrics import MetricsReader, Records
from background_training.storage import atomic_files
from background_training.storage.file_lock import RootLock

Floats = npt.NDArray[np.float64]

_FIELDS = {
    "rollout/ep_rew_mean": "mean_return",
    "rollout/ep_len_mean": "mean_length",
    "train/loss": "loss",
    "train/policy_gradient_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "kl",
    "train/clip_fraction": "clipped_share",
    "train/explained_variance": "explained_variance",
    "train/grad_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
    "train/n_epochs": "epochs",
    "time/load_seconds": "load_seconds",
    "time/train_seconds": "train_seconds",
    "time/commit_seconds": "commit_seconds",
    "time/archive_seconds": "archive_seconds",
    "time/batch_seconds": "total_seconds",
    "time/rested_seconds": "rested_seconds",
    "data/staleness_versions": "staleness_versions",
    "data/staleness_seconds": "staleness_seconds",
    "data/games": "games",
    "data/steps": "steps",
    "data/replayed_games": "replayed_games",
    "data/queue": "waiting",
    "data/set_aside": "set_aside",
    "system/cpu_percent": "cpu_percent",
    "system/memory_mb": "memory_mb",
    "system/others_cpu_percent": "others_cpu_percent",
}
"""By the tag, the field of a batch that it shows as it is."""


def columns(batches: Records) -> dict[str, Floats]:
    """For each tag, one value per batch; NaN if unknown."""
    found = {tag: batches[field].astype(np.float64) for tag, field in _FIELDS.items()}
    return found | {tag: work_out(batches) for tag, work_out in _WORKED_OUT.items()}


def _total(field: str) -> Callable[[Records], Floats]:
    """The sum over all batches so far; a record that stands for several counts for several."""
    return lambda batches: np.cumsum(batches["weight"].astype(np.float64) * batches[field])


def _success_rate(batches: Records) -> Floats:
    won = batches["won"].astype(np.float64)
    decided = won + batches["lost"]
    rate = np.full(len(batches), np.nan)
    np.divide(won, decided, out=rate, where=decided > 0)
    return rate


_WORKED_OUT: dict[str, Callable[[Records], Floats]] = {
    "rollout/success_rate": _success_rate,
    "train/entropy_loss": lambda batches: -batches["entropy"].astype(np.float64),
    "time/total_timesteps": _total("steps"),
    "time/total_episodes": _total("games"),
}


BEGIN, END = "events.out.tfevents.", ".background_training"
"""Of a file's name. TensorBoard reads whatever has "tfevents" in its name, in the order of names."""
_BUILDING = "building"
_LOCK = ".lock"
_AT_A_TIME = 1024
Show = Callable[[int, int], None]


class Follower:
    """Writes one point per batch and tag, those that are new at each look.

    Readers of the folder find each batch of the present history exactly once. After a kill at any point, the next one
    continues from there. When the history was compacted or replaced, a new file takes the place
    of the former one, and begins with a record that makes readers discard it. A point is not kept longer than its record in
    the history.
    """

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.time) -> None:
        self._folder = paths.tensorboard
        self._reader = MetricsReader(paths)
        self._lock = RootLock(self._folder / _LOCK)
        self._is_locked = False
        self._clock = clock
        self._file: Path | None = None
        self._edition = b""
        self._written = 0

    def look(self, show: Show | None = None) -> int:
        """Write what is new; how many batches there are now.

        Args:
            show: called with the batches done and in total; the first look may take minutes.

        Raises:
            BackgroundTrainingError: another follower writes this root's files.
            OSError: the machine failed; the next look writes everything again.
        """
        self._reader.look()
        batches, edition = self._reader.batches, self._reader.edition[0]
        if not len(batches):
            return 0
        self._take_folder()
        try:
            if self._file is None or edition != self._edition or not atomic_files.exists(self._file):
                self._write_all(batches, show)
            elif len(batches) > self._written:
                atomic_files.append_whole(self._file, _points(batches, self._written, show), durable=False)
        except OSError:
            self._file = None
            raise
        self._edition, self._written = edition, len(batches)
        return len(batches)

    def close(self) -> None:
        """Release the folder for other writers."""
        if self._is_locked:
            self._lock.release()
            self._is_locked = False

    def _take_folder(self) -> None:
        if self._is_locked:
            return
        atomic_files.make_folder(self._folder, durable=False)
        if not self._lock.try_acquire():
            raise BackgroundTrainingError(f"another program writes the event files in {self._folder}")
        self._is_locked = True

    def _write_all(self, batches: Records, show: Show | None) -> None:
        """Append to the newest file if it is a prefix of the wanted content; otherwise start another one."""
        atomic_files.make_folder(self._folder, durable=False)
        data = event_file.beginning(float(batches["moment"][0])) + _points(batches, 0, show)
        former = [
            self._folder / name for name in sorted(os.listdir(self._folder)) if name.startswith(BEGIN) and name.endswith(END)
        ]
        written = former[-1].read_bytes() if former else b""
        if written and data.startswith(written):
            atomic_files.append_whole(former[-1], data[len(written) :], durable=False)
            self._file = former[-1]
        else:
            self._file = self._begun(data, former)

    def _begun(self, data: bytes, former: Sequence[Path]) -> Path:
        newest = former[-1].name[len(BEGIN) : -len(END)] if former else ""
        number = max(int(self._clock()), int(newest) + 1 if newest.isdecimal() else 0)
        file = self._folder / f"{BEGIN}{number:010d}{END}"
        # Not under a variant of its name: TensorBoard would read that as well.
        building = self._folder / _BUILDING
        atomic_files.write_atomically(building, data, durable=False)
        atomic_files.retry_while_shared(lambda: os.replace(building, file))
        for path in former:
            with contextlib.suppress(OSError):  # on Windows a reader may have it open: it is removed the next time
                if path == former[-1]:
                    # Truncated, not removed: a TensorBoard that is reading it would otherwise not find the next one.
                    os.truncate(path, 0)
                else:
                    atomic_files.remove_if_there(path)
        return file


def _points(batches: Records, first: int, show: Show | None) -> bytes:
    by_tag, parts = columns(batches), []
    for begin in range(first, len(batches), _AT_A_TIME):
        part = slice(begin, begin + _AT_A_TIME)
        some = {tag: values[part] for tag, values in by_tag.items()}
        parts.append(event_file.scalars(batches["moment"][part], batches["version"][part].tolist(), some))
        if show is not None:
            show(min(begin + _AT_A_TIME, len(batches)) - first, len(batches) - first)
    return b"".join(parts)
