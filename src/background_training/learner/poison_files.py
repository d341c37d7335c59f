"""Poison files: which files kill the workers, derived from what each worker announced before it died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from background_training.printable import visible

_READS_UNTIL_REJECTED = 2
"""Deaths with an announced file. One death more came before, since workers announce files only after a death."""
_BATCHES_UNTIL_ALONE = 2
_ALONE_UNTIL_REJECTED = 3

_READING = "the process that read it died three times; a harmless file is needed"
_TRAINING = f"the process that trained on it, and on nothing else, died {_ALONE_UNTIL_REJECTED} times; a harmless file is needed"


class PoisonFiles:
    """Counts worker deaths per file.

    A worker announces each batch before it trains on it, and after a death also each file before it reads it. The files
    of a batch that has died twice are trained on in batches of one; a file that kills a worker three times alone is
    rejected. A success resets the counts of its files. Workers killed by hand, repeatedly during the same batch, can't be
    told from workers killed by a file.
    """

    def __init__(self) -> None:
        self._reading = ""
        self._training: tuple[str, ...] = ()
        self._reads: Counter[str] = Counter()
        self._batches: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()

    def reading(self, name: str) -> None:
        """A worker is about to read this file, or none if ""; it has survived the last one."""
        self._reads.pop(self._reading, None)
        self._reading = name

    def training(self, names: Sequence[str]) -> None:
        """A worker is about to train on these files, or none; it has survived the last ones."""
        for name in self._training:
            self._forgive(name)
        self._training = tuple(names)

    def file_left(self, printed_name: str) -> None:
        """A file has left the buffer; a later one of its name is another file."""
        for name in [*self._reads, *self._batches, *self._alone]:
            if visible(name) == printed_name:
                self._forgive(name)

    def worker_died(self) -> None:
        if self._reading:
            self._reads[self._reading] += 1
        self._batches.update(self._training)
        if len(self._training) == 1:
            self._alone.update(self._training)
        self._reading, self._training = "", ()

    def orders(self) -> Mapping[str, Any]:
        """Orders for the next worker: `deadly`, name to the reason for its rejection; `alone`, names for batches of one."""
        deadly = {name: _READING for name, deaths in self._reads.items() if deaths >= _READS_UNTIL_REJECTED}
        deadly |= {name: _TRAINING for name, deaths in self._alone.items() if deaths >= _ALONE_UNTIL_REJECTED}
        return {"deadly": deadly, "alone": [name for name, deaths in self._batches.items() if deaths >= _BATCHES_UNTIL_ALONE]}

    def _forgive(self, name: str) -> None:
        for deaths in (self._reads, self._batches, self._alone):
            deaths.pop(name, None)
