"""The main of a worker process: hosts envs and answers its vector env until that closes, or is gone."""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
from gymnasium import Space

from background_training.envs import worker_platform
from background_training.envs.env_host import EnvHost, HostPlan, News
from background_training.envs.framing import RING, FrameReader, pack
from background_training.envs.shared_block import ANSWERED, ASKED, SharedBlock

FIRST_OBSERVATIONS = 2
"""The observation batch that a new worker's first observations go to."""


@dataclass
class Layout:
    """What the shared memory looks like; a space is None if its samples travel as messages. `spare`: see SharedBlock."""

    observation_space: Space[Any] | None
    action_space: Space[Any] | None
    count: int
    spare: int
    byte_count: int

    def view(self, memory: mmap.mmap) -> SharedBlock:
        return SharedBlock(memory, self.observation_space, self.action_space, self.count, self.spare)


@dataclass
class StartOrder:
    """The first message to a worker.

    layout: None for the very first workers, which are asked for their spaces before the memory can be laid out.
    first_seeds: per env to reset at once, its seed; None waits for the order.
    line: which of `SharedBlock.lines` is the worker's.
    spin_seconds: how long a worker polls its link before it sleeps.
    """

    plan: HostPlan
    layout: Layout | None
    first_seeds: dict[int, int | None] | None
    line: int
    spin_seconds: float


class EnvWorker:
    """Answers one vector env through one link."""

    def __init__(self, link: worker_platform.WorkerLink, shared: worker_platform.SharedMemory) -> None:
        self._link = link
        self._shared = shared
        self._receive = link.receiver()
        self._reader = FrameReader()
        self._waiting: list[Any] = []
        self._words: memoryview | None = None
        self._taken = 0

    def run(self) -> None:
        """Build the envs and serve until told to close."""
        self._order = order = self._first_order()
        try:
            self._host = EnvHost(order.plan)
            self._host.build()
        # A factory may raise anything; the parent decides whether to try again.
        except Exception:  # noqa: BLE001
            self._send("failed", traceback.format_exc(), self._host.building)
            return
        news = None
        if order.layout is not None:
            self._attach(order.layout)
            if order.first_seeds is not None:
                news = self._host.reset(FIRST_OBSERVATIONS, order.first_seeds, None)
        self._send("built", None if order.layout is not None else self._description(), news)
        try:
            while self._handle(self._next_data()):
                pass
        finally:
            self._host.close()

    def _description(self) -> bytes:
        described = {}
        for index, env in self._host.envs.items():
            metadata = {key: value for key, value in dict(env.metadata).items() if _is_picklable(value)}
            described[index] = (env.observation_space, env.action_space, metadata, env.render_mode)
        return cloudpickle.dumps(described)  # type: ignore[no-any-return]

    def _attach(self, layout: Layout) -> None:
        block = layout.view(self._shared.map(layout.byte_count))
        self._host.attach(block)
        self._words = memoryview(block.lines[self._order.line])
        self._taken = self._words[ASKED]
        self._receive = self._link.receiver(self._order.spin_seconds)

    def _next_data(self) -> bytes:
        """Take the steps that are asked for through shared memory, until more than a ring comes through the link."""
        words, receive, send, step = self._words, self._receive, self._link.send, self._host.step
        if words is None:
            return receive()
        while (data := receive()) == RING:
            asked = words[ASKED]
            if asked == self._taken:
                continue
            self._taken = asked
            news = step(asked & 15)
            if news is None:
                words[ANSWERED] = asked
                send(RING)
            else:
                send(pack(("step", news)))
        return data

    def _handle(self, data: bytes) -> bool:
        if not data:
            return False  # the parent is gone
        self._waiting += self._reader.feed(data)
        while self._waiting:
            item = self._waiting.pop(0)
            if item[0] == "close":
                return False
            self._answer(*item)
        return True

    def _answer(self, kind: str, *details: Any) -> None:
        if kind == "step":
            self._send("step", self._host.step(*details) or News())
        elif kind == "reset":
            self._send("reset", self._host.reset(*details))
        elif kind == "attach":
            self._attach(cloudpickle.loads(details[0]))
            self._send("attached")
        elif kind == "call":
            name, indexes, args, kwargs = cloudpickle.loads(details[0])
            self._tell("call", lambda: {index: self._host.call(name, index, args, kwargs) for index in indexes})
        else:
            assert kind == "set"
            name, values = cloudpickle.loads(details[0])
            self._tell("set", lambda: self._set(name, values))

    def _set(self, name: str, values: dict[int, Any]) -> None:
        for index, value in values.items():
            self._host.set_attr(name, index, value)

    def _tell(self, kind: str, action: Callable[[], Any]) -> None:
        """Answer with a result, or with the error a caller's request has led to; the env goes on either way."""
        try:
            frame = pack((kind, True, action()))
        except Exception as error:  # noqa: BLE001  # the caller's own error: it is raised where he waits for the answer
            error.__cause__ = error.__context__ = error.__traceback__ = None
            frame = pack((kind, False, error if _is_picklable(error) else RuntimeError(f"{type(error).__name__}: {error}")))
        self._link.send(frame)

    def _send(self, *message: Any) -> None:
        self._link.send(pack(message))

    def _first_order(self) -> StartOrder:
        while not self._waiting:
            data = self._receive()
            if not data:
                os._exit(0)
            self._waiting += self._reader.feed(data)
        order: StartOrder = cloudpickle.loads(self._waiting.pop(0))
        return order


def _is_picklable(value: Any) -> bool:
    try:
        cloudpickle.loads(cloudpickle.dumps(value))
    except Exception:  # noqa: BLE001  # __reduce__ is a stranger's code and may raise anything
        return False
    return True


def main(link: worker_platform.WorkerLink, shared: worker_platform.SharedMemory) -> None:
    """Serve, and leave without running the exit handlers of a forked parent."""
    status = 0
    try:
        EnvWorker(link, shared).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or has given this worker up
    except BaseException:  # noqa: BLE001  # the main of a process: the traceback goes to the stderr the parent keeps
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    worker_platform.leave(status)
