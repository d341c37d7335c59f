"""Analyses one replay file: whether it teaches a Zerg build order, and which.

Pure but for reading the file. Importing this module is cheap; the library that reads replays is loaded by the first call.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from background_training import command_lines
from background_training.errors import ReplayError
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import build_order, unit_facts
from background_training.starcraft.replays.build_order import opening_of
from background_training.starcraft.replays.game import Event, Game, Player
from background_training.storage.atomic_files import NotARegularFileError, read_regular_file

if TYPE_CHECKING:
    from background_training.starcraft.replays.replay_file import ReplayFile


LEARN = "learn"
SKIP = "skip"

REASONS = {
    "not-a-file": "a folder, pipe or device has the name of a replay",
    "no-access": "the machine refused to open the file; it is tried again at the next run",
    "empty-file": "the file holds 0 bytes",
    "too-large": "the file is larger than the settings allow",
    "unreadable": "no replay, truncated, or of a kind that the library can't read; kept for a retry after a library upgrade",
    "damaged": "a part of the file can't be unpacked; kept for a retry after a library upgrade",
    "timeout": "reading took longer than the settings allow; kept for a retry after a library upgrade",
    "crashed": "the process that read it died twice; kept for a retry after a library upgrade",
    "no-players": "the file names no players",
    "not-1v1": "not a game of one against one",
    "against-ai": "one of the players is the computer",
    "no-zerg": "no player plays Zerg",
    "too-short": "the game ended before there was anything to learn",
    "no-tracker-events": "the game was played before 2.0.8, or was resumed; it records no units",
    "other-start-supply": "the game did not start with 6, 8 or 12 supply",
    "no-build-order": "no Zerg player ordered enough to learn from",
    "duplicate": "another file holds the same game",
}

FAILURES = ("unreadable", "damaged", "timeout", "crashed")
"""Reasons that concern the reader rather than the game: a newer library might read the file."""

WITHOUT_CONTENT = ("not-a-file", "no-access", "too-large")
"""Reasons found before a byte was read, so that there is no content to keep a result for."""


class Verdict(NamedTuple):
    """`word` is "learn" or "skip"; `reason` is one of REASONS, or "" for "learn"; `detail` is what was found."""

    word: str
    reason: str = ""
    detail: str = ""


def judge_game(game: Game, settings: ReplaySettings) -> Verdict:
    """Judge a game before its events are read; "learn" means that nothing excludes it so far."""
    players = game.players
    found = ", ".join(f"{player.name} ({player.race})" for player in players)
    if not players:
        return Verdict(SKIP, "no-players")
    if len(players) != 2 or players[0].team == players[1].team:
        return Verdict(SKIP, "not-1v1", f"{len(players)} players in {len({player.team for player in players})} teams")
    if not all(player.is_human for player in players):
        return Verdict(SKIP, "against-ai", found)
    if not zerg_players(game):
        return Verdict(SKIP, "no-zerg", found)
    if game.seconds < settings.min_seconds:
        return Verdict(SKIP, "too-short", f"{game.seconds:.0f} s, {settings.min_seconds:.0f} s are needed")
    return Verdict(LEARN)


def judge_start(game: Game) -> Verdict:
    """Judge a game after its first events, which show the races, whatever the file's language, and the start supply."""
    zerg = zerg_players(game)
    if not zerg:
        return Verdict(SKIP, "no-zerg")
    supplies = [player.start_supply for player in zerg]
    if any(supply not in unit_facts.START_SUPPLIES for supply in supplies):
        return Verdict(SKIP, "other-start-supply", f"found {supplies[0] or 'none'}")
    return Verdict(LEARN)


def zerg_players(game: Game) -> list[Player]:
    return [player for player in game.players if player.race == "Zerg"]


ANALYSIS = 1
"""Version of the analysis; increased whenever the same replay gives another result, and older results are then replaced."""


class TimingFacts(TypedDict):
    seconds: float
    supply: int


class PlayerFacts(TypedDict):
    """One learnable Zerg player; a build order's lines are (supply, start in seconds, item).

    opening: the key by which openings are counted, "hatch-gas-pool".
    opening_text: this player's, "17 hatch, 18 gas, 17 pool".
    """

    name: str
    race: str
    opponent_race: str
    result: str
    start_supply: int
    opening: str
    opening_text: str
    build_order: list[tuple[int, float, str]]
    timings: dict[str, TimingFacts]


class ReplayResult(TypedDict):
    """The verdict on one content, and its players' build orders; plain values for JSON.

    made_with: the analysis and the settings that made it; if that differs from the present ones, the result is out of date.
    library: the reader's version; a failure is tried again when it changes.
    identity: the same for all recordings of one game; "" if unknown.
    """

    sha256: str
    made_with: str
    library: str
    verdict: str
    reason: str
    detail: str
    version: str
    map: str
    played_at: str
    seconds: float
    identity: str
    players: list[PlayerFacts]


LIBRARY_NAME = "sc2reader"


def analyse_file(path: str, settings: ReplaySettings | None = None) -> ReplayResult:
    """Read and judge one replay. Whatever the file holds, this returns a result.

    There is no time limit: call it for files of unknown origin in a process that can be killed.

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
    from background_training.starcraft.replays.replay_file import ReplayFile  # slow to load, and optional

    try:
        return _analyse(ReplayFile(data), sha256, settings)
    except ReplayError as error:
        return failed_result(sha256, settings, error)


def _analyse(replay: ReplayFile, sha256: str, settings: ReplaySettings) -> ReplayResult:
    found = judge_game(replay.game, settings)
    players: list[PlayerFacts] = []
    if found.word == LEARN:
        events = replay.read_events()
        found = judge_start(replay.game) if events else Verdict(SKIP, "no-tracker-events")
        if found.word == LEARN:
            players = _learnable_players(replay.game, events, settings)
            if not players:
                found = Verdict(SKIP, "no-build-order", f"{settings.min_orders} orders are needed")
    result = _result(sha256, settings, found)
    game = replay.game
    result["version"], result["map"], result["seconds"] = game.version, game.map_name, game.seconds
    result["played_at"], result["identity"], result["players"] = game.played_at, game.identity, players
    return result


def _learnable_players(game: Game, events: list[Event], settings: ReplaySettings) -> list[PlayerFacts]:
    everyone = [_player_facts(game, player, events) for player in zerg_players(game)]
    return [facts for facts in everyone if len(facts["build_order"]) >= settings.min_orders]


def _player_facts(game: Game, player: Player, events: list[Event]) -> PlayerFacts:
    orders = build_order.read_build_order(events, player.number)
    key_timings = build_order.key_timings(orders, events, player.number)
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
    """The result of a file that could not be read."""
    return _result(sha256, settings, Verdict(SKIP, error.reason, error.found))


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
    """What a result depends on, besides the file's content."""
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
        raise ReplayError("sc2reader is not installed", f"{command_lines.install('replays')} installs it")
