"""The summary says what replays teach, and nothing else; the same replays give the same bytes."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_fakes import a_player, a_result

from background_training.starcraft import learned_build_orders
from background_training.starcraft.replays import report, summary
from background_training.starcraft.replays.analysis import ReplayResult
from background_training.starcraft.replays.summary import median_low, spread_of


def summarise(
    *results: ReplayResult, files: Mapping[str, int] | None = None, without: Mapping[str, int] | None = None
) -> dict[str, Any]:
    held = {result["sha256"]: 1 for result in results} if files is None else files
    return summary.summarise(results, held, without or {})


def test_a_bot_finds_the_flat_keys_and_how_many_stand_behind_each():
    """Existing bots read the flat keys; what nobody built is left out."""
    found = summarise(a_result("a", a_player(pool_supply=17)), a_result("b", a_player(pool_supply=14)), a_result("c", a_player()))

    assert (found["spawning_pool_supply"], found["natural_expansion_supply"], found["gas_supply"]) == (17, 17, 18)
    assert found["flat_keys"]["players"] == {"spawning_pool_supply": 3, "natural_expansion_supply": 3, "gas_supply": 3}
    assert "hive_supply" not in found


def test_no_zerg_at_all_is_said_and_no_value_is_invented():
    """ "0 of 30" and not a single default."""
    found = summarise(*(a_result(f"{number}", reason="no-zerg") for number in range(30)))

    assert found["summary"].startswith("0 of 30 replays")
    assert found["counts"] == {"seen": 30, "learnt": 0, "players": 0, "skipped": {"no-zerg": 30}}
    assert not set(summary.FLAT_KEYS) & set(found)
    assert found["groups"] == {}
    assert "0 of 30" in summary.table(found)


def test_starts_opponents_and_results_are_never_mixed():
    """Each combination has a group of its own, and "any" joins opponents and results, but never starts."""
    results = (
        a_result("a", a_player(72.0)),
        a_result("b", a_player(45.0, opponent_race="Protoss", result="Loss")),
        a_result("c", a_player(30.0, start_supply=6)),
    )

    groups = summarise(*results)["groups"]

    assert {start: sorted(races) for start, races in groups.items()} == {
        "6": ["Terran", "any"],
        "12": ["Protoss", "Terran", "any"],
    }
    assert groups["12"]["Terran"]["Win"]["timings"]["spawning_pool"]["seconds"]["median"] == 72.0
    assert groups["12"]["Protoss"]["Loss"]["timings"]["spawning_pool"]["seconds"]["median"] == 45.0
    assert groups["12"]["any"]["any"]["players"] == 2
    assert groups["6"]["any"]["any"]["timings"]["spawning_pool"]["seconds"]["median"] == 30.0


def test_flat_keys_come_from_the_start_most_players_had():
    """Two games of 12 outweigh one of 6; the file says which it took."""
    results = a_result("a", a_player()), a_result("b", a_player()), a_result("c", a_player(start_supply=6, pool_supply=9))

    found = summarise(*results)

    assert (found["flat_keys"]["start_supply"], found["spawning_pool_supply"]) == (12, 17)


def test_an_opening_is_represented_by_a_game_that_was_played():
    """Not by a mean: the game nearest to the medians stands for it, with its own build order."""
    results = [a_result(f"{number}", a_player(seconds, 17)) for number, seconds in enumerate((60.0, 70.0, 72.0, 95.0))]
    results.append(a_result("rush", a_player(18.0, 12, opening="early-pool", opening_text="12 pool")))

    openings = summarise(*results)["groups"]["12"]["any"]["any"]["openings"]

    assert [(opening["opening"], opening["n"], opening["share"]) for opening in openings] == [
        ("hatch-gas-pool", 4, 0.8),
        ("early-pool", 1, 0.2),
    ]
    assert openings[0]["replay"] == "1"
    assert openings[0]["text"] == "17 hatch, 18 gas, 17 pool"
    assert openings[0]["build_order"][-1] == [17, 70.0, "SpawningPool"]


def test_a_game_recorded_twice_is_learnt_once():
    """Both players saved it; the longer recording counts, and of equally long ones always the same."""
    long, short = (
        a_result(name, a_player(), identity="one game", seconds=seconds) for name, seconds in (("b", 600.0), ("a", 500.0))
    )

    found = summarise(long, short)

    assert found["counts"] == {"seen": 2, "learnt": 1, "players": 1, "skipped": {"duplicate": 1}}
    assert found["groups"]["12"]["any"]["any"]["openings"][0]["replay"] == "b"


def test_copies_of_a_file_and_files_without_content_are_counted():
    """One content in three files is learnt once and a duplicate twice."""
    found = summarise(
        a_result("a", a_player()), a_result("b", reason="no-zerg"), files={"a": 3, "b": 1}, without={"not-a-file": 2}
    )

    assert found["counts"]["seen"] == 6
    assert found["counts"]["skipped"] == {"duplicate": 2, "no-zerg": 1, "not-a-file": 2}


def test_what_was_learnt_stays_when_its_file_is_gone_and_failures_go():
    """Results outlive their files; an unreadable file that was deleted is no longer worth a word."""
    found = summarise(a_result("a", a_player()), a_result("b", reason="unreadable"), files={})

    assert found["counts"] == {"seen": 1, "learnt": 1, "players": 1, "skipped": {}}


@given(st.randoms(use_true_random=False))
def test_the_order_of_results_does_not_matter(shuffler: random.Random):
    """The same results give the same bytes in any order, ties included."""
    results = [a_result(f"{number}", a_player(70.0 + number % 3, 16 + number % 2)) for number in range(9)]
    results += [a_result(f"copy {number}", a_player(), identity=f"game {number}") for number in range(3)]
    shuffled = list(results)
    shuffler.shuffle(shuffled)

    assert summary.to_bytes(summarise(*shuffled)) == summary.to_bytes(summarise(*results))


@given(st.lists(st.floats(0, 3600, allow_nan=False), min_size=1, max_size=40))
def test_median_and_spread_are_numpys(numbers: list[float]):
    """Two lines of ours against NumPy's quantile."""
    found = spread_of(numbers)

    wanted = [float(value) for value in np.quantile(numbers, [0.5, 0.1, 0.9])]
    assert [found["median"], found["p10"], found["p90"]] == pytest.approx(wanted, abs=0.006)
    assert median_low(numbers) in numbers


def test_the_file_is_json_with_short_lines():
    """People read it too: a timing is one line, not nine."""
    data = summary.to_bytes(summarise(a_result("a", a_player(name="[br]ack{et}s"))))

    assert json.loads(data)["groups"]["12"]["any"]["any"]["openings"][0]["player"] == "[br]ack{et}s"
    assert b'"seconds": { "median": 72.0, "p10": 72.0, "p90": 72.0 }' in data


def test_a_reader_gets_the_learnt_values_over_its_defaults(tmp_path: Path):
    """What replays do not tell stays the bot's own."""
    path = tmp_path / "learned_build_orders.json"
    path.write_bytes(summary.to_bytes(summarise(a_result("a", a_player()))))

    found = learned_build_orders.read_build_orders(path, {"spawning_pool_supply": 13, "hive_supply": 120})

    assert (found["spawning_pool_supply"], found["hive_supply"]) == (17, 120)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_a_reader_without_a_usable_file_says_so_and_goes_on(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Missing, empty or broken: the defaults, and one line in the log that names the file."""
    path = tmp_path / "learned_build_orders.json"
    if content is not None:
        path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        found = learned_build_orders.read_build_orders(path, {"spawning_pool_supply": 13})

    assert found == {"spawning_pool_supply": 13}
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_own_and_learnt_values_are_weighed_by_the_games_behind_them():
    """Thirty own games at 14 and ten learnt at 18 make 15; a value without games gives way; a foreign file changes nothing."""
    learnt = {
        "spawning_pool_supply": 18,
        "gas_supply": 16,
        "lair_supply": 60,
        "flat_keys": {"players": dict.fromkeys(summary.FLAT_KEYS, 10)},
    }

    own = {"spawning_pool_supply": 14.0, "gas_supply": 20.0}
    mixed = learned_build_orders.integrate(own, {"spawning_pool_supply": 30}, learnt)

    assert mixed == {"spawning_pool_supply": 15.0, "gas_supply": 16.0, "lair_supply": 60.0}
    assert learned_build_orders.integrate({"gas_supply": 20.0}, {}, {"gas_supply": 3, "flat_keys": None}) == {"gas_supply": 20.0}


def test_the_report_is_a_page_with_every_timing_and_player():
    """Names from replays are text, never markup."""
    results = (a_result("a", a_player(name="<b>Dark</b>")), a_result("b", a_player(45.0, opponent_race="Zerg")))

    page = report.report_html(summarise(*results), summary.learnt_players(results), {"a": "final & last.SC2Replay"})

    assert page.count("<svg") == page.count("</svg>") == 3
    assert "&lt;b&gt;Dark&lt;/b&gt;" in page and "<b>Dark" not in page
    assert "final &amp; last.SC2Replay" in page
    assert "v Zerg" in page and "v Terran" in page


@given(st.lists(st.floats(0, 20_000, allow_nan=False), min_size=1, max_size=20))
def test_every_dot_lies_between_the_ends_of_its_axis(seconds: list[float]):
    """Few marks, and room for all numbers, from one second to five hours."""
    axis = report.axis_for(seconds)

    assert axis.start <= min(seconds) <= max(seconds) <= axis.end
    assert 2 <= len(axis.ticks) <= report.TICKS_AT_MOST + 1
