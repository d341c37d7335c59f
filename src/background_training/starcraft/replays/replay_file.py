"""Reads a StarCraft II replay file with sc2reader; the only module that imports it.

sc2reader opens the archive, lists the players and decodes the tracker events. Its model of units is not used: there a unit's
name is its last one in the game, and its seconds are 1.4 times too long.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

with warnings.catch_warnings():
    # The import emits deprecation warnings of the library's own; where warnings are errors, it would fail.
    warnings.simplefilter("ignore")
    import sc2reader  # type: ignore[import-untyped, import-not-found, unused-ignore]
    from sc2reader import utils as sc2reader_utils  # type: ignore[import-untyped, import-not-found, unused-ignore]
    from sc2reader.exceptions import SC2ReaderError  # type: ignore[import-untyped, import-not-found, unused-ignore]
    from sc2reader.readers import TrackerEventsReader  # type: ignore[import-untyped, import-not-found, unused-ignore]
    from sc2reader.resources import Replay  # type: ignore[import-untyped, import-not-found, unused-ignore]

from background_training.errors import ReplayError
from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.game import (
    Born,
    Changed,
    Counted,
    Died,
    Done,
    Event,
    Game,
    Player,
    Researched,
    Started,
)

TRACKER_EVENTS = "replay.tracker.events"
COMMANDS = "replay.game.events"

LIBRARY = f"sc2reader {sc2reader.__version__}"

PLAYERS_LEVEL = 2
"""sc2reader's load level with the players and without events."""

_FAULTS = (
    SC2ReaderError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What sc2reader and mpyq have been seen to raise for damaged files, and related errors; there is no common base."""


class ReplayFile:
    """One replay, opened: its game at once, its events when asked for.

    Raises:
        ReplayError: "unreadable"; the library can't make sense of the bytes.
    """

    def __init__(self, data: bytes) -> None:
        with _faults_as("unreadable"):
            self._replay: Any = Replay(io.BytesIO(data), "replay", load_level=PLAYERS_LEVEL, engine=None, debug=False)
            self.game = _game(self._replay)

    def read_events(self) -> list[Event]:
        """The events that build orders are read from, in the order of the game; [] if the file holds none.

        It completes `game.players` with what only events contain: numbers, races and start supplies.

        Raises:
            ReplayError: "unreadable", some of the events can't be decoded; "damaged", another part of the file
                can't be unpacked, so that none of it is trusted.
        """
        with _faults_as("unreadable"):
            data = sc2reader_utils.extract_data_file(TRACKER_EVENTS, self._replay.archive)
            raw = TrackerEventsReader()(data, self._replay) if data else []
            events = [ours for event in raw if (ours := _event(event)) is not None]
            numbers = {event.uid: event.pid for event in raw if event.name == "PlayerSetupEvent" and event.uid is not None}
            players = [replace(player, number=numbers.get(uid, player.number)) for player, uid in self._players_and_uids()]
            self.game = replace(self.game, players=tuple(_with_start(player, events) for player in players))
        with _faults_as("damaged"):
            sc2reader_utils.extract_data_file(COMMANDS, self._replay.archive)
        return events

    def _players_and_uids(self) -> Iterator[tuple[Player, int | None]]:
        """sc2reader numbers players by their lobby slots, events number them otherwise; the user id links the two."""
        for player, theirs in zip(self.game.players, self._replay.players, strict=True):
            yield player, getattr(theirs, "uid", None)


@contextlib.contextmanager
def _faults_as(reason: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _FAULTS as error:
        raise ReplayError(reason, f"{type(error).__name__}: {error}"[:300]) from error


def _game(replay: Any) -> Game:
    players = tuple(_player(player) for player in replay.players)
    played_at = getattr(replay, "end_time", None)
    setup = replay.raw_data.get("replay.initData") or replay.raw_data.get("replay.initData.backup") or {}
    seed = setup.get("lobby_state", {}).get("random_seed", 0)
    names = "|".join(sorted(player.name for player in players))
    return Game(
        version=str(replay.release_string),
        loops=int(replay.frames),
        map_name=str(getattr(replay, "map_name", "")),
        played_at=played_at.strftime("%Y-%m-%dT%H:%M:%SZ") if played_at else "",
        identity=f"{seed}|{replay.map_hash}|{names}" if seed and players else "",
        players=players,
    )


def _player(player: Any) -> Player:
    return Player(
        number=int(player.pid),
        name=str(player.name),
        race=str(player.play_race),
        result=str(player.result or "Unknown"),
        is_human=bool(player.is_human),
        team=int(player.team_id or 0),
    )


def _with_start(player: Player, events: list[Event]) -> Player:
    """The player with the race of the first town hall, whatever the language of the file, and the supply at loop 1."""
    race, supply = player.race, 0.0
    for event in events:
        if event.loop > 1:
            break
        if isinstance(event, Born) and event.player == player.number:
            race = unit_facts.TOWN_HALLS.get(event.name, race)
        elif isinstance(event, Counted) and event.player == player.number:
            supply = event.supply
    return replace(player, race=race, start_supply=int(supply))


def _event(event: Any) -> Event | None:
    """Convert one of sc2reader's events; None for those that no build order needs."""
    make = _EVENTS.get(event.name)
    return make(event) if make is not None else None


_EVENTS: dict[str, Callable[[Any], Event]] = {
    "UnitBornEvent": lambda event: Born(event.frame, event.unit_id, sys.intern(event.unit_type_name), event.control_pid),
    "UnitInitEvent": lambda event: Started(event.frame, event.unit_id, sys.intern(event.unit_type_name), event.control_pid),
    "UnitDoneEvent": lambda event: Done(event.frame, event.unit_id),
    "UnitTypeChangeEvent": lambda event: Changed(event.frame, event.unit_id, sys.intern(event.unit_type_name)),
    "UnitDiedEvent": lambda event: Died(event.frame, event.unit_id),
    "UpgradeCompleteEvent": lambda event: Researched(event.frame, event.pid, sys.intern(event.upgrade_type_name)),
    "PlayerStatsEvent": lambda event: Counted(event.frame, event.pid, event.food_used),
}
