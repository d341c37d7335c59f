"""Worker processes that read replays: each file within its time limit; a hung or dead worker is replaced.

Not concurrent.futures: there a hung task can't be ended, and one dead worker breaks the whole pool.
"""

from __future__ import annotations

import math
import queue
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import psutil

from background_training.errors import ReplayError, WorkerError
from background_training.ipc import child
from background_training.ipc.child import Child, Inbox
from background_training.ipc.supervision import LOOKS
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.analysis import ReplayResult
from background_training.starcraft.replays.worker import PATIENCE, POLITE

START_SECONDS = 300.0
"""Time a worker may take to start before something is wrong with the installation; a busy machine takes a minute."""

RECYCLE_BYTES = 85_000_000
"""A worker that has grown beyond this after a long game is replaced, so that none stays above 100 MB."""

WORKER = "background_training.starcraft.replays.worker"
SHORTEST_WAIT_SECONDS = 0.05

TRIES = 2
"""How often a file is given to a worker that then dies; the first death may have another cause."""


class _Reader:
    """One worker process and the file that it reads, or None."""

    def __init__(self, inbox: Inbox, niceness: int) -> None:
        # Without a group of its own: a kill of a periodic job, which starts a pool, reaches the pool's workers too, even
        # one that hangs where no Python code can run and so does not notice the end of its input.
        self.child = Child(child.start(WORKER, [str(niceness)], own_group=False), own_group=False, inbox=inbox)
        self.job: str | None = None
        self.ready = False
        self._cpu_limit = math.inf
        self._limit_seconds = START_SECONDS

    def give(self, path: str, results: Path | None, settings: ReplaySettings) -> None:
        self.job = path
        self._cpu_limit = self._cpu_seconds() + settings.timeout_seconds
        self._limit_seconds = settings.timeout_seconds * PATIENCE
        self.child.send("read", path=path, results=str(results) if results else "", settings=asdict(settings))

    def has_timed_out(self) -> bool:
        """Whether its file has used up its limit of processor time, or its patience by the clock.

        By the clock alone, a file read beside training on a busy machine would fail through no fault of its own.
        """
        return self.child.watchdog.has_expired(self._limit_seconds) or self._cpu_seconds() >= self._cpu_limit

    def look_seconds(self) -> float:
        """How soon to look again whether it has timed out."""
        cpu_left = self._cpu_limit - self._cpu_seconds() if self.job is not None else math.inf
        return max(SHORTEST_WAIT_SECONDS, min(cpu_left, self._limit_seconds / LOOKS))

    def _cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self.child.pid).cpu_times()
        except psutil.Error:
            return 0.0  # it has just died; the end of its output is noticed
        return float(times.user + times.system)


class WorkerPool:
    """Reads many replays at a time.

    It promises: every path given gets exactly one result, within its limit of processor time, and within five times that by
    the clock; after `close`, no process is left. If this process is killed, a worker ends at once, or, stuck where no Python
    code can run, by its own alarm.

    Args:
        settings: limits, and the number of processes.
        results: folder with results that need not be made again.
        niceness: of the processes, 0 to 19.
    """

    def __init__(self, settings: ReplaySettings, results: Path | None = None, niceness: int = POLITE) -> None:
        self._settings = settings
        self._results = results
        self._niceness = niceness
        self._workers: list[_Reader] = []
        self._inbox: Inbox = queue.SimpleQueue()
        self._tries: dict[str, int] = {}
        self.workers_replaced = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        return [worker.child.pid for worker in self._workers]

    def close(self) -> None:
        """End every worker, whatever it is doing."""
        while self._workers:
            self._workers.pop().child.close()

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, ReplayResult]]:
        """Yield (path, result) as results come; their order is not that of the paths.

        Raises:
            WorkerError: no worker can be started, or none gets ready.
        """
        waiting = deque(paths)
        open_jobs = len(waiting)
        while open_jobs:
            self._hand_out(waiting)
            for path, result in self._finished(waiting):
                open_jobs -= 1
                self._tries.pop(path, None)
                yield path, result

    def _hand_out(self, waiting: deque[str]) -> None:
        wanted = min(self._settings.workers, len(waiting) + sum(worker.job is not None for worker in self._workers))
        while len(self._workers) < wanted:
            self._workers.append(_Reader(self._inbox, self._niceness))
        for worker in self._workers:
            if waiting and worker.ready and worker.job is None:
                worker.give(waiting.popleft(), self._results, self._settings)

    def _finished(self, waiting: deque[str]) -> Iterator[tuple[str, ReplayResult]]:
        """Wait for the next answer, death or deadline; the results it brings."""
        busy = [worker for worker in self._workers if worker.job is not None or not worker.ready]
        try:
            sender, message = self._inbox.get(timeout=min(worker.look_seconds() for worker in busy))
        except queue.Empty:
            sender, message = None, None
        # Also while results keep coming: the watchdogs measure time from look to look.
        for worker in busy:
            if worker.child is not sender and worker.has_timed_out():
                yield from self._give_up(worker)
        found = next((worker for worker in self._workers if worker.child is sender), None)
        if found is None:
            return  # none came in time, or the last message of a worker that has been replaced
        if message is None:
            yield from self._bury(found, waiting)
        elif message["event"] == "ready":
            found.ready = True
        else:
            path, found.job = found.job, None
            assert path is not None
            if message["memory_bytes"] > RECYCLE_BYTES:
                self._replace(found)
            yield path, cast(ReplayResult, message["result"])

    def _give_up(self, worker: _Reader) -> Iterator[tuple[str, ReplayResult]]:
        """The worker has had its time."""
        path = worker.job
        self._replace(worker)
        if path is None:
            raise WorkerError(f"a worker was not ready after {START_SECONDS:.0f} s")
        yield path, self._failure(path, "timeout", f"{self._settings.timeout_seconds:g} s were not enough")

    def _bury(self, worker: _Reader, waiting: deque[str]) -> Iterator[tuple[str, ReplayResult]]:
        """The worker has died by itself."""
        path = worker.job
        self._replace(worker)
        if path is None and not worker.ready:
            raise WorkerError(f'a worker ended while starting; "{sys.executable} -m {WORKER}" shows why')
        if path is None:
            return
        self._tries[path] = self._tries.get(path, 0) + 1
        if self._tries[path] < TRIES:
            waiting.append(path)
        else:
            yield path, self._failure(path, "crashed", f"{TRIES} processes died of it")

    def _replace(self, worker: _Reader) -> None:
        """End it; the next one is started when there is work."""
        worker.child.close()
        self._workers.remove(worker)
        self.workers_replaced += 1

    def _failure(self, path: str, reason: str, found: str) -> ReplayResult:
        """A result for a file that no worker could finish; hashing it is all we dare do ourselves."""
        try:
            sha256 = analysis.content_hash(analysis.read_replay(path, self._settings))
        except ReplayError as error:
            return analysis.failed_result("", self._settings, error)
        return analysis.failed_result(sha256, self._settings, ReplayError(reason, found))
