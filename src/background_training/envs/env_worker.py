"""The main of a worker process: hosts envs and answers its vector env until that closes, or is gone; and its start."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, NoReturn

import cloudpickle

from background_training.envs import shared_arrays, worker_link
from background_training.envs.env_host import EnvHost, HostPlan, HostReport
from background_training.envs.shared_arrays import ANSWERED, ASKED, FIRST_OBSERVATIONS, Layout
from background_training.envs.worker_link import RING, FrameReader, pack


@dataclass
class StartOrder:
    """The first message to a worker.

    layout: None for the very first workers, whose spaces determine the layout.
    first_seeds: the seed of each env, if they are to be reset at once; None: they wait for a reset.
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

    def __init__(self, link: worker_link.WorkerLink, shared: shared_arrays.SharedMemory) -> None:
        self._link = link
        self._shared = shared
        self._receive = link.receiver()
        self._reader = FrameReader()
        self._waiting: list[Any] = []
        self._words: memoryview | None = None
        self._taken = 0

    def run(self) -> None:
        """Build the envs and serve until the vector env closes."""
        self._order = order = self._first_order()
        try:
            self._host = EnvHost(order.plan)
            self._host.build()
        # A factory may raise anything; the parent decides whether to try again.
        except Exception:  # noqa: BLE001
            self._send("failed", traceback.format_exc(), self._host.building)
            return
        report = None
        if order.layout is not None:
            self._attach(order.layout)
            if order.first_seeds is not None:
                report = self._host.reset(FIRST_OBSERVATIONS, order.first_seeds, None)
        self._send("built", None if order.layout is not None else self._description(), report)
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
            report = step(asked & 15)
            if report is None:
                words[ANSWERED] = asked
                send(RING)
            else:
                send(pack(("step", report)))
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
            self._send("step", self._host.step(*details) or HostReport())
        elif kind == "reset":
            self._send("reset", self._host.reset(*details))
        elif kind == "attach":
            self._attach(cloudpickle.loads(details[0]))
            self._send("attached")
        elif kind == "call":
            name, indexes, args, kwargs = cloudpickle.loads(details[0])
            self._answer_call("call", lambda: {index: self._host.call(name, index, args, kwargs) for index in indexes})
        else:
            assert kind == "set"
            name, values = cloudpickle.loads(details[0])
            self._answer_call("set", lambda: self._set(name, values))

    def _set(self, name: str, values: dict[int, Any]) -> None:
        for index, value in values.items():
            self._host.set_attr(name, index, value)

    def _answer_call(self, kind: str, action: Callable[[], Any]) -> None:
        """Answer with a result, or with the error of the caller's request; the env continues either way."""
        try:
            frame = pack((kind, True, action()))
        except Exception as error:  # noqa: BLE001  # the caller's own error: it is raised where the answer is awaited
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
    except Exception:  # noqa: BLE001  # __reduce__ may be the env's own code and raise anything
        return False
    return True


def serve(link: worker_link.WorkerLink, shared: shared_arrays.SharedMemory) -> None:
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
    worker_link.exit_now(status)


BOOT_CODE = (
    "import sys; del sys.path[0]; import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from background_training.envs import env_worker; env_worker.main(sys.argv[1:])"
)
"""What a new interpreter runs. The caller's main module is never loaded, so that a script without a guard, a notebook and a REPL
can have workers."""


def main(arguments: list[str]) -> None:
    """Run the process that worker_process.py has started in a new interpreter.

    Args:
        arguments: the caller's sys.path as JSON, then "posix" and the descriptors of link, memory and lifeline; "windows",
            the handle of the link, the name of the memory and the parent's process id; or "forkserver" and the descriptors of
            link and lifeline.
    """
    sys.path[:] = json.loads(arguments[0])
    sys.argv = ["vector-env-worker"]
    kind, details = arguments[1], arguments[2:]
    if kind == "windows":
        _serve_windows(int(details[0]), details[1], int(details[2]))
    elif kind == "forkserver":
        _serve_forks(int(details[0]), int(details[1]))
    else:
        _serve_posix(int(details[0]), int(details[1]), int(details[2]))


def _serve_posix(link: int, memory: int, lifeline: int) -> None:
    """Serve through inherited descriptors."""
    worker_link.die_with_lifeline(lifeline)
    worker_link.wake_on_time()
    for descriptor in (link, memory, lifeline):
        os.set_inheritable(descriptor, False)  # otherwise a game's own child processes would hold them open
    serve(worker_link.SocketLink(socket.socket(fileno=link)), shared_arrays.NamelessFile(memory))


def _serve_windows(link: int, memory: str, parent_id: int) -> None:
    """Serve through an inherited pipe handle and a named mapping."""
    worker_link.die_with_process(parent_id)
    pipe = connection.PipeConnection(link)  # type: ignore[attr-defined]  # Windows only
    serve(worker_link.PipeLink(pipe), shared_arrays.NamedMapping(memory))


def _serve_forks(link: int, lifeline: int) -> None:
    """Fork a worker for each "fork" with the descriptors of its link, memory, lifeline and, perhaps, stderr; the answer is its
    process id. For a process id the answer is the exit status of that worker, which has ended.

    Workers are not collected before they are asked for: until then the parent can kill their process groups by number.
    """
    worker_link.die_with_lifeline(lifeline)
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
        _serve_posix(link, memory, lifeline)
    except BaseException:  # noqa: BLE001  # the main of a process
        traceback.print_exc()
    finally:
        os._exit(1)
