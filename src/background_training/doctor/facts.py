"""All facts about one root and its machine at one moment, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from background_training.episodes.episode import Episode
from background_training.monitor.facts import StatusFacts
from background_training.paths import Paths
from background_training.records.disk_forecast import Forecast
from background_training.records.pause_file import Pause
from background_training.settings import Settings
from background_training.spaces import ActionSpace

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """What happened to a few small files written, renamed and locked in the root's data folder, and removed again.

    trouble: why they could not be written; "" if they could, and if nothing was tried.
    seconds_per_file: the median time from opening one to its final name; None if not known.
    clock_difference_seconds: the disk's clock minus the machine's; None if not known.
    lock_trouble: why locks don't work here; "" if they do.
    """

    trouble: str = ""
    seconds_per_file: float | None = None
    clock_difference_seconds: float | None = None
    lock_trouble: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """The machine, as far as it matters to a root. `now` is in seconds since 1970.

    installed: optional packages that can be imported.
    watch_trouble: why the buffer can't be watched for events; "" if it can.
    own_variables: names of environment variables that begin as our settings do, and name none.
    file_system: of the root's disk, as the system calls it; "" if not known.
    free_bytes: on the root's disk; None if not known.
    long_paths: whether paths may be longer than 260 characters.
    """

    now: float
    platform: str
    installed: frozenset[str] = frozenset()
    watch_trouble: str = ""
    own_variables: tuple[str, ...] = ()
    file_system: str = ""
    free_bytes: float | None = None
    long_paths: bool = True
    probe: Probe = Probe()


@dataclass(frozen=True)
class FolderReadings:
    """The root's folders and their contents.

    inside: the folder of which the root seems to be a part, as when `--root` names its data/; None if not.
    elsewhere: folders with episodes that no learner reads, and their number.
    other_roots: likewise of other roots nearby; looked for only while this one has seen no episode.
    not_writable: folders and files that this user may not write, and who owns them.
    no_folders: what is found where a folder has to be.
    foreign_names: files in the buffer whose names don't end in .npz.
    unfinished: names in the buffer that say "still being written", and have stood still for a minute.
    future: waiting files from the future, and by how many seconds.
    newest: the newest of the files that only the learner writes, and its time.
    gymnasium_games: whether run_with_training.py has played here.
    """

    exists: bool = True
    has_data: bool = True
    inside: Path | None = None
    elsewhere: tuple[tuple[str, int], ...] = ()
    other_roots: tuple[tuple[str, int], ...] = ()
    not_writable: tuple[str, ...] = ()
    no_folders: tuple[str, ...] = ()
    foreign_names: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    waiting: int = 0
    oldest_waiting_seconds: float = 0.0
    future: tuple[tuple[str, float], ...] = ()
    newest: tuple[str, float] | None = None
    longest_name: int = 0
    gymnasium_games: bool = False


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, according to the system or the learner's card; pid 0 if unknown."""

    pid: int
    words: str


@dataclass(frozen=True)
class LearnerFacts:
    """Processes that work in the root.

    holder: of the learner's lock; None while it is free.
    worker_holder: of the worker's lock, likewise.
    card_left_behind: whether the card of a dead learner is still there.
    rivals: processes of ours that play in the same root and would have a learner of their own, but for the lock.
    last_words: the worker's last output before it died.
    pause: the user's pause, if any.
    """

    status: StatusFacts
    status_words: str = ""
    silent: bool = False
    holder: Holder | None = None
    worker_holder: Holder | None = None
    card_left_behind: bool = False
    rivals: tuple[Holder, ...] = ()
    last_words: str = ""
    pause: Pause | None = None

    @property
    def state(self) -> str:
        return str((self.status.content or {}).get("state", ""))

    @property
    def stats(self) -> Mapping[str, Any]:
        return self._part("stats")

    @property
    def governor(self) -> Mapping[str, Any]:
        return self._part("governor")

    def _part(self, name: str) -> Mapping[str, Any]:
        part = (self.status.content or {}).get(name)
        return part if isinstance(part, Mapping) else {}


@dataclass(frozen=True)
class Seen:
    """One episode that was read: `episode`, or the reason and the words why it can't be used."""

    name: str
    modified: float
    episode: Episode | None = None
    reason: str = ""
    found: str = ""


@dataclass(frozen=True)
class FoundModel:
    """The model file: what was found wrong with it, or what it holds.

    not_finite: names of arrays that hold NaN or infinity.
    """

    missing: bool = False
    trouble: str = ""
    version: int = 0
    state_width: int = 0
    actions: ActionSpace | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()

    @property
    def commit(self) -> Mapping[str, Any]:
        """The record of what made it; empty if it has none."""
        commit = self.manifest.get("commit")
        return commit if isinstance(commit, Mapping) else {}

    @property
    def last_batch(self) -> Mapping[str, Any]:
        report = self.manifest.get("last_batch")
        return report if isinstance(report, Mapping) else {}


@dataclass(frozen=True)
class RecordFacts:
    """The content of the ledger.

    trouble: why it can't be read.
    recent: the newest fates, oldest first; deletions and summaries left out.
    chains: the links of its hash chain, the empty one before the first batch among them.
    gone: trained episodes among the newest that are missing from the archive without a recorded deletion.
    """

    trouble: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    recent: Sequence[Line] = ()
    chains: frozenset[str] = frozenset()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReplayFacts:
    """The replays that the settings name; `skipped` counts by reason, None if none was read yet."""

    folder_exists: bool = True
    files: int = 0
    learnt: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DoctorFacts:
    """Everything that the checks look at.

    settings_trouble: why the settings can't be used; the rest then rests on the defaults.
    waiting, trained: the newest episodes in the buffer and in the archive, oldest first.
    about_to_start: whether a learner is to be started now, so that a running one is a problem.
    """

    paths: Paths
    settings: Settings
    machine: MachineFacts
    places: FolderReadings
    learner: LearnerFacts
    model: FoundModel
    records: RecordFacts
    replays: ReplayFacts = ReplayFacts()
    waiting: tuple[Seen, ...] = ()
    trained: tuple[Seen, ...] = ()
    settings_trouble: str = ""
    disk: Forecast | None = None
    about_to_start: bool = False

    @property
    def episodes(self) -> list[Episode]:
        """The newest usable episodes: the trained ones, then those that wait."""
        return [seen.episode for seen in (*self.trained, *self.waiting) if seen.episode is not None]
