"""The guard notices that games have become worse, goes back to the best version by itself, and cries wolf rarely."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import commands
import episodes
import learner_runs
import numpy as np
import pytest

from background_training.algo import sequential_test
from background_training.algo.sequential_test import Bound
from background_training.learner import drain as drains
from background_training.learner import publish
from background_training.learner import regression_guard as guards
from background_training.learner.regression_guard import GuardEvidence
from background_training.paths import Paths
from background_training.records import ledger_lines, status
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import BY_ANOTHER_PROGRAM, CHECKPOINT, PUBLISHED, ROLLED_BACK
from background_training.settings import GuardSettings
from background_training.storage import atomic_files, model_store

GUARD = GuardSettings(enabled=True, evaluation_episodes=6, false_alarm_episodes=30.0)


# The test, against enumeration and simulation


def _evidence(shortfalls: Any) -> list[float]:
    evidence, found = sequential_test.NO_EVIDENCE, []
    for shortfall in shortfalls:
        evidence = sequential_test.more(evidence, shortfall)
        found.append(sequential_test.strength(evidence))
    return found


def test_the_mean_evidence_of_games_that_are_just_good_enough_is_their_number():
    """Over all sequences of a fair coin, exactly: that is what the false alarm rate rests on."""
    steps = 10
    means = np.mean([_evidence(coins) for coins in itertools.product((-1.0, 1.0), repeat=steps)], axis=0)
    assert means == pytest.approx(np.arange(1, steps + 1), rel=1e-12)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.choice([-1.0, 1.0], shape),
        lambda rng, shape: rng.uniform(-1.0, 1.0, shape),
        lambda rng, shape: np.where(rng.random(shape) < 0.25, 3.0, -1.0),
        lambda rng, shape: np.where(rng.random(shape) < 0.9, -1.0 / 9.0, 1.0),
    ],
    ids=["coin", "uniform", "rare disasters", "common small gains"],
)
def test_false_alarms_are_as_rare_as_stated(draw):
    """Returns of exactly the needed mean, of any distribution: at most n / A of runs of n games ring, within their error."""
    rng, runs, games, limit = np.random.default_rng(5), 4000, 100, 1000.0
    totals, rang = np.zeros((3, runs)), np.zeros(runs, bool)
    for shortfalls in draw(rng, (games, runs)):
        totals = (totals + 1.0) * (1.0 + np.array([[0.2], [0.5], [0.9]]) * shortfalls)
        rang |= totals.mean(axis=0) >= limit
    assert rang.mean() <= games / limit + 3 * np.sqrt(0.1 * 0.9 / runs)


def test_the_simulation_above_counts_as_the_code_does():
    """Its shortcut for many runs at once gives what `more` gives for one."""
    shortfalls = np.random.default_rng(1).uniform(-1.0, 1.0, 50)
    totals = np.zeros(3)
    for shortfall in shortfalls:
        totals = (totals + 1.0) * (1.0 + np.array([0.2, 0.5, 0.9]) * shortfall)
    assert _evidence(shortfalls)[-1] == pytest.approx(totals.mean())


def test_a_return_counts_within_bounds():
    """Above the cap no more than the cap; far below no more than three units."""
    bound = Bound(needed=100.0, cap=150.0)
    assert [bound.shortfall(value) for value in (1e9, 150.0, 100.0, 75.0, -1e9)] == [-1.0, -1.0, 0.0, 0.5, 3.0]


# What the guard knows


def _line(value: float, seq: int, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "sha256": "", "name": "a.npz", "fate": "trained", "return": value, "policy_version": seq - 1} | more


def _published(seq: int, fate: str = ROLLED_BACK, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "sha256": "", "name": "model", "fate": fate} | more


def _watch(values: list[float], watch: GuardEvidence | None = None, first_seq: int = 1) -> GuardEvidence:
    watch = watch or GuardEvidence(GUARD)
    for index, value in enumerate(values):
        watch.add(_line(value, first_seq + index))
    return watch


RISEN = [20.0, 22, 18, 21, 19, 20, 200, 190, 210, 195, 205, 200]


def test_a_fall_is_noticed_within_an_evaluation():
    """From 200 back to 20: the middle version of the best stretch is the one to go back to."""
    watch = _watch(RISEN)
    assert watch.best is not None and watch.best.version == 9 and not watch.alarm

    rang = [index for index in range(GUARD.evaluation_episodes) if _watch([20.0], watch, 13 + index).alarm]

    assert rang and rang[0] < GUARD.evaluation_episodes


def test_the_example_of_the_docs_rings_after_thirteen_games():
    """With the default settings: a first stretch of 20, a best of 500, then 20 again."""
    watch = GuardEvidence(GuardSettings(enabled=True))
    _watch([20.0] * 20 + [500.0] * 20, watch)
    rang = [game for game in range(1, 21) if _watch([20.0], watch, 40 + game).alarm]
    assert rang[0] == 13


@pytest.mark.parametrize("values", [[20.0] * 40, RISEN + [150.0, 130, 170, 120, 140, 160] * 5, RISEN + [300.0] * 20])
def test_no_alarm_without_a_fall(values):
    """Never better, worse within the tolerance, better: nothing happens."""
    assert not _watch(values).alarm


def test_games_of_versions_before_a_rollback_do_not_count():
    """They were under way when it happened, and say nothing about the version that took the place."""
    watch = _watch([*RISEN, *[20.0] * 6])
    watch.add(_published(40))
    for _ in range(30):
        watch.add(_line(20.0, 41, policy_version=15))
    assert not watch.alarm


def test_an_alarm_that_nobody_heeded_is_forgotten():
    """The guard was off then; who switches it on is not sent back to long ago."""
    watch = _watch([*RISEN, *[20.0] * 6])
    assert watch.alarm
    watch.add(_line(190.0, 40))
    assert not watch.alarm


def test_a_best_version_that_is_no_longer_good_is_given_up():
    """The opponent has become stronger, say: going back would help as little the second time, and every time after."""
    watch = _watch([*RISEN, *[20.0] * 6])
    watch.add(_published(40))
    for seq in range(41, 60):
        watch.add(_line(20.0, seq, policy_version=40))
    assert not watch.alarm and "starts again" in watch.notice


def test_a_best_version_that_proves_good_again_is_gone_back_to_as_often_as_needed():
    """Each fall has a cause of its own, such as one more poisoned batch; nothing is given up."""
    watch = _watch(RISEN)
    for first in (20, 40, 60, 80, 100):
        _watch([20.0] * 6, watch, first)
        assert watch.alarm
        watch.add(_published(first + 10))
        _watch([200.0] * 5, watch, first + 11)
    assert watch.best is not None and watch.best.version == 9


@pytest.mark.parametrize(("by", "kept"), [("hand", False), (BY_ANOTHER_PROGRAM, True)])
def test_a_person_decides_and_another_program_does_not(by, kept):
    """After a rollback by hand the guard begins anew; a model that somebody wrote over ours is held to the old measure."""
    watch = _watch(RISEN)
    watch.add(_published(40, PUBLISHED, by=by))
    assert (watch.best is not None) == kept
    assert _watch([20.0] * 6, watch, 41).alarm == kept


# Its state in the ledger


def _any_line(rng: random.Random, seq: int) -> dict[str, Any]:
    kind = rng.random()
    if kind < 0.06:
        return _published(seq, by=rng.choice(("guard", "hand", BY_ANOTHER_PROGRAM)))
    if kind < 0.1:
        return {"seq": seq, "sha256": "", "name": "a.npz", "fate": "stale", "reason": "old"}
    return _line(rng.choice((20.0, 200.0, -1e300, 0.1)) * rng.random(), seq, policy_version=seq - rng.randrange(1, 9))


@pytest.mark.parametrize("seed", range(6))
def test_a_restored_watch_sees_what_the_one_before_would_have_seen(seed: int) -> None:
    """Its state is written and read as JSON at any line, and all that follows is the same to the last bit."""
    rng = random.Random(seed)
    kept, restored = GuardEvidence(GUARD), GuardEvidence(GUARD)
    for seq in range(1, 300):
        line = _any_line(rng, seq)
        kept.add(line)
        restored.add(line)
        if rng.random() < 0.2:
            again = GuardEvidence.restored(GUARD, json.loads(json.dumps(restored.state())))
            assert again is not None
            restored = again
        assert restored.state() == kept.state() and (restored.alarm, restored.best) == (kept.alarm, kept.best)
    assert kept.best is not None


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"format": 2},
        {"best": {"version": 1}},
        {"best": 5},
        {"evidence": [1.0]},
        {"evidence": None},
        {"stretch": [[1.0]]},
        {"since": "x"},
        {"settings": {"evaluation_episodes": 7}},
    ],
)
def test_a_state_that_does_not_fit_is_no_state(state: dict[str, Any]) -> None:
    """Of other settings, of other code, or written by a stranger: the lines are seen from the first one on."""
    whole = _watch(RISEN).state()
    assert GuardEvidence.restored(GUARD, whole) is not None
    assert GuardEvidence.restored(GUARD, whole | state if state else {}) is None


def _seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions of the lines that any watch sees from now on."""
    seen: list[int] = []
    see = GuardEvidence.add

    def noting(self: GuardEvidence, line: Any) -> None:
        seen.append(line["seq"])
        see(self, line)

    monkeypatch.setattr(GuardEvidence, "add", noting)
    return seen


def _opened_guard(paths: Paths, **more: Any) -> guards.RegressionGuard:
    settings = learner_runs.settings(paths.root).with_values(
        "test", guard={"enabled": True, "evaluation_episodes": 6, "false_alarm_episodes": 30.0} | more
    )
    return guards.RegressionGuard(paths, settings, Ledger(paths.ledger, durable=False))


def test_a_start_reads_only_what_came_after_its_checkpoint(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is a line of the ledger; other settings read all of them again."""
    monkeypatch.setattr(guards, "LINES_PER_CHECKPOINT", 10)
    for index, value in enumerate(RISEN):
        Ledger(paths.ledger, durable=False).append([_line(value, index + 1)])
    first = _opened_guard(paths)
    Ledger(paths.ledger, durable=False).append([_line(20.0, 13), _line(20.0, 14)])

    seen = _seen(monkeypatch)
    again = _opened_guard(paths)

    assert seen == [13, 14] and first.watch.best == again.watch.best is not None
    assert again.watch.state() == _watch([*RISEN, 20.0, 20.0]).state()
    _opened_guard(paths, tolerance=0.25)
    assert len(seen) > len(RISEN)


def test_drains_with_checkpoints_decide_as_those_without(fallen: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three drains, each a start of its own: the same versions, the same rollback, and checkpoints in the ledger."""
    other = Paths(tmp_path / "other")
    shutil.copytree(fallen.root, other.root)
    for first in (20, 30, 40):
        _drain(other.root)
        _play(other, range(first, first + 6), 20.0)
    monkeypatch.setattr(guards, "LINES_PER_CHECKPOINT", 4)
    for first in (20, 30, 40):
        _drain(fallen.root)
        _play(fallen, range(first, first + 6), 20.0)

    lines = list(ledger_lines.read_lines(fallen.ledger))
    assert sum("guard" in line for line in lines) > 3 and _rollbacks(fallen)
    assert [line for line in lines if line["fate"] != CHECKPOINT] == list(ledger_lines.read_lines(other.ledger))
    assert _weights(fallen.model) == _weights(other.model)


# From outside: files, drains, rebuilds


def _settings(root: Path) -> Any:
    values = {"enabled": True, "evaluation_episodes": 6, "false_alarm_episodes": 30.0}
    return learner_runs.settings(root).with_values("test", guard=values)


def _drain(root: Path, said: list[str] | None = None) -> dict[str, Any]:
    return drains.drain(_settings(root), lambda event, **facts: said.append(str(facts)) if said is not None else None)


def _play(paths: Paths, numbers: range, reward: float) -> None:
    """Games of twelve steps, always by the newest version."""
    for number in numbers:
        rewards = np.full(12, reward + 0.01 * (number % 3), np.float32)
        log_probs = np.full(12, -1.0, np.float32)
        episodes.write(paths.buffer, f"{number:04d}.npz", number, rewards=rewards, log_probs=log_probs, policy_version=10_000)


def _fallen(paths: Paths) -> None:
    """Six games of little, six of much, six of little again; nothing of it trained yet."""
    _play(paths, range(6), 1.0)
    _play(paths, range(6, 12), 20.0)
    _play(paths, range(12, 18), 1.0)


def _weights(path: Path) -> bytes:
    return bytes(model_store.read(path).arrays["actor_weights"].tobytes())


@pytest.fixture
def fallen(paths: Paths) -> Paths:
    _fallen(paths)
    return paths


def _rollbacks(paths: Paths) -> list[dict[str, Any]]:
    return [line for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == ROLLED_BACK]


def test_the_learner_goes_back_by_itself_and_says_so(fallen: Paths) -> None:
    """The best version's weights are published under a new number; console, log, status and ledger tell of it."""
    said: list[str] = []
    stats = _drain(fallen.root, said)

    (line,) = _rollbacks(fallen)
    best = next(fallen.history.glob("best_v*.npz"))
    assert "rollback to version 3" in line["reason"] and stats["rollbacks"] == 1
    assert any("rollback to version 3" in sentence for sentence in said)
    assert "rollback to version 3" in fallen.training_log.read_text("utf-8")
    told = status.read(fallen)
    assert told is not None and told["stats"]["rollbacks"] == 1 and "version 3" in told["stats"]["guard"]
    base = next(path for path in fallen.history.glob("base_*.npz"))
    assert model_store.read(base).version == line["seq"] and _weights(base) == _weights(best)


def test_a_guard_that_is_off_does_nothing(fallen: Paths) -> None:
    """As it was without one: no rollback, no copy, and the status says that it is off."""
    stats = learner_runs.drain(fallen.root)
    assert not _rollbacks(fallen) and not list(fallen.history.glob("best_*")) and stats["guard"] == "off"


def test_what_follows_a_rollback_is_rebuilt_bit_for_bit(fallen: Paths) -> None:
    """The ledger leads through the rollback; and the bad games are not replayed after it."""
    _drain(fallen.root)
    _play(fallen, range(20, 32), 20.0)
    _drain(fallen.root)

    after = [line for line in ledger_lines.read_lines(fallen.ledger) if "base" in line][-1]
    assert after["base"]["version"] == _rollbacks(fallen)[0]["seq"] and after["recent"] == 0
    assert "Identical, bit for bit" in commands.run_tool("rebuild_model.py", fallen.root)


@pytest.mark.parametrize("place", ["before the rollback", "before its line"])
def test_killed_around_a_rollback_the_next_start_does_the_same(fallen: Paths, tmp_path: Path, monkeypatch, place: str) -> None:
    """What decides stands in the ledger, so a crash changes nothing but the time."""
    undisturbed = Paths(tmp_path / "other")
    shutil.copytree(fallen.root, undisturbed.root)
    _drain(undisturbed.root)

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*((publish, "commit") if place == "before the rollback" else (Ledger, "record_published")), die)
        _drain(fallen.root)
    _drain(fallen.root)

    assert learner_runs.picture(fallen) == learner_runs.picture(undisturbed)


@pytest.mark.parametrize("history_every", [2, 5, 1000])
@pytest.mark.parametrize("moment", ["before the copy", "before its rename", "after its rename"])
def test_killed_while_it_keeps_the_best_version_the_next_start_keeps_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, moment: str, history_every: int
) -> None:
    """The last batch makes another version the best, and nothing more is played: its copy is made from history or archive."""
    _play(paths, range(6), 1.0)
    _play(paths, range(6, 12), 20.0)
    settings = _settings(paths.root).with_values("test", learner={"history_every": history_every})
    write, replace = atomic_files.write_atomically, os.replace

    class Killed(BaseException):
        pass

    def killed_in_write(path: Path, data: bytes, *, durable: bool) -> None:
        if path.name != "best_v000000003.npz" or moment == "before its rename":
            write(path, data, durable=durable)
            return
        if moment == "after its rename":
            write(path, data, durable=durable)
        raise Killed

    def killed_in_replace(source: Path, target: Path) -> None:
        if moment == "before its rename" and Path(target).name == "best_v000000003.npz":
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(atomic_files, "write_atomically", killed_in_write)
        patch.setattr(os, "replace", killed_in_replace)
        drains.drain(settings, lambda event, **facts: None)
    for former in paths.history.glob("best_*.npz"):
        assert moment == "after its rename" or former.name != "best_v000000003.npz"

    drains.drain(settings, lambda event, **facts: None)

    [copy] = paths.history.glob("*best_*")
    assert copy.name == "best_v000000003.npz" and model_store.read(copy).version == 3


def test_a_rollback_outlives_the_loss_of_the_model(fallen: Paths) -> None:
    """The ledger knows of it: the bad version is not trained again and published."""
    _drain(fallen.root)
    published = fallen.model.read_bytes()
    (line,) = _rollbacks(fallen)
    assert model_store.read(fallen.model).version == line["seq"]

    fallen.model.unlink()
    _drain(fallen.root)

    assert fallen.model.read_bytes() == published and len(_rollbacks(fallen)) == 1


def test_a_bad_model_that_another_program_wrote_is_replaced(paths: Paths) -> None:
    """It is taken up as a version like any other, and its games return less."""
    _play(paths, range(6), 1.0)
    _play(paths, range(6, 12), 20.0)
    _drain(paths.root)
    model = model_store.read(paths.model)
    arrays = {
        name: -values if values.dtype.kind == "f" and "normaliser" not in name and "moment" not in name else values
        for name, values in model.arrays.items()
    }
    manifest = {key: value for key, value in model.manifest.items() if key != "commit"}
    paths.model.write_bytes(model_store.pack(arrays, model.version, manifest))

    _play(paths, range(20, 26), 1.0)
    _drain(paths.root)

    fates = [line["fate"] for line in ledger_lines.read_lines(paths.ledger)]
    assert [fate for fate in fates if fate in (PUBLISHED, ROLLED_BACK)] == [PUBLISHED, ROLLED_BACK]
    assert _weights(paths.model) == _weights(next(paths.history.glob("best_*.npz")))


def test_a_model_whose_weights_explode_is_not_taken_up(paths: Paths) -> None:
    """Another program's, a million times too large: training goes on from what was there before, guard or not."""
    _play(paths, range(6), 1.0)
    learner_runs.drain(paths.root)
    before = paths.model.read_bytes()
    model = model_store.read(paths.model)
    arrays = {**model.arrays, "actor_weights": model.arrays["actor_weights"] * np.float32(1e7)}
    manifest = {key: value for key, value in model.manifest.items() if key != "commit"}
    paths.model.write_bytes(model_store.pack(arrays, model.version, manifest))

    learner_runs.drain(paths.root)

    assert paths.model.read_bytes() == before and (paths.models / "rl_agent_model.npz.broken").exists()


def test_a_best_version_that_is_gone_is_said(fallen: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left to go back to, training goes on, and the guard begins anew."""
    missing = guards.LedgerError("ledger", "gone", "nothing")
    monkeypatch.setattr(guards.RegressionGuard, "_version", lambda self, version: (_ for _ in ()).throw(missing))
    said: list[str] = []
    _drain(fallen.root, said)
    assert not _rollbacks(fallen) and any("can't be restored" in sentence for sentence in said)


@pytest.mark.slow
def test_the_benchmark_finds_no_plant_that_stays() -> None:
    """A flipped sign in a real run of CartPole-v1, with a real learner."""
    pytest.importorskip("gymnasium")
    import subprocess
    import sys

    script = Path(__file__).parent.parent / "benchmarks" / "guard.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "| model: sign flipped | 1 |" in done.stdout, done.stdout + done.stderr
