"""What a monitor knows about one root at one moment: plain values, without a file or a clock behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from background_training.records.disk_forecast import Forecast
from background_training.records.pause_file import Pause


@dataclass(frozen=True)
class FileFacts:
    """One file; `modified` is in seconds since 1970."""

    name: str
    size_bytes: int
    modified: float


@dataclass(frozen=True)
class FolderFacts:
    """One folder of episodes, as the last look found it.

    trouble: why nothing is known; "" when something is.
    count: episode files in it.
    measured: of how many of them the size is known; `total_bytes` is the sum of those.
    newest: the newest of the measured ones, newest first.
    arrived: files that the look before did not see; 0 at the first.
    looked_at: seconds since 1970.
    """

    path: str
    trouble: str = ""
    count: int = 0
    measured: int = 0
    total_bytes: int = 0
    newest: tuple[FileFacts, ...] = ()
    arrived: int = 0
    looked_at: float = 0.0


@dataclass(frozen=True)
class ModelFileFacts:
    """The published model; None for what is not known, and `trouble` says why.

    version: what the file itself says, and not what a learner said when it last wrote its status.
    """

    path: str
    trouble: str = ""
    size_bytes: int | None = None
    modified: float | None = None
    version: int | None = None


@dataclass(frozen=True)
class StatusFacts:
    """What logs/status.json says.

    content: as src/background_training/records/status.py writes it; None when there is none that can be read.
    is_there: whether there is a file at all.
    writer_is_gone: whether no process of this machine bears its writer's number.
    """

    content: Mapping[str, Any] | None
    is_there: bool = True
    writer_is_gone: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Everything that is shown at once; moments are in seconds since 1970, what is not known is None."""

    started: float
    now: float
    buffer: FolderFacts
    archive: FolderFacts
    model: ModelFileFacts
    status: StatusFacts
    log_path: str
    log_lines: tuple[str, ...] = field(default=())
    free_disk_bytes: float | None = None
    disk: Forecast | None = None
    pause: Pause | None = None
