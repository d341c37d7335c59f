"""What a run plays, and how much of it is done: logs/run.json holds it, so that --resume can continue after a crash."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from background_training.errors import BackgroundTrainingError, RunStateError, SettingsError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import LostGame
from background_training.settings import Settings
from background_training.storage import atomic_files
from background_training.storage.file_lock import RootLock

logger = logging.getLogger(__name__)

_FORMAT = 1
_MOST_BYTES = 50_000_000
_MAX_NUMBER = 2**62


@dataclass(frozen=True)
class RunSpec:
    """What a run was started with.

    games: of the whole run; None: until it is interrupted.
    instances: games at a time.
    training: whether the games are recorded for the learner.
    learning_rate: None: as the settings say.
    first_number: of the run's first game; a root numbers its games through all runs.
    """

    game: str
    seed: int
    games: int | None
    instances: int
    training: bool
    learning_rate: float | None = None
    first_number: int = 1
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of_flags(cls, settings: Settings, flags: Mapping[str, Any], first_number: int) -> RunSpec:
        """A new run.

        Args:
            settings: under these flags.
            flags: games, learning_rate and no_training, as they were given.
        """
        return cls(
            game=settings.games.game,
            seed=settings.learning.seed,
            games=flags["games"],
            instances=settings.games.instances,
            training=not flags["no_training"],
            learning_rate=flags["learning_rate"],
            first_number=first_number,
        )

    def game_seed(self, number: int) -> int:
        """The seed of the game of this number; no two games of a run share one."""
        return (self.seed * 1_000_003 + number) % 2**31

    def episode_id(self, number: int) -> str:
        """The id of the episode of this game. A game that is played again after a crash has the same: it is trained on once."""
        return f"{self.run_id}-{number}"

    def resumed(self, given: Mapping[str, Any]) -> RunSpec:
        """The same run under the flags of this start; None values count as not given.

        `games` is the number of the whole run; `instances` changes none of them. Another game, seed or purpose would make
        another run.

        Raises:
            SettingsError: such a flag.
        """
        flags = {key: value for key, value in given.items() if value is not None}
        for key in ("game", "seed", "training"):
            former = getattr(self, key)
            if flags.get(key, former) != former:
                needed = f"the interrupted run was started with {former!r}; leave it out, or start a new run without --resume"
                raise SettingsError(key, flags[key], needed, "command line")
        return dataclasses.replace(self, **flags)


class PlayedNumbers:
    """The numbers of finished games: all below one number, and a few beyond it."""

    def __init__(self, first: int, below: int = 0, beyond: frozenset[int] | set[int] = frozenset()) -> None:
        self.first = first
        self.below = max(first, below)
        self._beyond: set[int] = set()
        for number in beyond:
            self.add(number)

    def __len__(self) -> int:
        return self.below - self.first + len(self._beyond)

    def add(self, number: int) -> None:
        if number >= self.below:
            self._beyond.add(number)
        while self.below in self._beyond:
            self._beyond.remove(self.below)
            self.below += 1

    def discard(self, number: int) -> None:
        """Count a game as not played."""
        if number < self.below:
            self._beyond.update(range(number + 1, self.below))
            self.below = number
        self._beyond.discard(number)

    def remaining(self, games: int | None) -> Iterator[int]:
        """The numbers of the run's other games as of now, in order; without end if `games` is None."""
        number, beyond = self.below, frozenset(self._beyond)
        while games is None or number < self.first + games:
            if number not in beyond:
                yield number
            number += 1

    def as_json(self) -> dict[str, Any]:
        return {"below": self.below, "beyond": sorted(self._beyond)}


@dataclass
class RunState:
    """A run under way.

    lost, last_loss: how many games were lost; the last of them, and why.
    undelivered: episodes that the buffer refused.
    """

    spec: RunSpec
    played: PlayedNumbers
    lost: int = 0
    last_loss: str = ""
    undelivered: int = 0

    @classmethod
    def new(cls, spec: RunSpec) -> RunState:
        return cls(spec, PlayedNumbers(spec.first_number))

    @property
    def is_over(self) -> bool:
        return self.spec.games is not None and len(self.played) >= self.spec.games

    @property
    def progress(self) -> str:
        """How much of it is done, in words."""
        of_all = "" if self.spec.games is None else f" of {self.spec.games}"
        return f"{len(self.played)}{of_all} games"

    def add_loss(self, lost: LostGame) -> None:
        self.played.add(lost.number)
        self.lost += 1
        self.last_loss = f"game {lost.number}: {lost.reason}"

    def remove_losses(self, games: Sequence[LostGame]) -> None:
        """Count lost games as not played: they end the run, which plays them when it is resumed."""
        for lost in games:
            self.played.discard(lost.number)
        self.lost -= len(games)

    def to_bytes(self) -> bytes:
        counts = {"lost": self.lost, "last_loss": self.last_loss, "undelivered": self.undelivered}
        content = {"format": _FORMAT, "plan": dataclasses.asdict(self.spec), "played": self.played.as_json(), **counts}
        return json.dumps(content, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RunState:
        """Parse the content of logs/run.json.

        Raises:
            ValueError, TypeError, KeyError: it is malformed.
        """
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        spec = RunSpec(**content["plan"])
        sound = all(type(getattr(spec, name)) is int for name in ("seed", "instances", "first_number"))
        sound = sound and type(spec.training) is bool and type(spec.game) is str and type(spec.run_id) is str
        sound = sound and (spec.games is None or type(spec.games) is int) and type(spec.learning_rate) in (float, int, type(None))
        if not sound:
            raise ValueError("its plan holds values of wrong types")
        if not 0 <= int(content["played"]["below"]) < _MAX_NUMBER or not 0 <= spec.first_number < _MAX_NUMBER:
            raise ValueError("a game number is out of range")
        played = PlayedNumbers(
            int(spec.first_number), int(content["played"]["below"]), set(map(int, content["played"]["beyond"]))
        )
        return cls(spec, played, int(content["lost"]), str(content["last_loss"]), int(content["undelivered"]))


def read(paths: Paths) -> RunState | None:
    """The run of a root that is at work or was interrupted.

    Raises:
        RunStateError: logs/run.json is malformed.
        OSError: the machine failed.
    """
    try:
        data = atomic_files.read_regular_file(paths.run_state, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OverflowError as error:
        raise RunStateError(str(paths.run_state), f"it is {error} long") from None
    try:
        return RunState.from_bytes(data)
    except Exception as error:  # the boundary of a parser of foreign bytes
        raise RunStateError(str(paths.run_state), f"{type(error).__name__}: {str(error)[:200]}") from error


class RunStateFile:
    """logs/run.json of one run, locked against other runs of the same root.

    It promises that what was saved is complete after a crash or a power cut. It never fails a run: where nothing can be locked
    or saved, it logs that once, and games are played all the same. It does not promise that two runs at a time in one root
    are both saved: only the first one is.

    Attributes:
        is_mine: whether this process holds the lock; otherwise nothing is read or written.
    """

    def __init__(self, paths: Paths) -> None:
        """Lock the root's run, unless another process has it."""
        self.paths = paths
        self._path = paths.run_state
        self._has_warned = False
        paths.logs.mkdir(parents=True, exist_ok=True)
        self._lock = RootLock(paths.run_lock)
        try:
            self.is_mine = self._lock.try_acquire()
        except BackgroundTrainingError as error:
            self.is_mine = False
            logger.warning("the progress of this run will not be saved: %s", error)

    def interrupted(self) -> RunState | None:
        """The run that was interrupted in this root, if there is one.

        Raises:
            RunStateError, OSError: as `read` does.
        """
        return read(self.paths) if self.is_mine else None

    def save(self, state: RunState) -> None:
        """Write the state, durably."""
        if not self.is_mine:
            return
        try:
            atomic_files.write_atomically(self._path, state.to_bytes(), durable=True)
        except OSError as error:
            if not self._has_warned:
                logger.warning("the progress of the run is not saved: %s", error)
            self._has_warned = True

    def delete(self) -> None:
        """Remove the file: nothing is left to resume."""
        if self.is_mine:
            atomic_files.remove_if_there(self._path)

    def __enter__(self) -> RunStateFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()


def choose(
    file: RunStateFile, logged: Iterable[int], fresh: RunSpec, flags: Mapping[str, Any], resume: bool
) -> tuple[RunState, str]:
    """The run to play, and a sentence about it for the user, or "".

    Args:
        logged: the numbers of the games in logs/games.csv, which is newer than the saved state.
        fresh: what a new run would be.
        flags: game, seed, games, instances, learning_rate and training by the spec's keys, as given; None if not.
        resume: whether to continue an interrupted run, if there is one.

    Raises:
        SettingsError: the flags contradict the interrupted run, or it is still at work.
        RunStateError: the saved state is malformed.
    """
    if resume and not file.is_mine:
        raise SettingsError("--resume", True, "a run that is not at work is needed, and this root's is", "command line")
    try:
        state = file.interrupted()
    except RunStateError as error:
        if resume:
            raise
        return RunState.new(fresh), f"[WARNING] {error}"
    if state is None:
        return RunState.new(fresh), "[INFO] No run was interrupted in this root: a new one starts" if resume else ""
    for number in logged:
        if number >= state.spec.first_number:
            state.played.add(number)
    if not resume:
        sentence = f"A run was interrupted here after {state.progress}; --resume would have continued it. A new one starts"
        return RunState.new(fresh), f"[INFO] {sentence}"
    state.spec = state.spec.resumed(flags)
    return state, f"[INFO] Continuing after {state.progress}; without --resume a new run would start"
