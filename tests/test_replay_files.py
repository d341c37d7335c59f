"""Real replays: what is read in them is what an independent reading finds, and the same whatever happens on the way."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import replay_oracle
from conftest import PATIENCE_SECONDS
from replay_fakes import replays_folder

from background_training.paths import CHECKOUT, Paths
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import replay_archive
from background_training.starcraft.replays.replay_archive import ReplayArchive

pytestmark = pytest.mark.slow  # real processes

ITEMS = 20
REASONS_IN_ODD = {
    "bytes_flipped": "damaged",
    "coop_4v5": "not-1v1",
    "empty_file": "empty-file",
    "gameheart_same_team": "not-1v1",
    "header_only": "no-players",
    "left_at_once": "too-short",
    "lotv_alpha_mod_vs_computer": "against-ai",
    "no_players_listed": "other-start-supply",
    "resumed_ZvP_hots": "no-tracker-events",
    "same_game_other_name": "duplicate",
    "team_archon": "not-1v1",
    "text_not_a_replay": "unreadable",
    "truncated_half": "unreadable",
    "vs_computer_7s_cjk_name": "against-ai",
    "zerg_afk": "no-build-order",
}


@pytest.fixture(scope="module")
def replays() -> Path:
    return replays_folder()


@pytest.fixture(scope="module")
def root(replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which all replays have been analysed."""
    root = tmp_path_factory.mktemp("root")
    finish(analyse(replays, root, "--workers", "2"))
    return root


@pytest.fixture(scope="module")
def details(replays: Path, root: Path) -> dict[str, dict[str, Any]]:
    """What is known of each replay, by its name."""
    return {Path(line["file"]).stem: line for line in ReplayArchive(Paths(root), ReplaySettings(), str(replays)).details()}


def test_every_replay_gets_a_verdict(replays: Path, details: dict[str, dict[str, Any]]):
    """Odd ones are refused for the right reason, good ones are learnt from."""
    files = list(replays.rglob("*.SC2Replay"))

    assert len(files) == len(details) > 0
    assert {name: details[name]["reason"] for name in REASONS_IN_ODD if name in details} == REASONS_IN_ODD
    for path in replays.glob("zerg_1v1/*"):
        too_old = path.name.startswith(("sc2r131", "sc2r140", "sc2r203"))
        assert details[path.stem]["reason"] == ("no-tracker-events" if too_old else ""), path.name
    assert {details[path.stem]["reason"] for path in replays.glob("other_1v1/*")} == {"no-zerg"}


def learnable(details: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(line["file"], player) for line in details.values() if line["verdict"] == "learn" for player in line["players"]]


def test_build_orders_are_those_of_an_independent_reading(details: dict[str, dict[str, Any]]):
    """The first 20 items of 98 % of players; starts within half a second for 99 %; supply within 1 for 98 %; key timings."""
    players = same = items = on_time = right_supply = 0
    for file, readings in itertools.groupby(learnable(details), key=lambda pair: pair[0]):
        events = replay_oracle.raw_events(Path(file))
        numbers = replay_oracle.zerg_numbers(events)
        ours = [player for _, player in readings]
        assert len(ours) == len(numbers)
        for player, number in zip(ours, numbers, strict=True):
            wanted = replay_oracle.build_order(events, number, ITEMS)
            found = player["build_order"][:ITEMS]
            players += 1
            same += [line[2] for line in found] == [item.name for item in wanted]
            for line, item in zip(found, wanted, strict=False):
                items += 1
                on_time += abs(line[1] - item.seconds) <= 0.5
                right_supply += abs(line[0] - item.supply) <= 1
            boost = replay_oracle.boost_start(events, number)
            assert ("metabolic_boost" in player["timings"]) == (boost is not None)
            assert boost is None or abs(player["timings"]["metabolic_boost"]["seconds"] - boost) <= 0.5

    assert players >= 50
    assert same >= 0.98 * players
    assert on_time >= 0.99 * items
    assert right_supply >= 0.98 * items


def test_timings_are_lines_of_the_build_order(details: dict[str, dict[str, Any]]):
    """Each key timing is the start of the first such item; bases are the first three hatcheries."""
    items = {"spawning_pool": "SpawningPool", "queen": "Queen", "lair": "Lair", "hive": "Hive", "roach_warren": "RoachWarren"}
    for _, player in learnable(details):
        for name, item in items.items():
            first = [line for line in player["build_order"] if line[2] == item][:1]
            timing = player["timings"].get(name)
            assert first == ([[timing["supply"], timing["seconds"], item]] if timing else [])
        hatcheries = [line[1] for line in player["build_order"] if line[2] == "Hatchery"][:3]
        assert hatcheries == [
            player["timings"][name]["seconds"] for name in ("base_2", "base_3", "base_4") if name in player["timings"]
        ]


@pytest.mark.filterwarnings("ignore")
def test_spawningtool_is_of_the_same_opinion(replays: Path, details: dict[str, dict[str, Any]]):
    """A library by others, read at its own level: the same buildings within a second, the pool's supply within 2."""
    parser = pytest.importorskip("spawningtool.parser", reason="spawningtool, the second opinion, is not installed")
    buildings = ("SpawningPool", "Extractor", "Hatchery", "RoachWarren")
    compared = 0
    for name in ("tsl8_5.0.8_ZvP_Serral-Trap", "st_5.0.12_ZvT_DRG-ByuN", "blizzcon19_4.10.4_ZvZ_Serral-Reynor"):
        theirs = parser.parse_replay(str(replays / "zerg_1v1" / f"{name}.SC2Replay"))["players"].values()
        for player in details[name]["players"]:
            (they,) = [one for one in theirs if one["name"] == player["name"]]
            wanted = [
                (line["name"], line["frame"] / 22.4, line["supply"]) for line in they["buildOrder"] if line["name"] in buildings
            ]
            found = [line for line in player["build_order"] if line[2] in buildings]
            for line, (item, seconds, supply) in zip(found[:5], wanted[:5], strict=True):
                compared += 1
                assert (line[2], line[1]) == (item, pytest.approx(seconds, abs=1.0))
                assert item != "SpawningPool" or abs(line[0] - supply) <= 2
    assert compared == 20


def analyse(replays: Path, root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHECKOUT / "tools" / "analyze_replays.py"), str(replays), "--root", str(root), "--quiet"]
    return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()


def summary_bytes(root: Path) -> bytes:
    return Paths(root).build_orders.read_bytes()


def test_a_second_run_is_quick_and_reads_no_replay(replays: Path, root: Path):
    """All files looked at, none opened, the summary's bytes and time untouched."""
    before = Paths(root).build_orders.stat().st_mtime_ns
    started = time.process_time()
    counts = replay_archive.analyse_some(str(root), str(replays), ReplaySettings(), 10_000)

    assert time.process_time() - started < 1.0
    assert counts["read"] == 0
    assert Paths(root).build_orders.stat().st_mtime_ns == before


def test_any_number_of_workers_gives_the_same_bytes(replays: Path, tmp_path: Path):
    """One, two or four: results come in different orders, and the summary does not show it."""
    folder = tmp_path / "replays"
    folder.mkdir()
    for file in sorted(replays.rglob("*.SC2Replay"), key=lambda file: file.stat().st_size)[:30]:
        shutil.copyfile(file, folder / file.name)

    for workers in ("1", "2", "4"):
        finish(analyse(folder, tmp_path / workers, "--workers", workers))

    assert json.loads(summary_bytes(tmp_path / "1"))["counts"]["learnt"] > 5
    assert summary_bytes(tmp_path / "1") == summary_bytes(tmp_path / "2") == summary_bytes(tmp_path / "4")


def test_the_same_bytes_after_kills_at_random_moments(replays: Path, root: Path, tmp_path: Path):
    """kill -9 in the midst of 20 runs, each going on where the last one fell, and files that come in another order."""
    folder = tmp_path / "replays"
    folder.mkdir()
    moments = random.Random(7)
    files = sorted(replays.rglob("*.SC2Replay"))
    moments.shuffle(files)
    for number in range(20):
        for file in files[number::20]:
            (folder / file.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(file, folder / file.parent.name / file.name)
        process = analyse(folder, tmp_path / "root")
        time.sleep(moments.uniform(0.2, 1.0))  # the moment is what is drawn by lot here; nothing is waited for
        process.kill()
        process.communicate()

    finish(analyse(folder, tmp_path / "root"))

    assert summary_bytes(tmp_path / "root") == summary_bytes(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_folder_full_of_traps_is_survived(replays: Path, tmp_path: Path):
    """A pipe, an empty file, a folder named like a replay, a dangling link; the one good replay is learnt from."""
    folder = tmp_path / "replays"
    folder.mkdir()
    os.mkfifo(folder / "pipe.SC2Replay")
    (folder / "empty.SC2Replay").touch()
    (folder / "folder.SC2Replay").mkdir()
    (folder / "link.SC2Replay").symlink_to(folder / "nowhere")
    good = sorted((replays / "zerg_1v1").glob("tsl8*"))[0]
    shutil.copyfile(good, folder / "good.sc2replay")

    finish(analyse(folder, tmp_path / "root", "--details", str(tmp_path / "details")))

    lines = [json.loads(line) for line in (tmp_path / "details").read_text().splitlines()]
    assert {Path(line["file"]).stem: line["reason"] for line in lines} == {
        "pipe": "not-a-file",
        "empty": "empty-file",
        "folder": "not-a-file",
        "link": "no-access",
        "good": "",
    }
