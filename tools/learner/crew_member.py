"""A process that works for the one beside it: trains the value network of a lesson, or makes parts of gradients.

Orders come on stdin, and what it did is told on stdout; who leads it in making parts sends jobs by a pipe of their own.
Arrays lie in memory that all see. It holds nothing: what it made is taken once it is whole, and made again by others if it
never gets so. When stdin ends, so does it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from multiprocessing import connection
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from local_training import objectives, passes, yield_point
from local_training.hands import Job
from local_training.network_training import NetworkTraining, Pace, PartWork
from local_training.optimizer import Moments
from local_training.passes import Sizes
from local_training.shared_work import CriticTask
from local_training.training_state import Trainable
from tools.learner import quiet_process
from tools.learner.hands import HandDesk, MemberHands, Who
from tools.learner.seats import BEAT, ENOUGH, HOLD, InheritedSeats

_STANDING_SECONDS = 0.02


class _EnoughError(Exception):
    """The worker needs no further epoch."""


class Hand:
    """What a member knows of the one task that it makes parts for."""

    def __init__(self, seats: InheritedSeats, message: dict[str, Any]) -> None:
        self.lesson: int = message["lesson"]
        self._desk = HandDesk.of(seats.desk.at(message["memory"], message["layout"]))
        sizes = Sizes(*message["sizes"])
        self._layers, self._into = (passes.layers_of(vector, sizes) for vector in (self._desk.weights, self._desk.gradient))
        objective = objectives.of_description(message["objective"], self._desk.steps)
        self._work = PartWork(sizes, self._desk.states, objective)
        self._epoch = -1

    def do(self, job: Job) -> objectives.Sums:
        """Make what is asked for, and leave it on the desk."""
        if job.epoch < 0:
            self._desk.outputs[job.start : job.stop] = self._work.outputs(self._layers, job.start, job.stop)
            return ()
        if job.epoch != self._epoch:
            self._work.arrange(self._desk.orders[job.epoch])
            self._epoch = job.epoch
        return self._work.gradient(self._layers, job.start, job.stop, self._into)


class Member:
    """The work on one order, or job, after another."""

    def __init__(self, facts: dict[str, Any], answers: BinaryIO) -> None:
        self._seats = InheritedSeats(facts)
        self._life: int = facts["life"]
        self._flags = self._seats.flags[self._seats.seat]
        self._answers = answers
        self._orders: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._bell, self._ring = connection.Pipe(duplex=False)
        self._lost: set[Who] = set()
        self._hand: Hand | None = None
        self._forgotten = 0
        self._epoch: int | None = None

    def run(self, orders: BinaryIO) -> None:
        """Work until stdin ends, which ends the process."""
        yield_point.rest_with(self._rest)
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()
        self.say(ready=True)
        while True:
            for end in connection.wait([self._bell, self._seats.far]):
                if end is self._bell:
                    self._bell.recv_bytes()
                    self._obey(self._orders.get())
                else:
                    self._serve(json.loads(self._seats.far.recv_bytes()))

    def say(self, **facts: Any) -> None:
        self._answers.write(json.dumps(facts).encode() + b"\n")
        self._answers.flush()

    def _listen(self, orders: BinaryIO) -> None:
        for line in orders:
            order = json.loads(line)
            if order["do"] == "lose":
                self._lost.add(Who(*order["who"]))  # at once: the order in progress may be waiting for that one
                continue
            self._orders.put(order)
            self._ring.send_bytes(b"!")
        # The worker is gone, or wants no more; what is half made is of no use to anybody.
        os._exit(0)

    def _obey(self, order: dict[str, Any]) -> None:
        if order["do"] == "forget":
            self._hand = None
            self._forgotten = max(self._forgotten, order["lesson"])
            self.say(forgotten=order["lesson"])
        else:
            self._train(order)

    def _serve(self, message: dict[str, Any]) -> None:
        """Do what a leader asks for, unless that was meant for a former process or belongs to what was broken off."""
        if message["life"] != self._life or message["lesson"] <= self._forgotten:
            return
        if "job" not in message:
            self._hand = Hand(self._seats, message)
        elif self._hand is not None and self._hand.lesson == message["lesson"]:
            sums = self._hand.do(Job(*message["job"]))
            answer = {"lesson": message["lesson"], "number": message["number"], "sums": sums}
            self._seats.far.send_bytes(json.dumps(answer).encode())

    def _train(self, order: dict[str, Any]) -> None:
        """Train all epochs, or as many as are needed, and tell of each one when its result lies on the desk."""
        lesson = order["lesson"]
        states, orders, *values, begun, results = self._seats.task.at(order["memory"], order["layout"])
        weights, first, second = begun
        trainable = Trainable(weights, Moments(first, second, order["optimizer_steps"]))
        objective = objectives.CriticObjective(values[0])
        task = CriticTask(trainable, Sizes(*order["sizes"]), states, objective, list(orders), Pace(*order["pace"]))
        hands = self._led_by_us(order, task)
        training = NetworkTraining(task.begun, task.sizes, states, objective, task.pace, hands)
        try:
            for self._epoch, steps in enumerate(orders):
                self._rest()
                training.epoch(steps)
                present = training.present
                results[self._epoch] = (present.weights, present.moments.first, present.moments.second)
                facts = {"loss": objective.loss, "optimizer_steps": present.moments.steps}
                self.say(lesson=lesson, epochs=self._epoch + 1, **facts)
        except _EnoughError:
            pass
        self._epoch = None
        if hands is not None:
            hands.settle()
        self.say(lesson=lesson, free=True)

    def _led_by_us(self, order: dict[str, Any], task: CriticTask) -> MemberHands | None:
        members = [Who(*who) for who in order["hands"]]
        if not members:
            return None
        lesson, patience = order["lesson"], order["patience"]
        return MemberHands(self._seats, members, task, lesson, self._lost.__contains__, self._lose, patience)

    def _lose(self, who: Who) -> None:
        self.say(lost=who)

    def _rest(self) -> float:
        """Show that there is life here, stand still while the worker does, stop when nobody needs the rest."""
        if self._epoch is not None and self._epoch >= self._flags[ENOUGH]:
            raise _EnoughError
        self._flags[BEAT] += 1
        while self._flags[HOLD]:
            time.sleep(_STANDING_SECONDS)
            self._flags[BEAT] += 1
        return 0.0


def main() -> int:
    """Run as `python -m tools.learner.crew_member FACTS`."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    quiet_process.lower_priority()
    member = Member(json.loads(sys.argv[1]), answers)
    with np.errstate(all="ignore"):  # what overflows is found by the worker's check of the result
        member.run(orders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
