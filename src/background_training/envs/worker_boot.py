"""The start of a worker process: restore the caller's module path, bind to the parent's life, serve.

The caller's main module is never loaded, so a script without a guard, a notebook and a REPL can have workers. Nothing heavy
is imported before the process is bound to its parent's life.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from background_training.envs import worker_platform

BOOT_CODE = (
    "import sys; del sys.path[0]; import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from background_training.envs import worker_boot; worker_boot.main(sys.argv[1:])"
)


def main(arguments: list[str]) -> None:
    """Run a worker that worker_process.py has started in a new interpreter.

    Args:
        arguments: the caller's sys.path as JSON, then "posix" and the descriptors of link, memory and lifeline, or "windows",
            the handle of the link, the name of the memory and the parent's process id.
    """
    sys.path[:] = json.loads(arguments[0])
    sys.argv = ["vector-env-worker"]
    kind, details = arguments[1], arguments[2:]
    if kind == "windows":
        serve_windows(int(details[0]), details[1], int(details[2]))
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
