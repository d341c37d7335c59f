"""check-game and check-episode: what keeps a bot from learning is named before anything is trained on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from background_training.commands import check_episode
from background_training.episodes import episode_file


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """Commands in this process set what SIGTERM means."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("flaw", "level", "named"),
    [
        ("no rewards", "PROBLEM", "is 0. Random play never finds one"),
        ("unscaled", "NOTE", "numbers of the state are not scaled: 0, 1"),
        ("constant", "PROBLEM", "the state never changes"),
        ("short mask", "PROBLEM", "the mask of game 1 contradicts the actions"),
        ("no move", "PROBLEM", "the mask of game 1 contradicts the actions"),
        ("never 0", "PROBLEM", "the mask never allowed action 0. If the game counts its actions from 1"),
        ("all legal", "NOTE", "the mask allows every action in every step"),
        ("from 1", "PROBLEM", "raised after action 0: KeyError: 0"),
        ("endless", "PROBLEM", "had not ended after"),
        ("unseeded", "NOTE", "the same seed and actions give different games, from step 1 on"),
        ("", "OK", "the same seed gives the same game"),
    ],
)
def test_a_flaw_of_a_game_is_named(flaw: str, level: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A problem is exit code 1; a sound game has neither problem nor note but that it names no limit of steps."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    from background_training.commands import check_game

    arguments = ["--game-args", f"flaw={flaw}"] if flaw else []
    code = check_game.main(["adapted_games:Flawed", *arguments, "--games", "20", "--seconds", "0.3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(f"[{level}]") and named in line], lines
    assert code == (level == "PROBLEM"), lines
    assert [line for line in lines if "steps a second" in line] or "mask" in flaw or flaw == "no move"
    if not flaw:
        assert not [line for line in lines if line.startswith(("[PROBLEM]", "[NOTE]"))], lines


@pytest.mark.parametrize(
    "arguments", [[], ["adapted_games:Nothing"], ["CartPole-v1", "--game", "CartPole-v1"], ["a", "--games", "0"]]
)
def test_a_game_that_cannot_be_checked_is_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2."""
    pytest.importorskip("gymnasium", reason="the games extra is not installed")
    from background_training.commands import check_game

    assert check_game.main(arguments) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("[ERROR]") and captured.err.count("\n") == 1


def _write(folder: Path, name: str, **arrays: object) -> Path:
    rng = np.random.default_rng(len(name))
    states = rng.normal(size=(30, 3)).astype(np.float32)
    plain = {"states": states, "actions": np.arange(30) % 3, "rewards": rng.normal(size=30).astype(np.float32)}
    np.savez(folder / name, **{**plain, **arrays})  # type: ignore[arg-type]
    return folder / name


def test_files_of_foreign_writers_are_accepted_or_rejected_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the learner's reader decides it; nothing is changed and no root is made."""
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, "sound.npz", log_probs=np.full(30, -1.0, np.float32), episode_id=np.array("one"))
    good = sorted(os.listdir(tmp_path))
    assert check_episode.main(["sound.npz"]) == 0
    assert "accepted, 30 steps, states of 3, actions 0 to 2" in capsys.readouterr().out
    _write(tmp_path, "nan.npz", rewards=np.full(30, np.nan))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "sound.npz").read_bytes()[:200])
    (tmp_path / "line\u2028feed.npz").write_bytes(b"no episode")
    assert check_episode.main([str(tmp_path), "absent.npz"]) == 1
    out = capsys.readouterr().out
    assert [line.partition(": rejected")[1] != "" for line in out.splitlines()[:5]] == [True, True, False, True, True], out
    assert "nan.npz: rejected, not-finite" in out and "absent.npz: rejected, it can't be read" in out
    assert out.splitlines()[-1] == "1 accepted, 4 rejected"
    assert sorted(os.listdir(tmp_path)) == sorted([*good, "nan.npz", "torn.npz", "line\u2028feed.npz"])


def test_mistakes_that_only_several_files_show_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file is valid; a root would accept only some of them, or learn nothing from them."""
    for name in ("a.npz", "bb.npz", "ccc.npz"):
        _write(tmp_path, name, rewards=np.zeros(30, np.float32), episode_id=np.array("same"), actions=1 + np.arange(30) % 2)
    _write(tmp_path, "wide.npz", states=np.ones((30, 5), np.float32), terminated=np.array(False), rewards=np.zeros(30))
    assert check_episode.main([str(tmp_path / "*.npz")]) == 1
    out = capsys.readouterr().out
    for words in ("every reward of the", "states of 3, 5 numbers", "2 files repeat the episode_id", "needs final_state"):
        assert words in out
    assert "4 accepted, 0 rejected" in out


def test_it_agrees_with_the_reader_about_what_our_own_bot_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An episode with all optional arrays has no note."""
    arrays = {
        "states": np.random.default_rng(1).normal(size=(4, 2)),
        "actions": np.array([0, 1, 1, 0]),
        "rewards": np.array([0.0, 1.0, 0.5, 0.0]),
        "log_probs": np.full(4, -0.7),
        "action_mask": np.ones((4, 2), bool),
        "final_state": np.zeros(2),
        "terminated": np.array(False),
        "episode_id": np.array("x"),
        "policy_version": np.array(3),
    }
    episode_file.write(tmp_path / "own.npz", arrays)
    assert check_episode.main([str(tmp_path / "own.npz")]) == 0
    out = capsys.readouterr().out
    assert "with log_probs, action_mask, final_state, policy_version, episode_id" in out and "[NOTE]" not in out
