"""How a worker process comes up: find the caller's modules, bind to the parent's life, serve.

The caller's main module is never loaded: a script without a guard, a notebook and a REPL can have workers.
"""

from __future__ import annotations

import json
import socket
import sys

from background_training.envs import worker_platform, worker_service

BOOT_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from background_training.envs import worker_boot; worker_boot.main(sys.argv[2:])"
)


def main(arguments: list[str]) -> None:
    """Be a worker, started by one of the launchers of worker_process.py.

    Args:
        arguments: the caller's sys.path as JSON, "posix", and the numbers of link, memory and lifeline;
            or "windows", the handle of the link, the name of the memory and the parent's process id;
            or "forkserver", and the numbers of the server's socket and lifeline.
    """
    sys.path[:] = json.loads(arguments[0])
    sys.argv = ["vector-env-worker"]
    kind, details = arguments[1], arguments[2:]
    if kind == "windows":
        worker_service.serve_windows(int(details[0]), details[1], int(details[2]))
    elif kind == "posix":
        worker_service.serve_posix(int(details[0]), int(details[1]), int(details[2]))
    else:
        # Imported here, so that a spawned worker does not load what it never needs.
        from background_training.envs import fork_server

        worker_platform.die_with_lifeline(int(details[1]))
        fork_server.serve(socket.socket(fileno=int(details[0])))
