"""How far a run has come: what a start after a crash needs to go on with it, in logs/run.json."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from background_training.errors import BackgroundTrainingError, RunStateError, SettingsError
from background_training.paths import Paths
from background_training.runs.run_spec import LostGame
from background_training.storage import atomic_files
from background_training.storage.file_lock import RootLock

logger = logging.getLogger(__name__)

_FORMAT = 1
_MOST_BYTES = 50_000_000
_MAX_NUMBER = 2**62


@dataclass(frozen=True)
class RunPlan:
    """What a run was begun with; `games` None: until somebody ends it. `learning_rate` None: as the settings say."""

    game: str
    seed: int
    games: int | None
    instances: int
    training: bool
    learning_rate: float | None = None
    first_number: int = 1
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def continued(self, given: Mapping[str, Any]) -> RunPlan:
        """The same run under the flags of today; None values count as not given.

        Games are those of the whole run; how many are played at a time changes none of them. Another game, seed or
        purpose would make another run.

        Raises:
            SettingsError: such a flag.
        """
        flags = {key: value for key, value in given.items() if value is not None}
        for key in ("game", "seed", "training"):
            former = getattr(self, key)
            if flags.get(key, former) != former:
                needed = f"the run to go on with was begun with {former!r}; leave it out, or begin anew without --resume"
                raise SettingsError(key, flags[key], needed, "command line")
        return dataclasses.replace(self, **flags)


class PlayedNumbers:
    """The numbers of games that are over: all below one number, and a few beyond it."""

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
    """A run under way. `last_loss` tells which game was lost last, and why; `undelivered` episodes the buffer refused."""

    plan: RunPlan
    played: PlayedNumbers
    lost: int = 0
    last_loss: str = ""
    undelivered: int = 0

    @classmethod
    def new(cls, plan: RunPlan) -> RunState:
        return cls(plan, PlayedNumbers(plan.first_number))

    @property
    def is_over(self) -> bool:
        return self.plan.games is not None and len(self.played) >= self.plan.games

    @property
    def progress(self) -> str:
        """How much of it is over, in words."""
        of_all = "" if self.plan.games is None else f" of {self.plan.games}"
        return f"{len(self.played)}{of_all} games"

    def note_loss(self, lost: LostGame) -> None:
        self.played.add(lost.number)
        self.lost += 1
        self.last_loss = f"game {lost.number}: {lost.reason}"

    def take_back(self, games: Sequence[LostGame]) -> None:
        """Count lost games as not played: the run ends over them, and plays them when it is resumed."""
        for lost in games:
            self.played.discard(lost.number)
        self.lost -= len(games)

    def packed(self) -> bytes:
        counts = {"lost": self.lost, "last_loss": self.last_loss, "undelivered": self.undelivered}
        content = {"format": _FORMAT, "plan": dataclasses.asdict(self.plan), "played": self.played.as_json(), **counts}
        return json.dumps(content, indent=1).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> RunState:
        """The state that these bytes tell of.

        Raises:
            ValueError, TypeError, KeyError: they are no such state.
        """
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        plan = RunPlan(**content["plan"])
        sound = all(type(getattr(plan, name)) is int for name in ("seed", "instances", "first_number"))
        sound = sound and type(plan.training) is bool and type(plan.game) is str and type(plan.run_id) is str
        sound = sound and (plan.games is None or type(plan.games) is int) and type(plan.learning_rate) in (float, int, type(None))
        if not sound:
            raise ValueError("its plan holds values of other types")
        if not 0 <= int(content["played"]["below"]) < _MAX_NUMBER or not 0 <= plan.first_number < _MAX_NUMBER:
            raise ValueError("a number is beyond all measure")
        played = PlayedNumbers(
            int(plan.first_number), int(content["played"]["below"]), set(map(int, content["played"]["beyond"]))
        )
        return cls(plan, played, int(content["lost"]), str(content["last_loss"]), int(content["undelivered"]))


def unfinished(paths: Paths) -> RunState | None:
    """The run that is at work in a root, or was broken off there.

    Raises:
        RunStateError: something else lies under its name.
        OSError: the machine failed.
    """
    try:
        data = atomic_files.read_regular_file(paths.run_state, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OverflowError as error:
        raise RunStateError(str(paths.run_state), f"it is {error} long") from None
    try:
        return RunState.unpacked(data)
    except Exception as error:  # the boundary: whatever a file makes Python raise is a fault of that file
        raise RunStateError(str(paths.run_state), f"{type(error).__name__}: {str(error)[:200]}") from error


class RunKeeper:
    """Keeps the state of a root's run; at most one process at a time does.

    It promises that what was saved is there again after a crash or a power cut, whole. It never fails a run: where
    nothing can be locked or saved, it says so once, and games are played all the same. It does not promise that two
    runs at a time in one root are both kept: the first one is.
    """

    def __init__(self, paths: Paths) -> None:
        """Take the root's run, unless another process has it: `is_mine` tells."""
        self.paths = paths
        self._path = paths.run_state
        self._complained = False
        paths.logs.mkdir(parents=True, exist_ok=True)
        self._lock = RootLock(paths.run_lock)
        try:
            self.is_mine = self._lock.try_acquire()
        except BackgroundTrainingError as error:
            self.is_mine = False
            logger.warning("how far this run comes will not be kept: %s", error)

    def unfinished(self) -> RunState | None:
        """The run that was broken off here, if one was.

        Raises:
            RunStateError: something else lies under its name.
            OSError: the machine failed.
        """
        return unfinished(self.paths) if self.is_mine else None

    def save(self, state: RunState) -> None:
        """Put the state on the disk."""
        if not self.is_mine:
            return
        try:
            atomic_files.write_atomically(self._path, state.packed(), durable=True)
        except OSError as error:
            if not self._complained:
                logger.warning("how far the run has come is not saved: %s", error)
            self._complained = True

    def forget(self) -> None:
        """There is nothing more to go on with."""
        if self.is_mine:
            atomic_files.remove_if_there(self._path)

    def __enter__(self) -> RunKeeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()
