"""One replay file in, one result out. A plain function for any worker process: it knows no pool and no store.

Importing this module is light; the library that reads replays is loaded by the first call.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from background_training.errors import ReplayError
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import build_order, timings, verdict
from background_training.starcraft.replays.game_facts import Game, Player
from background_training.starcraft.replays.openings import opening_of
from background_training.starcraft.replays.replay_result import ANALYSIS, PlayerFacts, ReplayResult
from background_training.starcraft.replays.timed_events import Event
from background_training.starcraft.replays.verdict import Verdict
from background_training.storage.atomic_files import NotARegularFileError, read_regular_file

if TYPE_CHECKING:
    from background_training.starcraft.replays.replay_file import ReplayFile

LIBRARY_NAME = "sc2reader"


def analyse_file(path: str, settings: ReplaySettings | None = None) -> ReplayResult:
    """Read one replay and judge it. Whatever the file holds, the answer is a result, never an error of the file.

    It sets itself no time limit: whoever calls it for files of unknown origin does so in a process that can be killed.

    Raises:
        ReplayError: sc2reader is not installed.
    """
    settings = settings or ReplaySettings()
    try:
        data = read_replay(path, settings)
    except ReplayError as error:
        return failed_result("", settings, error)
    return analyse_bytes(data, settings)


def read_replay(path: str, settings: ReplaySettings) -> bytes:
    """The bytes of a replay; a link is followed, a pipe is not waited on.

    Raises:
        ReplayError: "not-a-file", "no-access" or "too-large".
    """
    try:
        return read_regular_file(Path(path).resolve(), settings.max_file_bytes)
    except NotARegularFileError as error:
        raise ReplayError("not-a-file", str(error.strerror)) from error
    except OverflowError as error:
        raise ReplayError("too-large", f"{error}; {settings.max_file_bytes} are allowed") from error
    except OSError as error:
        raise ReplayError("no-access", f"{type(error).__name__}: {error.strerror}") from error


def analyse_bytes(data: bytes, settings: ReplaySettings) -> ReplayResult:
    """Judge the content of a replay; see `analyse_file`."""
    sha256 = content_hash(data)
    if not data:
        return failed_result(sha256, settings, ReplayError("empty-file", "0 bytes"))
    demand_library()
    from background_training.starcraft.replays.replay_file import ReplayFile  # heavy, and optional: loaded where a replay is read

    try:
        return _analyse(ReplayFile(data), sha256, settings)
    except ReplayError as error:
        return failed_result(sha256, settings, error)


def _analyse(replay: ReplayFile, sha256: str, settings: ReplaySettings) -> ReplayResult:
    found = verdict.judge_game(replay.game, settings)
    players: list[PlayerFacts] = []
    if found.word == verdict.LEARN:
        events = replay.read_events()
        found = verdict.judge_start(replay.game) if events else Verdict(verdict.SKIP, "no-tracker-events")
        if found.word == verdict.LEARN:
            players = _learnable_players(replay.game, events, settings)
            if not players:
                found = Verdict(verdict.SKIP, "no-build-order", f"{settings.min_orders} orders are needed")
    result = _result(sha256, settings, found)
    game = replay.game
    result["version"], result["map"], result["seconds"] = game.version, game.map_name, game.seconds
    result["played_at"], result["identity"], result["players"] = game.played_at, game.identity, players
    return result


def _learnable_players(game: Game, events: list[Event], settings: ReplaySettings) -> list[PlayerFacts]:
    everyone = [_player_facts(game, player, events) for player in verdict.zerg_players(game)]
    return [facts for facts in everyone if len(facts["build_order"]) >= settings.min_orders]


def _player_facts(game: Game, player: Player, events: list[Event]) -> PlayerFacts:
    orders = build_order.read_build_order(events, player.number)
    key_timings = timings.key_timings(orders, events, player.number)
    lines = [(order.supply, order.seconds, order.item) for order in orders]
    opening = opening_of(lines, player.start_supply)
    return PlayerFacts(
        name=player.name,
        race=player.race,
        opponent_race=game.opponent_of(player).race,
        result=player.result,
        start_supply=player.start_supply,
        opening=opening.key,
        opening_text=opening.text,
        build_order=lines,
        timings={name: {"seconds": timing.seconds, "supply": timing.supply} for name, timing in key_timings.items()},
    )


def failed_result(sha256: str, settings: ReplaySettings, error: ReplayError) -> ReplayResult:
    """The result of a file of which nothing is known but what went wrong."""
    return _result(sha256, settings, Verdict(verdict.SKIP, error.reason, error.found))


def _result(sha256: str, settings: ReplaySettings, found: Verdict) -> ReplayResult:
    return ReplayResult(
        sha256=sha256,
        made_with=made_with(settings),
        library=library_version(),
        verdict=found.word,
        reason=found.reason,
        detail=found.detail,
        version="",
        map="",
        played_at="",
        seconds=0.0,
        identity="",
        players=[],
    )


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made_with(settings: ReplaySettings) -> str:
    """What a result depends on beside the file's content."""
    return f"analysis {ANALYSIS}, min_seconds {settings.min_seconds:g}, min_orders {settings.min_orders}"


@functools.cache
def library_version() -> str:
    """Name and version of the library that reads replays, without loading it."""
    try:
        return f"{LIBRARY_NAME} {metadata.version(LIBRARY_NAME)}"
    except metadata.PackageNotFoundError:
        return "none"


def demand_library() -> None:
    """
    Raises:
        ReplayError: sc2reader is not installed.
    """
    if util.find_spec(LIBRARY_NAME) is None:
        raise ReplayError("sc2reader is not installed", 'pip install "background-training[replays]" brings it')
