"""What the replay tests share: where real replays lie, games made of a few events, and a library that hangs on command."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from background_training.paths import CHECKOUT
from background_training.starcraft.replays.analysis import ANALYSIS, PlayerFacts, ReplayResult
from background_training.starcraft.replays.game import Born, Counted, Died, Done, Event, Started

ZERG, TERRAN = 1, 2

FAKE_LIBRARY = '''
"""Stands in for sc2reader: the content of a "replay" says what reading it does."""
__version__ = "0"
'''
FAKE_RESOURCES = """
import os, re, time

class Replay:
    def __init__(self, file, *_, **__):
        text = file.read().decode()
        if text.startswith("hang in python"):
            while True:
                pass
        if text.startswith("hang in c"):
            re.match(r"(a+)+$", "a" * 60 + "b")
        if text.startswith("die"):
            os._exit(9)
        if text.startswith("eat"):
            bytearray(3_000_000_000)
        if text.startswith("print"):
            print("a library's chatter", flush=True)
        if text.startswith("wait"):
            time.sleep(1000)
        if text.startswith("slow"):
            time.sleep(0.3)
        self.players = []
        self.raw_data = {}
        self.release_string = "1.0"
        self.frames = 0
        self.map_hash = ""
"""


def replays_folder() -> Path:
    """The folder of real replays; skips the test where there is none."""
    folder = Path(os.environ.get("REPLAYS_FOR_TESTS") or CHECKOUT.parent / "shared" / "replays")
    if not folder.is_dir():
        pytest.skip(f"no replays in {folder}; REPLAYS_FOR_TESTS names another folder")
    pytest.importorskip("sc2reader", reason='replays are read with sc2reader: pip install "background-training[replays]"')
    return folder


def install_fake_library(folder: Path) -> str:
    """Put the stand-in where worker processes find it before sc2reader; the PYTHONPATH that does so."""
    package = folder / "fake library" / "sc2reader"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_LIBRARY)
    (package / "resources.py").write_text(FAKE_RESOURCES)
    (package / "utils.py").write_text("def extract_data_file(name, archive):\n    return b''\n")
    (package / "readers.py").write_text("class TrackerEventsReader:\n    pass\n")
    (package / "exceptions.py").write_text("class SC2ReaderError(Exception):\n    pass\n")
    return str(package.parent)


def write_replays(folder: Path, contents: Iterable[str]) -> list[str]:
    """One file per content, named after it; their paths in the order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    for content in contents:
        (folder / f"{content}.SC2Replay").write_text(content)
    return sorted(str(path) for path in folder.iterdir())


def start_of_game(player: int = ZERG, drones: int = 12) -> list[Event]:
    """What every Zerg has at loop 0, and the game's count of it at loop 1."""
    units: list[Event] = [Born(0, 1000 * player, "Hatchery", player)]
    units += [Born(0, 1000 * player + number, "Drone", player) for number in range(1, drones + 1)]
    return [*units, Born(0, 1000 * player + 99, "Overlord", player), Counted(1, player, float(drones))]


def hatching(unit: int, name: str, order_loop: int, build_loops: int, player: int = ZERG) -> list[Event]:
    """The birth of a unit that was ordered in `order_loop`."""
    return [Born(order_loop + build_loops, unit, name, player)]


def building(unit: int, name: str, loop: int, drone: int, player: int = ZERG, loops: int = 480) -> list[Event]:
    """A building that is begun, finished, and uses up its drone one loop later."""
    return [Started(loop, unit, name, player), Done(loop + loops, unit), Died(loop + loops + 1, drone)]


def in_order(*parts: Iterable[Event]) -> list[Event]:
    """Events of several stories as the game would tell them."""
    return sorted((event for part in parts for event in part), key=lambda event: event.loop)


def a_player(pool_seconds: float = 72.0, pool_supply: int = 17, **changes: object) -> PlayerFacts:
    """A learnable player who plays 17 hatch, 18 gas, 17 pool; keywords replace what they name."""
    player = PlayerFacts(
        name="Somebody",
        race="Zerg",
        opponent_race="Terran",
        result="Win",
        start_supply=12,
        opening="hatch-gas-pool",
        opening_text=f"17 hatch, 18 gas, {pool_supply} pool",
        build_order=[
            (12, 0.6, "Drone"),
            (17, 50.0, "Hatchery"),
            (18, 65.0, "Extractor"),
            (pool_supply, pool_seconds, "SpawningPool"),
        ],
        timings={
            "base_2": {"seconds": 50.0, "supply": 17},
            "extractor": {"seconds": 65.0, "supply": 18},
            "spawning_pool": {"seconds": pool_seconds, "supply": pool_supply},
        },
    )
    player.update(changes)  # type: ignore[typeddict-item]
    return player


def a_result(sha256: str, *players: PlayerFacts, reason: str = "", **changes: object) -> ReplayResult:
    """A result that teaches what its players do, or a skipped one with `reason`."""
    result = ReplayResult(
        sha256=sha256,
        made_with=f"analysis {ANALYSIS}, min_seconds 120, min_orders 10",
        library="sc2reader 1.9.0",
        verdict="skip" if reason else "learn",
        reason=reason,
        detail="",
        version="5.0.15.1",
        map="Somewhere LE",
        played_at="2026-01-25T14:32:05Z",
        seconds=600.0,
        identity="" if reason else f"game {sha256}",
        players=list(players),
    )
    result.update(changes)  # type: ignore[typeddict-item]
    return result
