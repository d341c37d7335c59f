"""The learner from start to stop, as a bot's author meets it: who may start it, where from, and what it leaves running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import episodes
import learner_runs
import psutil
import pytest
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS, wait_until

from background_training.errors import AnotherLearnerError
from background_training.learner import supervisor
from background_training.paths import Paths
from background_training.records import status

pytestmark = pytest.mark.slow  # real processes

STOP_SECONDS = 2.0

BOT = """
import sys
from background_training import BackgroundParallelLearner
learner = BackgroundParallelLearner(root=sys.argv[1], verbose=False, max_file_age=0)
assert learner.start() is True
print("started", flush=True)
for line in sys.stdin:
    if line == "stop\\n":
        learner.stop()
        print("stopped", flush=True)
"""
"""A bot's script without a main guard; it runs until its stdin ends."""


def _has_started(bot: subprocess.Popen[str]) -> bool:
    """Read to the line "started"; on a busy machine one that says what is waited for comes first."""
    assert bot.stdout is not None
    return any(line == "started\n" for line in iter(bot.stdout.readline, ""))


def _wait_trained(paths: Paths, count: int) -> None:
    wait_until(lambda: len(learner_runs.trained(paths)) >= count)


def test_a_start_says_true_and_a_second_one_false(paths: Paths) -> None:
    """The learner starts once; started again it says so instead of starting another."""
    learner = learner_runs.learner(paths.root)
    try:
        assert learner.start() is True
        assert learner.start() is False
        assert learner.running
        wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
    finally:
        learner.stop()

    assert not learner.running


def test_a_stopped_learner_goes_on_when_it_is_started_again(paths: Paths) -> None:
    """Stop and start may follow each other as often as one likes; nothing is trained twice."""
    learner = learner_runs.learner(paths.root)
    for number in range(2):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
        assert learner.start() is True
        try:
            _wait_trained(paths, number + 1)
        finally:
            learner.stop()
            learner.stop()

    assert learner_runs.trained(paths) == [("game_0.npz", 1), ("game_1.npz", 2)]


def test_the_with_statement_starts_and_stops(paths: Paths) -> None:
    """Within the with-statement it runs, also when the game ends in an error; after it nothing is left."""
    with pytest.raises(ZeroDivisionError), learner_runs.learner(paths.root) as learner:
        running = learner.running
        raise ZeroDivisionError

    assert running and not learner.running


def test_the_counts_can_be_asked_for_at_any_time(paths: Paths) -> None:
    """get_stats has every key before the start, beside the training and after the stop."""
    episodes.write(paths.buffer, "game.npz", steps=12)
    learner = learner_runs.learner(paths.root)
    before = learner.get_stats()
    with learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
        wait_until(lambda: learner.get_stats()["buffer_file_count"] == 0)
        beside = learner.get_stats()
    after = learner.get_stats()

    assert all(set(status.EMPTY_STATS) <= set(counts) for counts in (before, beside, after))
    assert (beside["total_samples"], beside["model_version"], beside["active_workers"]) == (12, 1, 1)
    assert (after["files_processed"], after["active_workers"]) == (1, 0)


def test_a_second_learner_is_refused_at_once_and_told_who_is_there(paths: Paths) -> None:
    """Two learners on one root would train everything twice: the second one ends with code 3 and the first one's pid."""
    with learner_runs.learner(paths.root):
        started = time.monotonic()
        rival = learner_runs.command(paths.root)
        seconds = time.monotonic() - started
        drain = learner_runs.command(paths.root, "--drain")

    for refused in (rival, drain):
        assert refused.returncode == 3
        assert refused.stderr.count("\n") == 1
        assert f"process {os.getpid()} " in refused.stderr
    assert seconds < PROMPT_SECONDS


def test_a_second_learner_of_the_same_process_is_refused_too(paths: Paths) -> None:
    """Two bots in one program are two learners as well."""
    second = learner_runs.learner(paths.root)
    with learner_runs.learner(paths.root), pytest.raises(AnotherLearnerError, match=f"process {os.getpid()} "):
        second.start()

    assert second.start() is True
    second.stop()


def test_stop_returns_in_time_in_the_middle_of_a_huge_batch(paths: Paths) -> None:
    """A batch that would take minutes is abandoned; its episodes wait for the next start, untrained."""
    for seed in range(3):
        episodes.write(paths.buffer, f"game_{seed}.npz", seed=seed, steps=100_000)
    learner = learner_runs.learner(paths.root, learning={"n_epochs": 100, "hidden_size": 256, "target_kl": 1000.0})
    learner.start()
    try:
        wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
        worker = learner_runs.workers_of(os.getpid())[0]
        wait_until(lambda: sum(worker.cpu_times()[:2]) > 1.2)
    finally:
        started = time.monotonic()
        learner.stop()
        seconds = time.monotonic() - started

    assert seconds < PROMPT_SECONDS
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert episodes.fates(paths)["buffer"] == ["game_0.npz", "game_1.npz", "game_2.npz"]
    assert not paths.model.exists()


def test_stop_right_after_start_leaves_nothing(paths: Paths) -> None:
    """A worker that has not even come up yet is ended as well, again and again."""
    learner, took = learner_runs.learner(paths.root), []
    for _ in range(5):
        learner.start()
        started = time.monotonic()
        learner.stop()
        took.append(time.monotonic() - started)

    # A machine that is busy with other tests may be late now and then, but not each time.
    assert min(took) < STOP_SECONDS and max(took) < PROMPT_SECONDS
    assert learner_runs.workers_of(os.getpid()) == []


def test_stop_returns_in_time_when_the_worker_has_been_frozen(paths: Paths) -> None:
    """A worker that does not listen any more is ended by force."""
    learner = learner_runs.learner(paths.root)
    learner.start()
    wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
    learner_runs.workers_of(os.getpid())[0].suspend()

    started = time.monotonic()
    learner.stop()

    assert time.monotonic() - started < PROMPT_SECONDS
    assert supervisor.STOP_SECONDS < STOP_SECONDS, "the time that it is waited for"


def test_a_killed_bot_takes_its_worker_with_it(paths: Paths) -> None:
    """Nobody is left training for a game that is gone, and the next learner is not kept out."""
    with learner_runs.started_script(BOT, str(paths.root)) as bot:
        assert bot.stdout is not None and _has_started(bot)
        wait_until(lambda: len(learner_runs.workers_of(bot.pid)) == 1)
        worker = learner_runs.workers_of(bot.pid)[0]
        bot.kill()

    wait_until(lambda: not learner_runs.is_worker(worker))
    episodes.write(paths.buffer, "game.npz")
    with learner_runs.learner(paths.root):
        _wait_trained(paths, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_bot_has_forked_does_not_keep_the_next_learner_out(paths: Paths) -> None:
    """A game server forked by the bot lives on after it; the lock must not live on with it."""
    fork = "if os.fork() == 0:\n    print('forked', flush=True)\n    time.sleep(30)\n    os._exit(0)\n"
    code = "import os, time, warnings\nwarnings.simplefilter('ignore')\n" + BOT.replace("for line in", fork + "for line in", 1)
    with learner_runs.started_script(code, str(paths.root)) as bot:
        assert bot.stdout is not None
        assert _has_started(bot) and bot.stdout.readline() == "forked\n"
        wait_until(lambda: len(learner_runs.workers_of(bot.pid)) == 1)
        forked = [child for child in psutil.Process(bot.pid).children() if not learner_runs.is_worker(child)]
        bot.stdout.close()
        bot.kill()
        bot.wait()
    try:
        assert len(forked) == 1 and forked[0].is_running()
        episodes.write(paths.buffer, "game.npz")
        with learner_runs.learner(paths.root):
            _wait_trained(paths, 1)
    finally:
        for child in forked:
            child.kill()


def test_a_bot_that_ends_without_stopping_the_learner_ends(paths: Paths) -> None:
    """Forgetting stop() must neither keep the bot from ending nor leave a worker behind."""
    with learner_runs.started_script(BOT, str(paths.root)) as bot:
        assert bot.stdout is not None and bot.stdin is not None and _has_started(bot)
        wait_until(lambda: len(learner_runs.workers_of(bot.pid)) == 1)
        worker = learner_runs.workers_of(bot.pid)[0]
        bot.stdin.close()
        assert bot.wait(timeout=PATIENCE_SECONDS) == 0

    wait_until(lambda: not learner_runs.is_worker(worker))


def test_a_script_without_a_main_guard_is_not_run_a_second_time(paths: Paths, tmp_path: Path) -> None:
    """The worker never imports the bot: its top level runs once, whatever it does."""
    script = tmp_path / "my böt.py"
    script.write_text("open(__file__ + '.runs', 'a').write('x')\n" + BOT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), str(paths.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=learner_runs.environment(),
    ) as bot:
        assert bot.stdout is not None and bot.stdin is not None and _has_started(bot)
        episodes.write(paths.buffer, "game.npz")
        _wait_trained(paths, 1)
        bot.stdin.write("stop\n")
        bot.stdin.flush()
        assert bot.stdout.readline() == "stopped\n"

    assert (tmp_path / "my böt.py.runs").read_text() == "x"


def test_the_learner_can_be_started_in_a_spawned_process(paths: Paths, tmp_path: Path) -> None:
    """Games in processes of their own may have a learner there."""
    (tmp_path / "spawned_bot.py").write_text(f"def play(root):\n    import sys\n    sys.argv[1:] = [root]\n    exec({BOT!r})\n")
    code = "import multiprocessing, sys, spawned_bot\n"
    code += "game = multiprocessing.get_context('spawn').Process(target=spawned_bot.play, args=(sys.argv[1],))\n"
    code += "game.start()\ngame.join()\nprint(game.exitcode)\n"
    episodes.write(paths.buffer, "game.npz")

    with learner_runs.started_script(code, str(paths.root), cwd=tmp_path) as bot:
        assert bot.stdout is not None
        assert _has_started(bot)
        assert bot.stdout.readline() == "0\n"  # a spawned process has no stdin: its loop ends at once


def test_a_learner_works_where_the_bot_has_moved_away_from(root: Path, tmp_path: Path) -> None:
    """A relative root is the one of the moment in which the learner was made, wherever the bot goes later."""
    code = BOT.replace("assert learner.start()", "import os; os.chdir('/')\nassert learner.start()", 1)
    with learner_runs.started_script(code, root.name, cwd=root.parent) as bot:
        assert bot.stdout is not None and bot.stdin is not None and _has_started(bot)
        episodes.write(Paths(root).buffer, "game.npz")
        _wait_trained(Paths(root), 1)
        bot.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize(("signal_number", "exit_codes"), [(signal.SIGINT, (0,)), (signal.SIGTERM, (0, -signal.SIGTERM, 143))])
def test_the_command_ends_in_time_when_it_is_told_to(paths: Paths, signal_number: int, exit_codes: tuple[int, ...]) -> None:
    """Ctrl+C and a service manager's stop end the command and its worker."""
    with learner_runs.started_command(paths.root) as command:
        assert command.stdout is not None
        first = command.stdout.readline()
        wait_until(lambda: len(learner_runs.workers_of(command.pid)) == 1)
        worker = learner_runs.workers_of(command.pid)[0]
        started = time.monotonic()
        command.send_signal(signal_number)
        exit_code = command.wait(timeout=PATIENCE_SECONDS)
        seconds = time.monotonic() - started

    assert first == "[OK] Background parallel learner initialized and started\n"
    assert exit_code in exit_codes
    assert seconds < PROMPT_SECONDS
    wait_until(lambda: not learner_runs.is_worker(worker))


def test_the_status_says_stopped_after_the_stop(paths: Paths) -> None:
    """A monitor can tell a learner that was stopped from one that was killed."""
    with learner_runs.learner(paths.root):
        wait_until(lambda: (status.read(paths) or {}).get("state") == "idle")

    snapshot = status.read(paths)
    assert snapshot is not None
    assert (snapshot["state"], snapshot["writer_pid"]) == ("stopped", os.getpid())


def test_a_root_that_is_a_file_is_refused_by_the_command(tmp_path: Path) -> None:
    """A path below a file can be no root: bad usage, one line, nothing running."""
    (tmp_path / "file").write_text("no folder")

    refused = learner_runs.command(tmp_path / "file" / "root")

    assert refused.returncode == 2
    assert refused.stderr.startswith("[ERROR] ") and refused.stderr.count("\n") == 1


def test_the_card_of_a_learner_is_gone_after_its_stop(paths: Paths) -> None:
    """Else the next one to be refused would be told of a process that has nothing to do with it."""
    with learner_runs.learner(paths.root):
        card = json.loads((paths.data / ".learner.json").read_text())

    assert card["pid"] == os.getpid()
    assert not (paths.data / ".learner.json").exists()
