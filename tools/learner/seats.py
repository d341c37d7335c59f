"""What the processes of a crew share: a seat for each member, with a piece of memory, a pair of pipe ends and a few flags.

All of it is made before the first member starts and inherited by each, so that any of them can lead others, whoever was
started first, and one that takes a dead one's seat finds everything at its place.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from tools.learner.shared_desk import Array, Opened, SharedMemory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BEAT, HOLD, ENOUGH = range(3)
"""Places of a seat's flags: BEAT counts its signs of life; while HOLD is not 0 it stands still; it trains ENOUGH epochs."""
_PLACES = 8


class Seats:
    """The worker's side. It promises that nothing of it outlives the processes that use it."""

    def __init__(self, count: int) -> None:
        """Make so many seats.

        Raises:
            OSError: the machine has no memory, or no files to open, left.
        """
        self.board = SharedMemory()
        self.layout = [((count, _PLACES), "<i8")]
        self.flags: Array = self.board.arrays(self.layout)[0]
        self.tasks = [SharedMemory() for _ in range(count)]
        """Where lies what the member on a seat leads, and what came of it."""
        self.desks = [SharedMemory() for _ in range(count)]
        """Where lies what it is a hand for."""
        pairs = [connection.Pipe() for _ in range(count)]
        self.near: list[Connection] = [near for near, _ in pairs]
        """The end of whoever leads the member on that seat."""
        self._far: list[Connection] = [far for _, far in pairs]

    def of_child(self, seat: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the member on a seat has to be told, as JSON, and the arguments of subprocess.Popen that hand it over."""
        ends = [*(end.fileno() for end in self.near), self._far[seat].fileno()]
        memories = [memory.descriptor for memory in (self.board, self.tasks[seat], *self.desks)]
        facts = {"seat": seat, "layout": self.layout, "board": self.board.whereabouts, "ends": ends, "memories": memories}
        return facts, _inherited(ends, [descriptor for descriptor in memories if descriptor >= 0])

    def close(self) -> None:
        for end in (*self.near, *self._far):
            with contextlib.suppress(OSError):
                end.close()
        for memory in (self.board, *self.tasks, *self.desks):
            memory.close()


class InheritedSeats:
    """The same as a member sees it."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.seat: int = facts["seat"]
        *near, far = (_end(handle) for handle in facts["ends"])
        self.near: list[Connection] = near
        self.far: Connection = far
        board, task, *desks = facts["memories"]
        self._board = Opened(board)
        self.flags: Array = self._board.at(facts["board"], facts["layout"])[0]
        self.desks = [SharedMemory(descriptor) for descriptor in desks]
        """To lay something out for others."""
        self.task = Opened(task)
        """What the worker lays out for us."""
        self.desk = Opened(desks[self.seat])
        """What our leader, as long as we are a hand, lays out for us."""


def _inherited(ends: list[int], descriptors: list[int]) -> dict[str, Any]:
    """Arguments of subprocess.Popen that hand these on, under the same numbers."""
    if sys.platform != "win32":
        return {"pass_fds": (*ends, *descriptors)}
    for handle in ends:
        os.set_handle_inheritable(handle, True)
    return {"startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": ends})}


def _end(handle: int) -> Connection:
    if sys.platform == "win32":
        return connection.PipeConnection(handle)
    return connection.Connection(handle)
