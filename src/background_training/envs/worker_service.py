"""How a started process takes up a worker's service: by inherited descriptors, or by Windows' handles."""

from __future__ import annotations

import os
import socket

from background_training.envs import worker_platform


def serve_posix(link: int, memory: int, lifeline: int) -> None:
    """Serve through inherited descriptors."""
    worker_platform.die_with_lifeline(lifeline)
    worker_platform.wake_on_time()
    for descriptor in (link, memory, lifeline):
        os.set_inheritable(descriptor, False)  # a game's own children must not hold them
    from background_training.envs import env_worker

    env_worker.main(worker_platform.SocketLink(socket.socket(fileno=link)), worker_platform.NamelessFile(memory))


def serve_windows(link: int, memory: str, parent_id: int) -> None:
    """Serve through an inherited pipe handle and a named mapping."""
    worker_platform.die_with_process(parent_id)
    from multiprocessing import connection

    from background_training.envs import env_worker

    pipe = connection.PipeConnection(link)  # type: ignore[attr-defined]  # Windows only
    env_worker.main(worker_platform.PipeLink(pipe), worker_platform.NamedMapping(memory))
