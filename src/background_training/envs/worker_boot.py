"""The start of a worker process: restore the caller's module path, bind to the parent's life, serve.

The caller's main module is never loaded, so a script without a guard, a notebook and a REPL can have workers. Nothing heavy
is imported before the process is bound to its parent's life.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from background_training.envs import worker_platform

BOOT_CODE = (
    "import sys; del sys.path[0]; import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from background_training.envs import worker_boot; worker_boot.main(sys.argv[1:])"
)


def main(arguments: list[str]) -> None:
    """Run a worker that worker_process.py has started in a new interpreter.

    Args:
        arguments: the caller's sys.path as JSON, then "posix" and the descriptors of link, memory and lifeline; "windows",
            the handle of the link, the name of the memory and the parent's process id; or "forkserver" and the descriptors of
            link and lifeline.
    """
    sys.path[:] = json.loads(arguments[0])
    sys.argv = ["vector-env-worker"]
    kind, details = arguments[1], arguments[2:]
    if kind == "windows":
        serve_windows(int(details[0]), details[1], int(details[2]))
    elif kind == "forkserver":
        serve_forks(int(details[0]), int(details[1]))
    else:
        serve_posix(int(details[0]), int(details[1]), int(details[2]))


def serve_posix(link: int, memory: int, lifeline: int) -> None:
    """Serve through inherited descriptors."""
    worker_platform.die_with_lifeline(lifeline)
    worker_platform.wake_on_time()
    for descriptor in (link, memory, lifeline):
        os.set_inheritable(descriptor, False)  # otherwise a game's own child processes would hold them open
    from background_training.envs import env_worker

    env_worker.main(worker_platform.SocketLink(socket.socket(fileno=link)), worker_platform.NamelessFile(memory))


def serve_windows(link: int, memory: str, parent_id: int) -> None:
    """Serve through an inherited pipe handle and a named mapping."""
    worker_platform.die_with_process(parent_id)
    from multiprocessing import connection

    from background_training.envs import env_worker

    pipe = connection.PipeConnection(link)  # type: ignore[attr-defined]  # Windows only
    env_worker.main(worker_platform.PipeLink(pipe), worker_platform.NamedMapping(memory))


def serve_forks(link: int, lifeline: int) -> None:
    """Fork a worker for each "fork" with the descriptors of its link, memory, lifeline and, perhaps, stderr; the answer is its
    process id. For a process id the answer is the exit status of that worker, which has ended.

    Workers are not collected before they are asked for: until then the parent can kill their process groups by number.
    """
    worker_platform.die_with_lifeline(lifeline)
    import background_training.envs.env_worker  # noqa: F401  # what every worker needs

    gc.collect()
    gc.freeze()  # otherwise each worker's collector would copy the pages of all modules
    control = socket.socket(fileno=link)
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 32, 4)
        if not request:
            return
        if request == b"fork":
            answer = os.fork()
            if answer == 0:
                control.close()
                os.close(lifeline)
                run_forked(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(request), 0)[1])
        control.send(b"%d" % answer)


def run_forked(link: int, memory: int, lifeline: int, stderr: int | None = None) -> NoReturn:
    """In a freshly forked child: run a worker and never return to the parent's code."""
    try:
        os.setsid()
        if "numpy.random" in sys.modules:  # otherwise NumPy's global generator would draw the same numbers in every child
            sys.modules["numpy.random"].seed()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if stderr is not None:
            os.dup2(stderr, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # pytest and notebooks replace sys.stderr
        serve_posix(link, memory, lifeline)
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(1)
