"""How a step is asked for and answered by numbers in shared memory: who sleeps is woken through the link, who looks is not.

To be woken by the kernel costs both sides 10 to 20 us and leaves cold caches, which is much where a step is 100 us of
work. So each side looks for a moment before it sleeps, where cores are idle and steps follow each other quickly. Every
word has one writer, and no question is asked twice: a ring too many, or too late, is a look in vain.

Two that look at each other must run on two cores. A worker looks only if the parent was looking when it answered, and
the parent, whose ring likes to put the worker on its own core, has it moved if it does not begin.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

LINE_WORDS = 16
"""Words (int64) of one worker: a cache line that the parent writes, and one that the worker writes."""

RACE_SECONDS = 0.001
"""Who has just stopped looking sleeps no longer than that at first: the other side may still have seen it look."""

_ASKED, _PARENT_LOOKS, _LOOK_NANOSECONDS = 0, 1, 2
_ANSWERED, _WORKER_LOOKS, _TAKEN, _PAUSE_NANOSECONDS = 8, 9, 10, 11

# A question: generation of the worker, step, observation batch. A worker that was replaced takes none of its successor's.
_BATCH_BITS, _STEP_BITS, _GENERATION_BITS = 4, 40, 17
_GENERATION_SHIFT = _STEP_BITS + _BATCH_BITS
_BATCHES = (1 << _BATCH_BITS) - 1
_NEWS = 1 << (_BATCH_BITS + _STEP_BITS + _GENERATION_BITS)

_SEVERAL = (None,) * 16  # looks between two looks at the clock
_BEGIN_SECONDS = 40e-6  # within which a worker that was rung has begun, unless it waits for our core
_INTERRUPTED_SECONDS = 300e-6
_FEWEST_SKIPPED, _MOST_SKIPPED = 16, 8192
_ENOUGH_PAID = 100


def memory_is_ordered() -> bool:
    """Whether other cores see first what was written first; elsewhere only the kernel's ring makes that sure."""
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")


class Patience:
    """Whether to look before sleeping: it has paid lately, and no other program wanted the core meanwhile.

    After a look in vain, or one within which our core was taken away, the next 16 steps go without; after each further
    one twice as many, until a hundred looks in a row have paid. So a caller that stops to think now and then loses
    little, and a busy neighbour keeps its core.
    """

    def __init__(self) -> None:
        self._skip = 0
        self._paid = 0
        self._length = _FEWEST_SKIPPED // 2

    def looks(self) -> bool:
        """Whether to look this time."""
        if self._skip:
            self._skip -= 1
            return False
        return True

    def paid(self) -> None:
        """Note that what was looked for came."""
        self._paid += 1

    def failed(self) -> None:
        """Note that it did not come, or that the core was taken away meanwhile."""
        self._length = _FEWEST_SKIPPED if self._paid >= _ENOUGH_PAID else min(2 * self._length, _MOST_SKIPPED)
        self._skip, self._paid = self._length, 0


class _Bell:
    def __init__(self, words: memoryview, generation: int) -> None:
        self._words = words
        self._generation = generation % ((1 << _GENERATION_BITS) - 1) + 1  # never 0, which says that nobody looks
        self._patience = Patience()

    def _look(self, word: int, seen: int, seconds: float) -> tuple[bool, bool]:
        """Look until the word has changed, or for so long; whether it has, and whether the core was taken away."""
        words, clock = self._words, time.perf_counter
        before = clock()
        end = before + seconds
        while True:
            for _ in _SEVERAL:
                if words[word] != seen:
                    return True, clock() - before > _INTERRUPTED_SECONDS
            now = clock()
            if now > end or now - before > _INTERRUPTED_SECONDS:
                return False, now - before > _INTERRUPTED_SECONDS
            before = now

    def _look_patiently(self, word: int, seen: int, seconds: float) -> None:
        changed, interrupted = self._look(word, seen, seconds)
        if changed and not interrupted:
            self._patience.paid()
        else:
            self._patience.failed()


class ParentsBell(_Bell):
    """The vector env's side of one worker.

    It looks twice as long as a worker, which waits for the caller's thoughts only, not for a step. `move` moves the
    worker to another core than ours.
    """

    def __init__(self, words: memoryview, generation: int, look_seconds: float, move: Callable[[], None]) -> None:
        super().__init__(words, generation)
        self._look_seconds = 2 * look_seconds
        self._move = move
        self._looks = self._rung = False
        self._question = -1
        self.looked_in_vain = False
        words[_LOOK_NANOSECONDS] = int(look_seconds * 1e9)

    def ask(self, step: int, batch: int, *, wait_first: bool = True) -> bool:
        """Ask for a step into that observation batch; True if the worker must be rung.

        Args:
            step: a number that differs from step to step.
            batch: where its observations go to.
            wait_first: whether its answer is waited for before those of others; the others' need not wake us.
        """
        words = self._words
        step &= (1 << _STEP_BITS) - 1
        self._question = question = ((self._generation << _STEP_BITS) | step) << _BATCH_BITS | batch
        self._looks = words[_PAUSE_NANOSECONDS] < words[_LOOK_NANOSECONDS] and self._patience.looks()
        words[_PARENT_LOOKS] = question if self._looks else 0 if wait_first else -question
        words[_ASKED] = question
        self._rung = words[_WORKER_LOOKS] != self._generation
        return self._rung

    def point_to_link(self) -> None:
        """Something else is asked for through the link: a worker that looks here shall look there."""
        self._question = -1
        self._words[_PARENT_LOOKS] = 0
        self._words[_ASKED] = 0

    def answered(self) -> bool:
        """Whether the step is done and there is nothing more to tell."""
        return bool(self._words[_ANSWERED] == self._question)

    def look_for_answer(self) -> bool:
        """Look once, or for a moment if that pays; False if from now on only a ring tells of the answer."""
        words, question = self._words, self._question
        self.looked_in_vain = False
        if not words[_PARENT_LOOKS]:
            return False
        answered = words[_ANSWERED]
        if self._looks and answered & ~_NEWS != question:
            if self._rung and not self._begins():
                self._move()
            self._look_patiently(_ANSWERED, answered, self._look_seconds)
            answered = words[_ANSWERED]
        if answered & ~_NEWS == question:
            return True
        words[_PARENT_LOOKS] = 0
        self.looked_in_vain = True
        return False

    def _begins(self) -> bool:
        taken = self._words[_TAKEN]
        return bool(taken == self._question) or self._look(_TAKEN, taken, _BEGIN_SECONDS)[0]

    def sleep(self) -> None:
        """Look no more."""
        self._words[_PARENT_LOOKS] = 0


class WorkersBell(_Bell):
    """The worker's side."""

    def __init__(self, words: memoryview, generation: int) -> None:
        super().__init__(words, generation)
        self._taken = words[_ASKED]
        self._answered_at = 0
        self._is_looked_at = False
        self.looked_in_vain = False

    def question(self, *, look: bool = True) -> int:
        """The observation batch of the step that is asked for, or -1; it looks for a moment, if that pays."""
        words, taken = self._words, self._taken
        asked = words[_ASKED]
        self.looked_in_vain = False
        if asked == taken:
            if not (look and self._is_looked_at and self._patience.looks()):
                return -1
            words[_WORKER_LOOKS] = self._generation
            self._look_patiently(_ASKED, taken, words[_LOOK_NANOSECONDS] * 1e-9)
            words[_WORKER_LOOKS] = 0
            asked = words[_ASKED]
            if asked == taken:
                self.looked_in_vain = True
                return -1
        if asked >> _GENERATION_SHIFT != self._generation:
            return -1
        self._taken = words[_TAKEN] = asked
        if words[_LOOK_NANOSECONDS]:
            words[_PAUSE_NANOSECONDS] = time.perf_counter_ns() - self._answered_at
        return int(asked & _BATCHES)

    def answer(self, *, with_news: bool) -> bool:
        """Say that the step is done; True if the parent must be rung. News have gone through the link before."""
        words = self._words
        words[_ANSWERED] = self._taken | _NEWS if with_news else self._taken
        looked_for = words[_PARENT_LOOKS]
        if words[_LOOK_NANOSECONDS]:
            self._answered_at = time.perf_counter_ns()
        self._is_looked_at = looked_for == self._taken
        return not with_news and looked_for not in (self._taken, -self._taken)
