"""tools/evaluate.py: the same games for every model, and intervals that say how much to believe."""

from __future__ import annotations

import json
import math
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from background_training import RLAgent
from background_training.algo import intervals
from background_training.paths import CHECKOUT, Paths
from background_training.spaces import Discrete
from tests.commands import run_tool

pytestmark = pytest.mark.slow  # real processes

pytest.importorskip("gymnasium", reason="the games extra is not installed")


def _fresh_model(root: Path, seed: int = 1, actions: int = 2) -> Path:
    agent = RLAgent(root=root, action_names=[str(number) for number in range(actions)], state_width=4, seed=seed)
    assert agent.save_model()
    return Paths(root).model


def _told(root: Path, *arguments: str, exit_code: int = 0) -> str:
    return run_tool("evaluate.py", root, "--game", "CartPole-v1", *arguments, exit_code=exit_code)


def _evaluated(root: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_told(root, "--json", *arguments))
    return found


def _remembered(root: Path) -> list[dict[str, Any]]:
    log = Paths(root).evaluations_log
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root whose model has learnt CartPole-v1 from forty games."""
    from background_training.algo import train_step
    from background_training.storage import model_store
    from tests.test_learning_real_game import SETTINGS, gymnasium, played

    root = tmp_path_factory.mktemp("learnt")
    _fresh_model(root)
    rng, game = np.random.default_rng(0), gymnasium.make("CartPole-v1", disable_env_checker=True)
    state, history = train_step.new_state(4, Discrete(2), SETTINGS), []
    for version in range(1, 41):
        history.append(played(game, state.policy, version - 1, rng, recorded=True))
        state, _ = train_step.learn(state, history[-1:], SETTINGS, version, history[:-1])
    game.close()
    fresh = model_store.read(Paths(root).model)
    Paths(root).model.write_bytes(model_store.pack(train_step.to_arrays(state), 40, fresh.manifest))
    yield root


def test_equal_seeds_give_equal_games(root: Path) -> None:
    """Two evaluations of one model agree to the last game, greedy and sampled; nothing is trained on."""
    _fresh_model(root)

    first, second = (_evaluated(root, "--episodes", "5", "--both") for _ in range(2))

    assert first == second and len(first["returns"]["greedy"]) == len(first["returns"]["sampled"]) == 5
    assert first["returns"]["greedy"] != first["returns"]["sampled"]
    assert not list(Paths(root).data.glob("buffer/*"))


def test_each_evaluation_is_remembered(root: Path) -> None:
    """One line each, with what was asked and what was found, but for the single returns."""
    _fresh_model(root)

    printed = [_evaluated(root, "--episodes", "3", flag) for flag in ("--sampled", "--both")]

    for line, shown in zip(_remembered(root), printed, strict=True):
        assert line.pop("schema") == 1 and line.pop("at") > 1.7e9
        assert line == {key: value for key, value in shown.items() if key != "returns"}


def test_learnt_model_is_told_from_a_fresh_one(learnt: Path, root: Path) -> None:
    """The acceptance: both ways round, greedy and sampled, with an interval that leaves no doubt."""
    fresh = str(_fresh_model(root))
    before = len(_remembered(learnt))

    found = _evaluated(learnt, "--episodes", "8", "--both", "--against", fresh)
    turned = _told(learnt, "--episodes", "8", "--model", fresh, "--against", str(Paths(learnt).model))

    for mode in ("greedy", "sampled"):
        assert found["difference"][mode]["verdict"] == "better"
        assert found["difference"][mode]["mean"] > found["difference"][mode]["half_width_95"]
    assert "Greedy: version 1 is worse than version 40, by" in turned
    assert len(_remembered(learnt)) == before + 2


def test_difference_is_of_pairs_on_the_same_seeds(learnt: Path, root: Path) -> None:
    """Slow oracle: the two played alone, then subtracted game by game."""
    fresh = _fresh_model(root)
    alone = [_evaluated(learnt, "--episodes", "6", "--sampled", *more) for more in ((), ("--model", str(fresh)))]
    pairs = [Fraction(one) - Fraction(other) for one, other in zip(*(each["returns"]["sampled"] for each in alone), strict=True)]
    mean = sum(pairs) / 6
    spread = math.sqrt(sum((pair - mean) ** 2 for pair in pairs) / 5)

    found = _evaluated(learnt, "--episodes", "6", "--sampled", "--against", str(fresh))["difference"]["sampled"]

    assert found["mean"] == pytest.approx(float(mean))
    assert found["half_width_95"] == pytest.approx(2.571 * spread / math.sqrt(6), rel=1e-3)  # Student's, 5 degrees


def test_model_against_itself_is_alike(root: Path) -> None:
    """Common seeds, for the game and for the draws: not one game may differ."""
    model = str(_fresh_model(root))

    printed = _told(root, "--episodes", "5", "--both", "--against", model)

    assert printed.count("have the same returns on the same 5 seeds") == 2


def test_few_games_give_no_verdict(learnt: Path, root: Path) -> None:
    """However large the difference looks."""
    printed = _told(learnt, "--episodes", "4", "--against", str(_fresh_model(root)))

    assert "4 games are too few to compare; play at least 5" in printed


def test_versions_are_named_by_number(root: Path) -> None:
    """A kept version, and one that has to be trained again from the archive; one that never was is refused."""
    command = ["--game", "CartPole-v1", "--games", "6", "--quiet", "--root", str(root)]
    subprocess.run([sys.executable, str(CHECKOUT / "run_with_training.py"), *command], check=True, capture_output=True)
    newest = _evaluated(root, "--episodes", "2")["version"]

    found = _evaluated(root, "--episodes", "2", "--against", "1")
    printed = _told(root, "--against", str(newest + 7), exit_code=1)

    assert newest > 1 and found["against"]["version"] == 1
    assert f"no version {newest + 7}" in printed and f"1 to {newest}" in printed


def test_interval_is_that_of_the_mean() -> None:
    """Half the width of Student's 95 % interval, against the textbook's formula; one game has none."""
    from background_training.runs import evaluation

    returns = [10.0, 20.0, 30.0, 40.0]

    found = evaluation.summary(returns)

    assert (found["mean_return"], found["lowest"], found["highest"]) == (25.0, 10.0, 40.0)
    assert found["half_width_95"] == pytest.approx(3.182 * statistics.stdev(returns) / math.sqrt(4), rel=1e-3)
    assert evaluation.summary([7.0])["half_width_95"] is None


@pytest.mark.parametrize("games", [5, 20])
def test_interval_holds_the_truth_as_often_as_it_says(games: int) -> None:
    """Of 20,000 comparisons with a known difference, 95 in 100 hold it; where there is none, 5 in 100 claim one."""
    rng = np.random.default_rng(games)
    luck = rng.normal(size=(20_000, games)) * 50  # what both share; it must drop out
    first, second = luck + rng.normal(size=luck.shape) + 2.0, luck + rng.normal(size=luck.shape)

    held = [one.low <= 2.0 <= one.high for one in map(intervals.difference_of, first, second)]
    wrong = [intervals.verdict(one) != "unknown" for one in map(intervals.difference_of, first - 2.0, second)]

    assert np.mean(held) == pytest.approx(0.95, abs=0.006)
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.006)


def test_games_that_would_be_needed() -> None:
    """Four times as many games halve the interval: that is enough for a difference of half its width."""
    estimate = intervals.Estimate(value=5.0, low=-5.0, high=15.0, games=10)

    assert intervals.verdict(estimate) == "unknown" and intervals.games_needed(estimate) == 40
    assert intervals.games_needed(intervals.Estimate(0.0, 0.0, 0.0, 10)) is None


def test_missing_model_is_named(root: Path) -> None:
    """Without a model there is nothing to evaluate, and the message says where it was looked for."""
    printed = _told(root, exit_code=1)

    assert "rl_agent_model.npz" in printed and "Traceback" not in printed


@pytest.mark.parametrize("place", ["--model", "--against"])
def test_model_of_another_game_is_refused(root: Path, tmp_path: Path, place: str) -> None:
    """Either one; the message names the file, what it holds, and what the game has."""
    _fresh_model(root)
    other = _fresh_model(tmp_path / "other", actions=3)

    printed = _told(root, place, str(other), exit_code=1)

    assert (
        f"{other}: it takes states of 4 numbers and chooses actions 0 to 2; CartPole-v1 has states of 4 and actions 0 to 1"
        in printed
    )
    assert not Paths(root).evaluations_log.exists()


@pytest.mark.parametrize("wrong", [["--episodes", "0"], ["--seed", "-1"], ["--both", "--sampled"]])
def test_bad_usage_is_refused(root: Path, wrong: list[str]) -> None:
    """Exit code 2 names the flag."""
    assert wrong[0] in _told(root, *wrong, exit_code=2)


def test_seeds_are_never_those_of_training() -> None:
    """Whatever the run's seed and however long it is."""
    from background_training.runs import evaluation
    from background_training.runs.run_state import RunSpec

    played = [RunSpec("", seed, None, 1, True).game_seed(number) for seed in (0, 1, 2**40) for number in (1, 10**6, 2**33)]
    assert max(played) < evaluation.FIRST_SEED


@pytest.mark.parametrize(("where", "words"), [("step", "in step"), ("reset", "in reset")])
def test_a_game_that_raises_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, words: str
) -> None:
    """One line with game, seed, exception and file; nothing is recorded. --debug shows the traceback as well."""
    from background_training.commands import evaluate

    root = tmp_path / "r"
    agent = RLAgent(root=root, action_names=["a", "b", "c"], state_width=3)
    assert agent.save_model()
    for key, value in (("FAILS", "runtime"), ("FAILS_IN", where), ("FAILS_AT", "2-99"), ("FAILS_COUNT", str(tmp_path / "count"))):
        monkeypatch.setenv(key, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        arguments = ["--root", str(root), "--game", "failing_games:Fails-v0", "--episodes", "3"]
        assert evaluate.main(arguments) == 1
        printed = capsys.readouterr().err
        assert evaluate.main([*arguments, "--debug"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)

    assert printed.startswith(
        "[ERROR] Fails-v0 failed in the game with seed 2147483649: RuntimeError: server closed the connection"
    )
    assert "failing_games.py:" in printed and printed.count("\n") == 1
    assert words in capsys.readouterr().err
    assert not _remembered(root)
