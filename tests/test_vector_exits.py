"""Every way out leaves nothing behind, and every way in works: scripts without a guard, REPLs, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_SECONDS, wait_until
from vector_fixtures import is_back, nothing_left_behind, step_until  # noqa: F401
from vector_games import KILL, LOOP, STOP, FaultyGame

from background_training.envs import ResilientAsyncVectorEnv

pytestmark = pytest.mark.slow  # real processes

TESTS = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def is_gone(pid):
    """Dead; an orphan that is not collected counts as gone, as its memory and descriptors are."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("state", ["idle", "stopped", "looping", "with a game server"])
def test_a_killed_parent_takes_its_workers_with_it(method, state):
    """SIGKILL of the parent ends workers that are idle, stopped or never let go, and what they have started."""
    script = f"""
        import os, signal, subprocess, sys, time
        from vector_games import FaultyGame, LOOP, NORMAL, STOP
        from background_training.envs import ResilientAsyncVectorEnv
        class WithServer(FaultyGame):
            def __init__(self):
                super().__init__()
                self.server = subprocess.Popen(["sleep", "1000"])
            def server_pid(self):
                return self.server.pid
        make = WithServer if {state!r} == "with a game server" else FaultyGame
        envs = ResilientAsyncVectorEnv([make, make], start_method={method!r})
        envs.reset()
        pids = [worker["pid"] for worker in envs.health()["workers"]]
        if make is WithServer:
            pids += envs.call("server_pid")
        envs.step_async([{{"stopped": STOP, "looping": LOOP}}.get({state!r}, NORMAL)] * 2)
        print(*pids, flush=True)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    pids = [int(word) for word in run.stdout.split()]
    assert len(pids) == (4 if state == "with a game server" else 2)
    wait_until(lambda: all(is_gone(pid) for pid in pids))


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_script_without_a_main_guard_runs_once(method, tmp_path):
    """The caller's main module is never loaded again, though its classes and lambdas are used in the workers."""
    script = tmp_path / "süß und bitter.py"
    script.write_text(
        textwrap.dedent(f"""
        import gymnasium
        from background_training.envs import ResilientAsyncVectorEnv
        print("main")
        LENGTH = 5
        class Mine(gymnasium.Wrapper):
            def length(self):
                return LENGTH
        envs = ResilientAsyncVectorEnv([lambda: Mine(gymnasium.make("CartPole-v1"))] * 2, start_method={method!r})
        envs.reset(seed=1)
        envs.step([0, 1])
        print(envs.call("length"))
        """),
        encoding="utf-8",
    )
    run = subprocess.run(
        [sys.executable, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert run.stdout == "main\n(5, 5)\n", run.stderr
    assert not run.stderr


def test_a_program_from_standard_input_can_have_workers():
    """As in a REPL or a notebook, there is no file to load."""
    program = "import gymnasium\nfrom background_training.envs import *\n"
    program += "envs = ResilientAsyncVectorEnv([lambda: gymnasium.make('CartPole-v1')])\nprint(envs.reset(seed=1)[0].shape)\n"
    run = subprocess.run(
        [sys.executable], input=program, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert run.stdout == "(1, 4)\n", run.stderr


@pytest.mark.parametrize("fault", [STOP, LOOP])
def test_close_ends_workers_that_do_not_listen(fault):
    """In the midst of a step, within the time the envs get for closing."""
    envs = ResilientAsyncVectorEnv([FaultyGame] * 2, close_seconds=0.3)
    envs.reset()
    envs.step_async([fault, fault])
    with pytest.warns(UserWarning, match="pending call to `step`"):
        envs.close()
    assert envs.closed
    assert not psutil.Process().children()


def test_forgetting_a_vector_env_closes_it():
    """Without close, the garbage collector does it (the fixture sees to the rest)."""
    envs = ResilientAsyncVectorEnv([FaultyGame] * 2)
    envs.reset()
    del envs


def test_a_thread_that_ends_does_not_take_its_workers_with_it():
    """Workers belong to the process, not to the thread that happened to start them."""
    made = []
    thread = threading.Thread(target=lambda: made.append(ResilientAsyncVectorEnv([partial(FaultyGame, 0)])))
    thread.start()
    thread.join()
    (envs,) = made
    envs.reset()
    assert envs.step([0])[1].tolist() == [1.0]
    assert envs.health()["failures"] == 0
    envs.close()


def test_a_forked_child_of_the_parent_does_not_keep_workers_alive():
    """A fork inherits the parent's ends; it closes them, otherwise the workers would never learn of its death."""
    script = """
        import os, signal, sys, time
        from vector_games import FaultyGame
        from background_training.envs import ResilientAsyncVectorEnv
        envs = ResilientAsyncVectorEnv([FaultyGame])
        envs.reset()
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        print(child, envs.health()["workers"][0]["pid"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    child, worker = (int(word) for word in process.stdout.readline().split())
    process.wait(PATIENCE_SECONDS)
    try:
        wait_until(lambda: is_gone(worker))
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux's")
def test_a_fork_server_that_does_not_answer_is_replaced_by_new_interpreters():
    """It is stopped: the vector env waits for its time limit, ends it, and starts the next workers without it."""
    envs = ResilientAsyncVectorEnv([partial(FaultyGame, number, 10**6) for number in range(2)], reduce_after=0)
    envs.reset()
    (server,) = psutil.Process().children()
    envs._workers._fork_server._control.settimeout(0.2)
    server.suspend()
    envs.step([0, KILL])
    step_until(envs, is_back(), [0, 0])
    assert not server.is_running() and envs.health()["restarts"] == 1
    envs.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is Linux's")
def test_workers_outlast_their_fork_server_and_are_replaced_without_it():
    """The fork server is killed: the workers play on, and the next ones are new interpreters of their own."""
    envs = ResilientAsyncVectorEnv([partial(FaultyGame, number, 10**6) for number in range(2)], reduce_after=0)
    envs.reset()
    (server,) = psutil.Process().children()
    workers = {worker["pid"] for worker in envs.health()["workers"]}
    assert workers == {child.pid for child in server.children()}
    server.kill()
    assert not envs.step([0, 0])[4]
    assert envs.step([0, KILL])[4]["worker_restarted"].tolist() == [False, True]
    step_until(envs, is_back(), [0, 0])
    assert envs.health()["workers"][0]["pid"] in workers
    assert envs.health()["workers"][1]["pid"] in {child.pid for child in psutil.Process().children()}
    envs.close()
