"""What becomes of each file that comes into the buffer: every good one is trained once, every other lies aside with a reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import episodes
import learner_runs
import numpy as np
import pytest
from conftest import wait_until
from fakes import FakeClock

from background_training import BackgroundParallelLearner
from background_training.learner import trainer
from background_training.learner import triage as intakes
from background_training.learner.triage import Accepted, Deferred, Excluded, Triage, WallClock
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.storage import model_store

HOUR = 3600.0


def _lines(paths: Paths, fate: str) -> list[str]:
    return sorted(line["name"] for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == fate)


def test_an_old_file_is_stale_and_counted_once(paths: Paths) -> None:
    """What has waited for longer than max_file_age is not trained on; it counts once, however often the learner runs."""
    episodes.write(paths.buffer, "old.npz", seed=1, age_seconds=2 * HOUR)
    episodes.write(paths.buffer, "new.npz", seed=2)

    counts = [learner_runs.drain(paths.root, max_file_age=HOUR)["files_skipped_old"] for _ in range(2)]

    assert counts == [1, 1]
    assert episodes.fates(paths) == {"buffer": [], "trained": ["new.npz"], "stale": ["old.npz"], "duplicate": [], "rejected": []}
    assert learner_runs.reason(paths, "stale", "old.npz") == "it is older than max_file_age, 3600 s. Moved to archive/stale.\n"
    assert _lines(paths, "stale") == ["old.npz"]


def test_without_an_age_limit_nothing_is_too_old(paths: Paths) -> None:
    """max_file_age 0 trains on whatever lies there."""
    episodes.write(paths.buffer, "ancient.npz", age_seconds=1000 * HOUR)

    assert learner_runs.drain(paths.root, max_file_age=0.0)["files_processed"] == 1


def test_a_file_from_the_future_is_not_old(paths: Paths) -> None:
    """A clock that was wrong when the game played costs no episode."""
    episodes.write(paths.buffer, "future.npz", age_seconds=-1000 * HOUR)

    assert learner_runs.drain(paths.root, max_file_age=HOUR)["files_processed"] == 1


def test_an_episode_of_a_policy_long_gone_is_stale(paths: Paths) -> None:
    """Where the file says which version played, that decides: deterministically, and whatever the clocks say."""
    for number in range(4):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    learner_runs.drain(paths.root, batch_size=1)
    episodes.write(paths.buffer, "early.npz", seed=10, policy_version=np.int64(1))
    episodes.write(paths.buffer, "late.npz", seed=11, policy_version=np.int64(2))

    counts = learner_runs.drain(paths.root, max_version_lag=2)

    assert (counts["files_skipped_old"], counts["files_processed"]) == (1, 5)
    expected = "policy version 1 played it, more than max_version_lag, 2, before the model's"
    assert learner_runs.reason(paths, "stale", "early.npz") == f"{expected}. Moved to archive/stale.\n"


def test_a_broken_file_costs_no_good_one_its_turn(paths: Paths) -> None:
    """Between broken files of many kinds every good one is trained, in the same batches as without them."""
    for number in range(7):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    undisturbed = Paths(paths.root.parent / "undisturbed")
    shutil.copytree(paths.buffer, undisturbed.buffer)
    (paths.buffer / "game_0_cut.npz").write_bytes(episodes.packed(20)[:-40])
    (paths.buffer / "game_1_empty.npz").write_bytes(b"")
    (paths.buffer / "game_2_text.npz").write_text("no archive")
    (paths.buffer / "game_3_folder.npz").mkdir()
    episodes.write(paths.buffer, "game_4_nan.npz", seed=21, rewards=np.full(12, np.nan))
    episodes.write(paths.buffer, "game_5_long.npz", seed=22, rewards=np.zeros(13))
    (paths.buffer / "game_6_link.npz").symlink_to("nowhere")

    counts = learner_runs.drain(paths.root)
    learner_runs.drain(undisturbed.root)

    assert (counts["files_processed"], counts["files_rejected"], counts["buffer_file_count"]) == (7, 7, 0)
    assert episodes.fates(paths)["buffer"] == []
    assert paths.model.read_bytes() == undisturbed.model.read_bytes()
    for name in episodes.fates(paths)["rejected"]:
        assert learner_runs.reason(paths, "rejected", name).endswith(". Moved to archive/rejected.\n")
    assert "rewards has 13 steps, states has 12" in learner_runs.reason(paths, "rejected", "game_5_long.npz")
    assert "rewards holds 12 values that are NaN or infinite" in learner_runs.reason(paths, "rejected", "game_4_nan.npz")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"width": 7}, ["a state holds 7 numbers", "states of 4 numbers"]),
        ({"action_count": 9, "steps": 200}, ["there is an action 8", "actions 0 to 2"]),
        ({"action_mask": np.ones((12, 5), bool)}, ["action_mask has 5 actions", "actions 0 to 2"]),
    ],
)
def test_a_game_that_has_changed_is_told_how_to_go_on(paths: Paths, changed: dict[str, object], told: list[str]) -> None:
    """Another state width or number of actions is no attack: the reason names the model, its sizes, and the ways out."""
    episodes.write(paths.buffer, "game_0.npz", seed=0, steps=100)
    learner_runs.drain(paths.root)
    episodes.write(paths.buffer, "game_1.npz", **{"seed": 1, **changed})  # type: ignore[arg-type]

    told_by = learner_runs.drain(paths.root)

    reason = learner_runs.reason(paths, "rejected", "game_1.npz")
    assert told_by["files_misfit"] == 1 and reason.startswith(told_by["last_misfit"])
    assert all(words in reason for words in told), reason
    assert "models/rl_agent_model.npz takes" in reason
    assert "--root" in reason


@pytest.mark.parametrize(
    ("good", "most_steps", "versions"),
    [
        (17, 15 * 12, [1] * 15 + [2] * 2),
        (17, 15 * 12 - 1, [1 + n // 3 for n in range(17)]),
        (14, 9999, [1 + n // 3 for n in range(14)]),
    ],
)
def test_a_backlog_of_short_episodes_shares_commits(paths: Paths, good: int, most_steps: int, versions: list[int]) -> None:
    """Five batches of three become one if their steps are few enough; what is not sound does not count."""
    for number in range(good):
        episodes.write(paths.buffer, f"game_{number:02d}.npz", seed=number)
    undisturbed = Paths(paths.root.parent / "undisturbed")
    shutil.copytree(paths.buffer, undisturbed.buffer)
    for number in range(4):
        (paths.buffer / f"game_{number:02d}_broken.npz").write_bytes(b"no archive")
    shutil.copy(paths.buffer / "game_00.npz", paths.buffer / "game_01_twin.npz")

    counts = learner_runs.drain(paths.root, backlog_steps=most_steps)
    learner_runs.drain(undisturbed.root, backlog_steps=most_steps)

    assert [version for _, version in sorted(learner_runs.trained(paths))] == versions
    assert (counts["files_processed"], counts["files_rejected"], counts["files_duplicate"]) == (good, 4, 1)
    assert paths.model.read_bytes() == undisturbed.model.read_bytes()


@pytest.mark.slow
def test_the_end_of_a_drain_tells_of_another_games_episodes(paths: Paths) -> None:
    """How many, what they are and what the model takes, and the two ways on; broken files are not among them."""
    episodes.write(paths.buffer, "game_0.npz", seed=0, steps=100)
    assert "do not fit" not in learner_runs.command(paths.root, "--drain").stdout
    for number in (1, 2):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number, width=7)
    (paths.buffer / "broken.npz").write_bytes(b"no archive")

    told = learner_runs.command(paths.root, "--drain").stdout.splitlines()[-1]

    mismatch = "they do not match this root's model (state width or action space)"
    assert told.startswith(f"[WARNING] Episodes that do not fit: 2 rejected: {mismatch}. The last one: ")
    assert "a state holds 7 numbers; models/rl_agent_model.npz takes states of 4 numbers and chooses actions 0 to 2" in told
    assert "use another --root to keep both models" in told and "to start a new one here" in told


def test_the_first_episodes_of_two_games_count_as_well(paths: Paths) -> None:
    """A new root takes the game of most of them, and says how many do not fit it."""
    for number in range(4):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number, width=4 if number else 6)

    counts = learner_runs.drain(paths.root, batch_size=4)

    assert (counts["files_processed"], counts["files_rejected"], counts["files_misfit"]) == (3, 1, 1)
    assert "a state holds 6 numbers" in counts["last_misfit"]


def test_a_new_model_can_be_started_as_the_reason_says(paths: Paths) -> None:
    """The way out that a changed game's author is told really leads to a model of the new size."""
    episodes.write(paths.buffer, "game_0.npz")
    learner_runs.drain(paths.root)
    aside = paths.root / "former"
    aside.mkdir()
    for path in (paths.models, paths.archive, paths.ledger):
        path.rename(aside / path.name)
    episodes.write(paths.buffer, "game_1.npz", seed=1, width=7)

    counts = learner_runs.drain(paths.root)

    assert (counts["files_processed"], counts["model_version"]) == (1, 1)
    assert model_store.read(paths.model).state_width == 7


AS_NOBODY = """
import os, sys
from background_training.commands import learn as background_parallel_learner
assert background_parallel_learner.main(["--drain", "--quiet", "--root", sys.argv[2]]) == 0
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(background_parallel_learner.main(["--drain", "--root", sys.argv[1]]))
"""
"""A drain by somebody whose rights count; all is loaded while it may still be read."""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs rights as POSIX has them")
@pytest.mark.parametrize("sticky", [False, True], ids=["a folder of somebody else", "a sticky buffer"])
def test_what_may_not_be_moved_out_costs_the_others_nothing(sticky: bool) -> None:
    """Whoever may write into a shared buffer can put a thing there that nobody else may move: it is named, and stays."""
    if sticky and os.geteuid() != 0:
        pytest.skip("needs a second user")
    with tempfile.TemporaryDirectory(prefix="shared buffer ") as folder:
        os.chmod(folder, 0o755)
        paths = Paths(Path(folder) / "root")
        for made in (paths.root, *paths.folders):
            made.mkdir(exist_ok=True)
        names = ["game_1.npz", "game_2.npz"]
        for number, name in enumerate(names):
            episodes.write(paths.buffer, name, seed=number)
        for path in (paths.root, *paths.root.rglob("*")):
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        odd = paths.buffer / "a.npz"
        if sticky:
            episodes.write(paths.buffer, odd.name, seed=9)
            os.chown(paths.buffer, 0, 0)
            os.chmod(paths.buffer, 0o1777)
        else:
            odd.mkdir(mode=0o555)

        mine = Paths(Path(folder) / "mine")
        mine.buffer.mkdir(parents=True)
        episodes.write(mine.buffer, "game.npz")

        command = [sys.executable, "-c", AS_NOBODY, str(paths.root), str(mine.root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)

        assert done.returncode == 5 and "a.npz" in done.stderr and "may not move it" in done.stderr, done.stdout + done.stderr
        assert episodes.fates(paths)["trained"] == names
        assert odd.exists() and not paths.ledger.read_text().count("a.npz")


def test_a_file_that_may_not_be_read_costs_the_others_no_time(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one file refuses, it is tried again more and more rarely, and trained once it gives in."""
    clock = FakeClock()
    triage = _intake(paths, clock)
    episodes.write(paths.buffer, "game.npz")
    tries: list[float] = []
    real = intakes.atomic_files.read_regular_file

    def refuse(path: Path, max_bytes: int) -> bytes:
        tries.append(clock())
        raise PermissionError(13, "not yours", str(path))

    monkeypatch.setattr(intakes.atomic_files, "read_regular_file", refuse)
    troubles = []
    for _ in range(1000):
        verdict = triage.verdict_on("game.npz", None)
        assert isinstance(verdict, Deferred)
        troubles += [verdict.trouble] if verdict.trouble else []
        clock.advance(0.1)
    monkeypatch.setattr(intakes.atomic_files, "read_regular_file", real)
    clock.advance(30.0)

    assert 5 <= len(troubles) <= 10 and "game.npz can't be read" in troubles[0]
    assert isinstance(triage.verdict_on("game.npz", None), Accepted)


def test_the_same_bytes_under_another_name_are_a_duplicate(paths: Paths) -> None:
    """Within a batch, and of a batch long past: each episode counts once."""
    data = episodes.packed(1)
    for name in ("a.npz", "b.npz"):
        (paths.buffer / name).write_bytes(data)
    learner_runs.drain(paths.root)
    (paths.buffer / "c.npz").write_bytes(data)
    counts = learner_runs.drain(paths.root)

    assert (counts["files_processed"], counts["files_duplicate"], counts["batches_trained"]) == (1, 2, 1)
    assert episodes.fates(paths)["duplicate"] == ["b.npz", "c.npz"]
    assert "the same bytes were trained on in version 1, as a.npz" in learner_runs.reason(paths, "duplicate", "b.npz")
    assert "the same bytes were trained on in version 1, as a.npz" in learner_runs.reason(paths, "duplicate", "c.npz")


def test_the_same_episode_id_is_a_duplicate_whatever_the_bytes(paths: Paths) -> None:
    """A game that delivers an episode a second time, with its remarks changed, does not train it twice."""
    for name, seed in (("a.npz", 1), ("b.npz", 2)):
        episodes.write(paths.buffer, name, seed=seed, episode_id=np.array("game 17"))
    learner_runs.drain(paths.root)
    episodes.write(paths.buffer, "c.npz", seed=3, episode_id=np.array("game 17"))
    episodes.write(paths.buffer, "d.npz", seed=4, episode_id=np.array("game 18"))
    counts = learner_runs.drain(paths.root)

    assert (counts["files_processed"], counts["files_duplicate"]) == (2, 2)
    assert [name for name, _ in learner_runs.trained(paths)] == ["a.npz", "d.npz"]
    assert "episode_id 'game 17' was trained on in version 1, as a.npz" in learner_runs.reason(paths, "duplicate", "c.npz")


def test_a_redelivery_between_two_drains_is_a_duplicate(paths: Paths) -> None:
    """Same name, same content, come back after the first was archived: trained once, and both copies are kept."""
    data = episodes.packed(1)
    for _ in range(3):
        (paths.buffer / "game.npz").write_bytes(data)
        counts = learner_runs.drain(paths.root)

    assert learner_runs.trained(paths) == [("game.npz", 1)]
    assert counts["batches_trained"] == 1
    assert episodes.fates(paths)["trained"] == ["game.npz"]
    assert len(episodes.fates(paths)["duplicate"]) == 2


def test_a_redelivery_while_the_learner_runs_is_a_duplicate(paths: Paths) -> None:
    """A writer that repeats itself under the learner's eyes changes nothing either."""
    data = episodes.packed(1)
    with learner_runs.learner(paths.root) as learner:
        for delivery in range(3):
            _deliver(paths, "game.npz", data)
            wait_until(lambda: not (paths.buffer / "game.npz").exists())
            wait_until(lambda expected=delivery: learner.get_stats()["files_duplicate"] >= expected)  # type: ignore[misc]

    assert learner_runs.trained(paths) == [("game.npz", 1)]


def test_two_different_files_of_one_name_are_two_episodes(paths: Paths) -> None:
    """A game that names all its files alike loses none of them; the second one is archived under its hash."""
    for seed in range(3):
        episodes.write(paths.buffer, "game.npz", seed=seed)
        counts = learner_runs.drain(paths.root)

    assert counts["files_processed"] == 3
    assert learner_runs.trained(paths) == [("game.npz", 1), ("game.npz", 2), ("game.npz", 3)]
    stored = [line.get("archived_as", line["name"]) for line in ledger_lines.read_lines(paths.ledger)]
    assert len(set(stored)) == 3 and all((paths.archive / name).exists() for name in stored)


@pytest.mark.parametrize("name", ["odd name.npz", "näme ☃.npz", "new\nline.npz", "-rf.npz", "con.npz", "x" * 240 + ".npz"])
def test_odd_names_are_trained_and_archived_under_their_hash(paths: Paths, name: str) -> None:
    """A name that could harm a terminal, a shell or another system does not get into the archive."""
    try:
        episodes.write(paths.buffer, name)
    except OSError:
        pytest.skip("this file system does not take the name")

    counts = learner_runs.drain(paths.root)

    assert counts["files_processed"] == 1
    [line] = ledger_lines.read_lines(paths.ledger)
    assert line["name"] == name
    assert episodes.fates(paths)["trained"] == [line["archived_as"]] == [line["sha256"] + ".npz"]


@pytest.mark.slow
def test_a_file_that_is_still_being_written_is_left_alone_until_it_is_whole(paths: Paths) -> None:
    """A foreign writer that writes in place and slowly loses nothing: the file is taken once it is complete."""
    data = episodes.packed(1, steps=200)
    with learner_runs.learner(paths.root, settle_seconds=3600.0) as learner:
        with open(paths.buffer / "slow.npz", "wb") as file:
            for start in range(0, len(data), 1 + len(data) // 5):
                file.write(data[start : start + 1 + len(data) // 5])
                file.flush()
                episodes.write(paths.buffer, f"game_{start}.npz", seed=start)
                wait_until(lambda: _settled_but_for(paths, "slow.npz") or not (paths.buffer / "slow.npz").exists())
        wait_until(lambda: not (paths.buffer / "slow.npz").exists())
        wait_until(lambda: learner.get_stats()["files_processed"] == 6)

    assert episodes.fates(paths)["rejected"] == []
    assert Counter(name for name, _ in learner_runs.trained(paths))["slow.npz"] == 1


def _settled_but_for(paths: Paths, name: str) -> bool:
    return episodes.fates(paths)["buffer"] == [name]


def _deliver(paths: Paths, name: str, data: bytes) -> None:
    partial = paths.buffer / f".{name}.part"
    partial.write_bytes(data)
    partial.replace(paths.buffer / name)


@pytest.mark.slow
def test_an_unfinished_file_is_rejected_once_it_has_stood_still(paths: Paths) -> None:
    """A writer that died in the middle leaves a file that would wait for ever."""
    (paths.buffer / "cut.npz").write_bytes(episodes.packed(1)[:-30])
    with learner_runs.learner(paths.root, settle_seconds=0.3) as learner:
        wait_until(lambda: learner.get_stats()["files_rejected"] == 1)

    assert episodes.fates(paths)["rejected"] == ["cut.npz"]


def _intake(paths: Paths, clock: FakeClock, settle_seconds: float = 10.0) -> Triage:
    ledger = Ledger(paths.ledger, durable=False)
    settings = learner_runs.settings(paths.root, settle_seconds=settle_seconds)
    return Triage(paths, settings, ledger, patient=True, clock=WallClock(clock, clock), monotonic=clock)


@pytest.mark.parametrize("beginning", [b"", b"\0" * 64, episodes.packed(1)[:-30]], ids=["empty", "preallocated", "cut"])
def test_an_unfinished_file_is_given_its_time(paths: Paths, beginning: bytes) -> None:
    """As long as it changes it is left alone, and then for settle_seconds more; also where its room was reserved before."""
    clock = FakeClock()
    triage = _intake(paths, clock)
    path = paths.buffer / "game.npz"
    path.write_bytes(beginning)
    assert isinstance(triage.verdict_on(path.name, None), Deferred)
    clock.advance(9.0)
    path.write_bytes(beginning + b"\0")
    assert isinstance(triage.verdict_on(path.name, None), Deferred)
    clock.advance(9.9)
    assert isinstance(triage.verdict_on(path.name, None), Deferred)
    clock.advance(0.2)
    verdict = triage.verdict_on(path.name, None)

    assert isinstance(verdict, Excluded) and verdict.fate == "rejected"


def test_an_unfinished_file_that_is_finished_is_taken_at_once(paths: Paths) -> None:
    """Nobody waits for settle_seconds once the end of the archive is there."""
    clock = FakeClock()
    triage = _intake(paths, clock)
    data = episodes.packed(1)
    path = paths.buffer / "game.npz"
    path.write_bytes(data[:100])
    assert isinstance(triage.verdict_on(path.name, None), Deferred)
    path.write_bytes(data)

    assert isinstance(triage.verdict_on(path.name, None), Accepted)


def test_a_file_that_waits_to_be_finished_is_not_read_again_and_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at its size tells that nothing has changed; a large one is not read four times a second."""
    clock = FakeClock()
    triage = _intake(paths, clock)
    (paths.buffer / "game.npz").write_bytes(episodes.packed(1)[:-30])
    reads: list[Path] = []
    real = intakes.atomic_files.read_regular_file

    def read(path: Path, max_bytes: int) -> bytes:
        reads.append(path)
        return real(path, max_bytes)

    monkeypatch.setattr(intakes.atomic_files, "read_regular_file", read)
    for _ in range(10):
        clock.advance(0.25)
        triage.verdict_on("game.npz", None)

    assert len(reads) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_rejected_and_never_waited_for(paths: Paths) -> None:
    """Opening a pipe would wait for a writer that never comes."""
    os.mkfifo(paths.buffer / "pipe.npz")
    episodes.write(paths.buffer, "game.npz")

    counts = learner_runs.drain(paths.root)

    assert (counts["files_processed"], counts["files_rejected"]) == (1, 1)
    assert "it is a named pipe; a regular file is needed" in learner_runs.reason(paths, "rejected", "pipe.npz")


def test_a_file_replaced_after_it_was_read_is_an_episode_of_its_own(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that were trained are archived; what has taken their name meanwhile waits for its own turn."""
    first, second = episodes.packed(1), episodes.packed(2)
    _deliver(paths, "game.npz", first)
    real = trainer.model_store.commit

    def commit_and_replace(*arguments: object, **options: object) -> None:
        real(*arguments, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(trainer.model_store, "commit", real)
        _deliver(paths, "game.npz", second)

    monkeypatch.setattr(trainer.model_store, "commit", commit_and_replace)
    learner_runs.drain(paths.root)

    assert (paths.archive / "game.npz").read_bytes() == first
    assert (paths.buffer / "game.npz").read_bytes() == second
    counts = learner_runs.drain(paths.root)
    assert counts["files_processed"] == 2
    assert episodes.fates(paths)["buffer"] == []


@pytest.mark.slow
def test_a_burst_of_thousands_of_files_is_accounted_for(paths: Paths) -> None:
    """Events are lost in such a burst; every file is trained once all the same, and memory stays bounded."""
    data = [episodes.packed(seed, steps=1) for seed in range(1500)]
    with learner_runs.learner(paths.root, batch_size=1000, durability="fast", learning={"replay_ratio": 0.0}) as learner:
        wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
        worker = learner_runs.workers_of(os.getpid())[0]
        for number, content in enumerate(data):
            _deliver(paths, f"game_{number:05d}.npz", content)
        wait_until(lambda: learner.get_stats()["files_processed"] == len(data))
        memory_bytes = worker.memory_info().rss

    names = Counter(name for name, _ in learner_runs.trained(paths))
    assert len(names) == len(data) and set(names.values()) == {1}
    assert len(episodes.fates(paths)["trained"]) == len(data)
    assert episodes.fates(paths)["buffer"] == []
    assert memory_bytes < 500_000_000


@pytest.mark.slow
def test_a_buffer_full_of_everything_is_sorted_out_in_one_drain(paths: Paths) -> None:
    """500 old, 50 broken and 200 good files: each in its place after one drain by the command."""
    for number in range(500):
        episodes.write(paths.buffer, f"old_{number:03d}.npz", seed=number, steps=2, age_seconds=2 * HOUR)
    for number in range(200):
        episodes.write(paths.buffer, f"game_{number:03d}.npz", seed=1000 + number, steps=3)
    for number in range(50):
        (paths.buffer / f"game_{number:03d}_broken.npz").write_bytes(episodes.packed(5000 + number)[: 20 * number])

    done = learner_runs.command(paths.root, "--drain", "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    found = episodes.fates(paths)
    assert {fate: len(names) for fate, names in found.items()} == {
        "buffer": 0,
        "trained": 200,
        "stale": 500,
        "duplicate": 0,
        "rejected": 50,
    }
    names = [name for name, _ in learner_runs.trained(paths)]
    assert names == sorted(names) == found["trained"]


@pytest.mark.slow
def test_a_second_learner_on_a_folder_made_anew_drives_the_first_one_out(paths: Paths) -> None:
    """The lock's file goes with the folder; still no episode is trained twice: one of the two gives up, and says so."""
    first = BackgroundParallelLearner(settings=learner_runs.settings(paths.root, rescan_seconds=0.1))
    first.start()
    wait_until(lambda: first.get_stats()["active_workers"] == 1)
    shutil.rmtree(paths.data)
    second = BackgroundParallelLearner(settings=learner_runs.settings(paths.root, rescan_seconds=0.1))
    try:
        second.start()
        for number in range(30):
            episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
        wait_until(lambda: not list(paths.buffer.glob("*.npz")))
        wait_until(lambda: first.running != second.running)
    finally:
        first.stop()
        second.stop()

    trained = [line["sha256"] for line in ledger_lines.read_lines(paths.ledger) if line["fate"] == "trained"]
    assert len(trained) == len(set(trained)) == 30
