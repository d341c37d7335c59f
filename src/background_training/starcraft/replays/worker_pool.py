"""Worker processes that read replays: each file within its time limit, a hung or dead worker replaced.

Not concurrent.futures: there a hung task can't be ended, and one dead worker breaks the whole pool.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import psutil

from background_training.errors import ReplayError, WorkerError
from background_training.paths import PACKAGE_PARENT
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import analysis
from background_training.starcraft.replays.analysis import ReplayResult
from background_training.starcraft.replays.worker import PATIENCE, POLITE

START_SECONDS = 300.0
"""Time a worker may take to start before something is wrong with the installation; a busy machine takes a minute."""

RECYCLE_BYTES = 85_000_000
"""A worker that has grown beyond this after a long game is replaced, so that none stays above 100 MB."""

SHORTEST_WAIT_SECONDS = 0.05

TRIES = 2
"""How often a file is given to a worker that then dies; the first time, the death may be somebody else's doing."""


class _Worker:
    """One process, its reader thread, and the job it has in hand.

    deadline: when to look whether it has had its time.
    """

    def __init__(self, answers: queue.Queue[tuple[_Worker, bytes]], niceness: int) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")))),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "background_training.starcraft.replays.worker", str(niceness)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=PACKAGE_PARENT,  # "-m" looks there first; the caller's folder may hold a "tools" of its own
            env=environment,
        )
        self.job: str | None = None
        self.ready = False
        self.deadline = self._last_moment = time.monotonic() + START_SECONDS
        self._cpu_limit = 0.0
        self._reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        self._reader.start()

    def _read(self, answers: queue.Queue[tuple[_Worker, bytes]]) -> None:
        output = self._process.stdout
        assert output is not None
        for line in output:
            answers.put((self, line))
        answers.put((self, b""))

    @property
    def process_id(self) -> int:
        return self._process.pid

    def give(self, path: str, results: Path | None, settings: ReplaySettings) -> None:
        self.job = path
        self._cpu_limit = self._cpu_seconds() + settings.timeout_seconds
        self.deadline = time.monotonic() + settings.timeout_seconds
        self._last_moment = time.monotonic() + settings.timeout_seconds * PATIENCE
        message = {"path": path, "results": str(results) if results else "", "settings": asdict(settings)}
        assert self._process.stdin is not None
        # If it has just died, its reader says so.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def has_had_its_time(self) -> bool:
        """Whether its file has used up its limit of processor time, or its patience by the clock; else put the deadline off.

        By the clock alone, a file read beside training on a busy machine would fail through no fault of its own.
        """
        now, left = time.monotonic(), self._cpu_limit - self._cpu_seconds()
        self.deadline = min(self._last_moment, now + max(left, SHORTEST_WAIT_SECONDS))
        return left <= 0 or now >= self._last_moment

    def _cpu_seconds(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0  # It has just died; its reader says so.
        return float(times.user + times.system)

    def end(self) -> None:
        """Kill it and wait until it is gone; it holds nothing that can be lost."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            # Closing flushes, and a dead reader never takes the rest.
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


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
        self._workers: list[_Worker] = []
        self._answers: queue.Queue[tuple[_Worker, bytes]] = queue.Queue()
        self._tries: dict[str, int] = {}
        self.workers_replaced = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        return [worker.process_id for worker in self._workers]

    def close(self) -> None:
        """End every worker, whatever it is at."""
        while self._workers:
            self._workers.pop().end()

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
            self._workers.append(_Worker(self._answers, self._niceness))
        for worker in self._workers:
            if waiting and worker.ready and worker.job is None:
                worker.give(waiting.popleft(), self._results, self._settings)

    def _finished(self, waiting: deque[str]) -> Iterator[tuple[str, ReplayResult]]:
        """Wait for the next answer, death or deadline; the results it brings."""
        now = time.monotonic()
        busy = [worker for worker in self._workers if worker.job is not None or not worker.ready]
        try:
            worker, line = self._answers.get(timeout=max(0.0, min(worker.deadline for worker in busy) - now))
        except queue.Empty:
            for worker in [worker for worker in busy if worker.deadline <= time.monotonic() and worker.has_had_its_time()]:
                yield from self._give_up(worker)
            return
        if worker not in self._workers:
            return  # the last words of one we have already replaced
        if not line:
            yield from self._bury(worker, waiting)
            return
        message = json.loads(line)
        if "ready" in message:
            worker.ready = True
            return
        path, worker.job = worker.job, None
        assert path is not None
        if message["rss"] > RECYCLE_BYTES:
            self._replace(worker)
        yield path, cast(ReplayResult, message["result"])

    def _give_up(self, worker: _Worker) -> Iterator[tuple[str, ReplayResult]]:
        """The worker has had its time."""
        path = worker.job
        self._replace(worker)
        if path is None:
            raise WorkerError(f"a worker was not ready after {START_SECONDS:.0f} s")
        yield path, self._failure(path, "timeout", f"{self._settings.timeout_seconds:g} s were not enough")

    def _bury(self, worker: _Worker, waiting: deque[str]) -> Iterator[tuple[str, ReplayResult]]:
        """The worker has died by itself."""
        path = worker.job
        self._replace(worker)
        if path is None and not worker.ready:
            raise WorkerError(
                f'a worker ended while starting; "{sys.executable} -m background_training.starcraft.replays.worker" shows why'
            )
        if path is None:
            return
        self._tries[path] = self._tries.get(path, 0) + 1
        if self._tries[path] < TRIES:
            waiting.append(path)
        else:
            yield path, self._failure(path, "crashed", f"{TRIES} processes died of it")

    def _replace(self, worker: _Worker) -> None:
        """End it; the next one is started when there is work."""
        worker.end()
        self._workers.remove(worker)
        self.workers_replaced += 1

    def _failure(self, path: str, reason: str, found: str) -> ReplayResult:
        """A result for a file that no worker could finish; hashing it is all we dare do ourselves."""
        try:
            sha256 = analysis.content_hash(analysis.read_replay(path, self._settings))
        except ReplayError as error:
            return analysis.failed_result("", self._settings, error)
        return analysis.failed_result(sha256, self._settings, ReplayError(reason, found))
