"""A worker as its vector env sees it: its process, its messages, the time its answer may take, and why it failed."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from typing import Any

import cloudpickle
import numpy as np
import psutil

from background_training.envs import worker_process
from background_training.envs.env_worker import StartOrder
from background_training.envs.shared_arrays import ANSWERED, ASKED, SharedBlock
from background_training.envs.worker_link import RING, FrameReader, pack
from background_training.errors import GarbledMessageError
from background_training.ipc.supervision import Watchdog

_STDERR_KEPT_BYTES = 4000
_STDERR_LIMIT_BYTES = 1_000_000


class WorkerFault(Exception):  # noqa: N818  # it never reaches a user
    """A worker has failed and has to be replaced.

    kind: "died", "hung", "exception", "broken pipe", "garbled pipe", "memory", "start failed".
    detail: one line for people.
    env: which env it was, if that is certain.
    in_reset: whether the env was being built or reset, not stepped.
    """

    def __init__(self, kind: str, detail: str, trace: str = "", *, env: int | None = None, in_reset: bool = False) -> None:
        super().__init__(kind, detail, trace)
        self.env = env
        self.in_reset = in_reset
        self.kind = kind
        self.detail = detail
        self.trace = trace


class WorkerHandle:
    """One worker process and the envs it hosts.

    Its methods raise WorkerFault when the worker has failed; its owner then calls `kill`. It never restarts anything.
    """

    def __init__(self, order: StartOrder, memory: Any, start_method: str, fork_server: Any, *, capture_stderr: bool) -> None:
        self.order = order
        self.envs = tuple(order.plan.factories)
        self.incarnation = order.plan.incarnation
        self.ready = False
        self.episodes = 0
        self.expects = ""
        self._limit_seconds = float("inf")
        self._watchdog = Watchdog()
        self._seen_progress = b""
        self._reader = FrameReader()
        self._items: list[Any] = []
        self._words: memoryview | None = None
        self._asked = -1
        self._stderr: Any = tempfile.TemporaryFile() if capture_stderr else None  # noqa: SIM115  # lives as long as the handle
        try:
            self.process, self.link, self._close_lifeline = worker_process.launch(start_method, memory, self._stderr, fork_server)
        except OSError:
            self._close_stderr()
            raise
        self.closed = False
        # Twice as long as a worker, which waits only for the caller's next actions, not for a step.
        self._receive = self.link.receiver(2 * order.spin_seconds)
        with contextlib.suppress(OSError):  # it has died already, which is noticed when its answer is awaited
            self.link.send(pack(cloudpickle.dumps(order)))

    def attach(self, block: SharedBlock) -> None:
        """Connect to the memory that steps are asked for and answered through."""
        self._words = memoryview(block.lines[self.order.line])

    def expect(self, kind: str, limit_seconds: float) -> None:
        """Set which answer is awaited from now on, and how long one env may take for it."""
        self.expects = kind
        self._limit_seconds = limit_seconds
        self._watchdog = Watchdog()
        self._seen_progress = b""

    def send(self, *message: Any) -> None:
        """Send a message.

        Raises:
            WorkerFault: it can't be sent: the worker has died, or does not read.
        """
        self._asked = -1
        self._send_bytes(pack(message))

    def ask_step(self, step: int, batch: int) -> None:
        """Ask for a step whose actions lie in shared memory.

        Args:
            step: a number that differs from step to step.
            batch: the observation batch to write to.

        Raises:
            WorkerFault: as `send`.
        """
        assert self._words is not None
        self._words[ASKED] = self._asked = step << 4 | batch
        self._send_bytes(RING)

    def _send_bytes(self, data: bytes) -> None:
        try:
            self.link.send(data)
        except OSError as error:
            raise self._fault_of_closed_link(error) from None

    def has_stepped(self) -> bool:
        """Whether the step that `ask_step` asked for is done, without a message about it."""
        return self._words is not None and bool(self._words[ANSWERED] == self._asked)

    def poll_answer(self) -> bool:
        """Wait for PATIENCE_SECONDS at most for a step's answer without a report; anything else is kept for `next_message`.

        Raises:
            WorkerFault: the link is closed, or what came is garbled.
        """
        try:
            data = self._receive()
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._fault_of_closed_link(error) from None
        if data == RING and not self._items:
            return self.has_stepped()
        self._feed(data)
        return False

    def next_message(self) -> Any | None:
        """The next message that has arrived, or None.

        Raises:
            WorkerFault: the link is closed, or what came is garbled.
        """
        if not self._items:
            data = self.link.receive_now()
            if data is not None:
                self._feed(data)
        return self._items.pop(0) if self._items else None

    def _feed(self, data: bytes) -> None:
        if not data:
            raise self._fault_of_closed_link(None)
        try:
            self._items += self._reader.feed(data)
        except GarbledMessageError as error:
            raise WorkerFault("garbled pipe", str(error)) from None

    def check(self, block: SharedBlock | None) -> None:
        """Check that the worker runs and makes progress from env to env; called several times within the limit.

        Raises:
            WorkerFault: it has died, or hangs.
        """
        status = self.process.exit_status()
        if status is not None:
            data = self.link.receive_now()
            if not data:
                raise WorkerFault("died", describe_exit(status))
            self._feed(data)  # what it has sent before still counts
            return
        if block is not None and self.expects in ("step", "reset"):
            progress = block.progress[list(self.envs)].tobytes()
            if progress != self._seen_progress:
                self._seen_progress = progress
                self._watchdog.feed()
        if not self._watchdog.has_expired(self._limit_seconds):
            return
        if not self.ready:
            raise WorkerFault("start failed", "not up within the time limit")
        raise WorkerFault("hung", f"no answer to {self.expects} within the time limit")

    def culprit(self, block: SharedBlock | None) -> int:
        """The env whose code was running, as far as the worker has noted it; otherwise the first."""
        if block is not None and self.ready:
            for index in self.envs:
                if int(block.progress[index]) & 1:
                    return index
        return self.envs[0]

    def memory_bytes(self) -> int:
        """Resident memory; 0 if it is unknown."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def trim_stderr(self) -> None:
        """Empty the file above a limit; otherwise a game that prints much could fill the disk."""
        if self._stderr is not None and os.fstat(self._stderr.fileno()).st_size > _STDERR_LIMIT_BYTES:
            os.ftruncate(self._stderr.fileno(), 0)

    def stderr_tail(self) -> str:
        """The end of the worker's stderr."""
        if self._stderr is None or self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        self._stderr.seek(max(0, size - _STDERR_KEPT_BYTES))
        return str(self._stderr.read(_STDERR_KEPT_BYTES).decode("utf-8", "replace")).strip("\0 \n")

    def ask_to_close(self) -> None:
        """Let it close its envs; the caller waits, and kills it after a time limit."""
        with contextlib.suppress(OSError):
            self.link.send(pack(("close",)))

    def kill(self) -> None:
        """Kill the worker and what it has started, and free all that belongs to it."""
        if self.closed:
            return
        self.closed = True
        self.process.kill()
        self.link.close()
        self._close_lifeline()
        self._close_stderr()

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            self._stderr.close()

    def _fault_of_closed_link(self, error: OSError | None) -> WorkerFault:
        if isinstance(error, BlockingIOError):
            return WorkerFault("hung", "it does not read what it is sent")
        # The link closes a moment before the process has ended.
        status = self.process.wait(0.2)
        if status is None:
            return WorkerFault("broken pipe", "the link is closed, but the process runs")
        return WorkerFault("died", describe_exit(status))


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def zero_progress(block: SharedBlock, envs: tuple[int, ...]) -> None:
    """Mark envs as not running, after their worker was killed within one."""
    block.progress[list(envs)] &= np.uint32(0x7FFFFFFE)
