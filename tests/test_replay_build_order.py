"""A build order says what was ordered, when, and at which supply; each rule in a game of a few events."""

from __future__ import annotations

from replay_fakes import TERRAN, ZERG, building, hatching, in_order, start_of_game

from background_training.starcraft.replays import build_order
from background_training.starcraft.replays.build_order import SupplyCount, opening_of, read_build_order
from background_training.starcraft.replays.game import Born, Changed, Died, Done, Event, Researched, Started


def lines_of(*parts: list[Event]) -> list[tuple[int, int, str]]:
    return [tuple(order) for order in read_build_order(in_order(*parts), ZERG)]


def test_what_is_there_at_loop_0_is_no_order():
    """The start hatchery, the first drones and the first overlord were never ordered."""
    assert lines_of(start_of_game()) == []


def test_a_unit_is_ordered_when_its_egg_begins():
    """A drone takes 272 loops, so one born at loop 282 was ordered at loop 10."""
    assert lines_of(start_of_game(), hatching(1, "Drone", 10, 272)) == [(12, 10, "Drone")]


def test_two_zerglings_of_one_egg_are_one_order():
    """Two births in one loop are a pair; four are two pairs."""
    pairs = [Born(1384, 1 + number, "Zergling", ZERG) for number in range(4)]

    assert lines_of(start_of_game(), pairs) == [(12, 1000, "Zergling"), (13, 1000, "Zergling")]


def test_a_lone_zergling_is_one_order_too():
    """Of a pair of which one never came, one is left; the next pair is not torn by it."""
    births = [Born(1384, 1, "Zergling", ZERG), Born(1400, 2, "Zergling", ZERG), Born(1400, 3, "Zergling", ZERG)]

    assert [line[2] for line in lines_of(start_of_game(), births)] == ["Zergling", "Zergling"]


def test_a_cancelled_building_was_never_ordered():
    """Started, died, never done: the extractor trick is no extractor."""
    trick = [Started(500, 1, "Extractor", ZERG), Died(530, 1)]

    assert lines_of(start_of_game(), trick, hatching(2, "Drone", 520, 272)) == [(11, 520, "Drone")]


def test_a_building_unfinished_at_the_end_was_ordered():
    """The game may end while a building stands unfinished; it was ordered all the same."""
    assert lines_of(start_of_game(), [Started(900, 1, "SpawningPool", ZERG)]) == [(12, 900, "SpawningPool")]


def test_a_drone_inside_an_unfinished_building_does_not_count():
    """17 hatch, 18 gas, 17 pool: each building takes a drone off the count at its start, not at its end."""
    story = building(1, "Hatchery", 100, drone=1001, loops=1600), building(2, "Extractor", 200, drone=1002)

    assert [line[0] for line in lines_of(start_of_game(), *story, hatching(3, "Drone", 2000, 272))] == [12, 11, 10]


def test_a_cancelled_building_gives_its_drone_back():
    """After the cancel the drone works again, and counts again."""
    events = in_order(start_of_game(), [Started(100, 1, "Extractor", ZERG), Died(150, 1)])

    assert [SupplyCount(events, ZERG).at(loop) for loop in (100, 101, 150, 151)] == [12, 11, 11, 12]


def test_a_lair_is_ordered_before_its_type_changes():
    """The morph takes 1280 loops and shows nothing until it is over."""
    change = [Changed(5280, 1000, "Lair")]

    assert lines_of(start_of_game(), change) == [(12, 4000, "Lair")]


def test_a_cocoon_is_the_order_and_what_leaves_it_the_item():
    """An overseer is ordered when its cocoon begins; landing and taking off again is no order."""
    overlord = [Changed(3000, 1099, "OverlordCocoon"), Changed(3266, 1099, "Overseer")]
    flight = [Changed(4000, 1099, "OverseerSiegeMode"), Changed(4100, 1099, "Overseer")]

    assert lines_of(start_of_game(), overlord, flight) == [(12, 3000, "Overseer")]


def test_creep_tumours_larvae_and_spells_are_no_orders():
    """What a queen or an infestor puts down is in no build order."""
    others = [
        Started(900, 1, "CreepTumorQueen", ZERG),
        Done(1100, 1),
        Born(600, 2, "Larva", ZERG),
        Born(700, 3, "Broodling", ZERG),
    ]

    assert lines_of(start_of_game(), others, hatching(4, "Drone", 1000, 272)) == [(12, 1000, "Drone")]


def test_the_opponent_is_left_out():
    """Two Zerg play one game; each has a build order of their own."""
    events = in_order(
        start_of_game(), start_of_game(TERRAN), hatching(1, "Drone", 10, 272), hatching(2, "Overlord", 20, 400, TERRAN)
    )

    assert [order.item for order in read_build_order(events, ZERG)] == ["Drone"]
    assert [order.item for order in read_build_order(events, TERRAN)] == ["Overlord"]


def test_orders_of_one_loop_find_the_supply_the_ones_before_left():
    """Three larvae morph with one key: 12, 13, 14."""
    drones = [Born(1272, number, "Drone", ZERG) for number in (1, 2, 3)]

    assert [line[0] for line in lines_of(start_of_game(), drones)] == [12, 13, 14]


def test_supply_falls_with_the_dead():
    """Two roaches die: four supply less."""
    roaches = [*hatching(1, "Roach", 100, 432), *hatching(2, "Roach", 100, 432), Died(700, 1), Died(710, 2)]
    count = SupplyCount(in_order(start_of_game(), roaches), ZERG)

    assert [count.at(loop) for loop in (100, 101, 701, 711)] == [12, 16, 14, 12]


def test_a_morph_takes_the_supply_of_what_it_becomes_at_once():
    """A roach takes two, the ravager in its cocoon three."""
    events = in_order(
        start_of_game(), hatching(1, "Roach", 100, 432), [Changed(900, 1, "RavagerCocoon"), Changed(1100, 1, "Ravager")]
    )
    count = SupplyCount(events, ZERG)

    assert [count.at(loop) for loop in (900, 901, 1200)] == [14, 15, 15]


def test_burrowing_changes_nothing():
    """A burrowed roach eats as much as before, and was ordered once."""
    events = in_order(
        start_of_game(), hatching(1, "Roach", 100, 432), [Changed(900, 1, "RoachBurrowed"), Changed(950, 1, "Roach")]
    )

    assert SupplyCount(events, ZERG).at(1000) == 14
    assert [order.item for order in read_build_order(events, ZERG)] == ["Roach"]


def test_key_timings_are_starts_in_seconds_and_supply():
    """Loops are divided by 22.4; the start hatchery is base 1, so the first one ordered is base 2."""
    events = in_order(
        start_of_game(),
        building(1, "Hatchery", 1120, drone=1001, loops=1600),
        building(2, "ExtractorRich", 1344, drone=1002),
        building(3, "SpawningPool", 1568, drone=1003, loops=1040),
        hatching(4, "Queen", 2800, 800),
        [Researched(1760 + 3136, ZERG, "zerglingmovementspeed"), Researched(9000, TERRAN, "zerglingmovementspeed")],
    )

    found = build_order.key_timings(read_build_order(events, ZERG), events, ZERG)

    assert found == {
        "spawning_pool": (70.0, 10),
        "extractor": (60.0, 11),
        "base_2": (50.0, 12),
        "queen": (125.0, 9),
        "metabolic_boost": (140.0, 11),
    }


def test_openings_are_told_apart_by_what_comes_first():
    """The key counts openings, the text is the player's own."""
    hatch, gas, pool = (17, 50.0, "Hatchery"), (18, 65.0, "Extractor"), (17, 72.0, "SpawningPool")

    assert opening_of([hatch, gas, pool], 12) == ("hatch-gas-pool", "17 hatch, 18 gas, 17 pool")
    assert opening_of([gas, pool, hatch], 12) == ("gas-pool", "18 gas, 17 pool, 17 hatch")
    assert opening_of([(12, 18.0, "SpawningPool"), hatch], 12) == ("early-pool", "12 pool, 17 hatch")
    assert opening_of([pool, hatch, gas], 12) == ("pool-first", "17 pool, 17 hatch, 18 gas")
    assert opening_of([(12, 18.0, "SpawningPool")], 6) == ("pool-first", "12 pool")
    assert opening_of([(12, 1.0, "Drone")], 12) == ("no-pool", "")
