"""What the page draws of a long history is what slow loops say, and few points whatever its length."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

from background_training.monitor import history
from background_training.monitor.web import charts
from background_training.records import metrics
from background_training.records.metrics import BATCHES, GAMES

RANDOM = np.random.default_rng(7)


def _games(count: int, *, most_weight: int = 1) -> np.ndarray:
    games = np.zeros(count, GAMES)
    games["weight"] = RANDOM.integers(1, most_weight + 1, count)
    games["version"] = 1 + np.arange(count) // 3
    games["moment"] = 1_700_000_000 + 1.5 * np.arange(count)
    games["steps"] = RANDOM.integers(1, 300, count)
    games["episode_return"] = RANDOM.normal(size=count) * 20
    games["episode_return"][RANDOM.random(count) < 0.1] = np.nan
    games["result"] = RANDOM.integers(0, 4, count)
    games["opponent"] = RANDOM.choice(np.array([b"", "Zerg ☃".encode(), b"Terran", b"<b>"]), count)
    return games


def _batches(count: int) -> np.ndarray:
    batches = np.zeros(count, BATCHES)
    batches["version"], batches["weight"] = np.arange(count) + 1, 1
    for name in ("policy_loss", "entropy", "cpu_percent", "train_seconds"):
        batches[name] = RANDOM.random(count)
    return batches


def _close(found: object, wanted: object) -> None:
    np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("count", "window", "weight"), [(1, 10, 1), (40, 1, 1), (40, 7, 1), (60, 10, 5), (30, 1000, 3)])
def test_smoothing_is_the_mean_of_the_last_games(count: int, window: int, weight: int) -> None:
    """Games without a return count in how far the window reaches, and not in the mean."""
    games = _games(count, most_weight=weight)
    values, weights = games["episode_return"].astype(float), games["weight"].astype(float)
    wanted = []
    for end in range(count):
        total = seen = reach = 0.0
        for place in range(end, -1, -1):
            if reach >= window:
                break
            reach += weights[place]
            if math.isfinite(values[place]):
                total, seen = total + weights[place] * values[place], seen + weights[place]
        wanted.append(total / seen if seen else math.nan)
    _close(history.trailing_mean(values, weights, window), wanted)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (23, 5), (100, 7)])
def test_buckets_are_means_of_stretches(count: int, most: int) -> None:
    """Every record is in one bucket, in order; unknown values weigh nothing."""
    games = _games(count, most_weight=4)
    values, weights = games["episode_return"].astype(float), games["weight"].astype(float)
    size = min(most, count)
    wanted = []
    for bucket in range(size):
        places = range(bucket * count // size, (bucket + 1) * count // size)
        known = [place for place in places if math.isfinite(values[place])]
        seen = sum(weights[place] for place in known)
        wanted.append(sum(weights[place] * values[place] for place in known) / seen if seen else math.nan)
    (found,) = history.bucket_means([values], weights, most)
    _close(found, wanted)


def test_groups_are_counted_one_by_one() -> None:
    """Records that stand for several games count for several; those without a name are in no group."""
    games = _games(300, most_weight=3)
    wanted = {}
    for name in {bytes(game["opponent"]) for game in games} - {b""}:
        mine = [game for game in games if bytes(game["opponent"]) == name]
        known = [game for game in mine if math.isfinite(game["episode_return"])]
        mean = sum(float(g["episode_return"]) * int(g["weight"]) for g in known) / sum(int(g["weight"]) for g in known)
        counts = [sum(int(g["weight"]) for g in mine if g["result"] in codes) for codes in ([0, 1, 2, 3], [1], [1, 2, 3])]
        wanted[metrics.text_of(name)] = (*counts, mean)
    found, more = history.groups(games, "opponent")
    assert more == 0 and [group.games for group in found] == sorted((group.games for group in found), reverse=True)
    assert {group.name: (group.games, group.won, group.decided) for group in found} == {k: v[:3] for k, v in wanted.items()}
    for group in found:
        assert group.mean_return == pytest.approx(wanted[group.name][3])
    assert history.groups(games, "opponent", most=1)[1] == len(wanted) - 1


def test_rates_add_up_to_the_games() -> None:
    """Each game of the last hour is in one stretch."""
    games = _games(5000, most_weight=2)
    found = history.rates(games)
    assert found is not None and len(found.moments) <= 61
    recent = games[games["moment"] >= games["moment"][-1] - 3600]
    assert sum(found.games_per_minute) * found.seconds / 60 == pytest.approx(recent["weight"].sum())
    assert sum(found.steps_per_second) * found.seconds == pytest.approx((recent["weight"] * recent["steps"]).sum())
    assert history.rates(games[:0]) is None


def test_distribution_holds_all_games() -> None:
    """Also those beyond its edges, so that both sum up to 100 %; one extreme game does not set the edges."""
    games = _games(2000)
    games["episode_return"][5] = 1e9
    found = history.distribution(games)
    assert found is not None
    assert sum(found.first) == pytest.approx(100) and sum(found.last) == pytest.approx(100)
    assert found.edges[-1] < 1e3
    same = _games(10)
    same["episode_return"] = 3.0
    assert history.distribution(same) is not None and history.distribution(same[:1]) is None


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 7), (3, 95), (1, 44_000), (990_001, 1_000_000)])
def test_version_marks_are_round_and_few(first: int, last: int) -> None:
    """Each where its version begins."""
    versions = np.repeat(np.arange(first, last + 1), 2)
    marks = history.version_marks(versions)
    assert 1 <= len(marks) <= 9
    assert all(versions[place] == version and (place == 0 or versions[place - 1] == version - 1) for place, version in marks)
    assert history.version_marks(versions[:0]) == []


@pytest.mark.parametrize("count", [0, 1, 2, 50, 131_072])
def test_charts_are_small_and_plain(count: int) -> None:
    """However long the history, all charts together are some 100 KB of JSON; where there is nothing, words say so."""
    drawn = charts.charts(_batches(count // 4), _games(count, most_weight=8))
    text = json.dumps({name: chart.options for name, chart in drawn.items()}, allow_nan=False)
    assert len(text) < 150_000
    assert all(chart.options or chart.empty for chart in drawn.values())
    assert not _keys_that_would_be_run(json.loads(text))


def test_names_of_strangers_are_values_and_never_keys() -> None:
    """The library runs what stands under a key with a colon, so no foreign text may become a key."""
    games = _games(4)
    games["opponent"] = games["map"] = b":formatter"
    games["result"] = metrics.WON
    drawn = charts.charts(_batches(1), games)
    assert ":formatter" in json.dumps(drawn["opponents"].options)
    assert not _keys_that_would_be_run(json.loads(json.dumps({name: chart.options for name, chart in drawn.items()})))


def _keys_that_would_be_run(value: object) -> list[str]:
    if isinstance(value, dict):
        return [key for key in value if ":" in key] + [key for item in value.values() for key in _keys_that_would_be_run(item)]
    return [key for item in value for key in _keys_that_would_be_run(item)] if isinstance(value, list) else []


def test_a_full_history_is_drawn_quickly_enough() -> None:
    """Not timed to the millisecond, as that is a benchmark's work; but no loop in Python over all games."""
    games, batches = _games(131_072), _batches(32_768)
    begun = time.process_time()
    charts.charts(batches, games)
    assert time.process_time() - begun < 10
