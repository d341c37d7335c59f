"""One file of the metrics history as its writer sees it: taken up where it ends, added to, kept short."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from local_training import atomic_files, record_file
from local_training.metrics import SCHEMA
from local_training.record_file import Place, Records
from tools.learner.thinning import thinned

FORMER_SUFFIX = ".former"
_TRIES_PER_FILLING = 16


@dataclass
class Series:
    """Records in the order of their versions, at most about `most` of them."""

    path: Path
    layout: np.dtype[Any]
    most: int
    count: int = 0
    thin_at: int = 0

    def take_up(self, version: int) -> int:
        """Go on where the file ends, without records of versions after `version`; return the newest version it then tells of.

        What is not ours, or tells of versions that the model has not reached, is another history: it is kept beside, as
        `.former`. But of the next version there may be records that a killed process has begun; these are dropped.

        Raises:
            OSError: the machine failed.
        """
        if self._is_strange():
            self._set_aside()
        record_file.mend(self.path, self.layout, SCHEMA)
        records = self._read()
        sound = records[records["version"] <= version]
        if len(sound) < len(records):
            if int(records["version"].max()) > version + 1:
                self._set_aside()
            record_file.replace(self.path, sound, SCHEMA)
        self.count, self.thin_at = len(sound), self.most
        return int(sound["version"][-1]) if len(sound) else 0

    def add(self, records: Records) -> None:
        """Put records at the end, and make the older ones fewer when there are too many.

        Raises:
            OSError: the machine failed; take it up anew, as a part of them may have been written.
        """
        record_file.append(self.path, records, SCHEMA)
        self.count += len(records)
        if self.count > self.thin_at:
            self._thin()

    def _thin(self) -> None:
        # On Windows a reader may be in the way just now; then the file may grow on for a while.
        self.thin_at = self.count + self.most // _TRIES_PER_FILLING
        records = self._read()
        if len(records) > self.most // 2:
            records = thinned(records, self.most)
        record_file.replace(self.path, records, SCHEMA)
        self.count, self.thin_at = len(records), self.most

    def _read(self) -> Records:
        return record_file.read(self.path, self.layout, SCHEMA, Place())[0]

    def _is_strange(self) -> bool:
        if not atomic_files.exists(self.path):
            return False
        is_file = stat.S_ISREG(os.lstat(self.path).st_mode)
        return not is_file or record_file.read(self.path, self.layout, SCHEMA, Place())[1] == Place()

    def _set_aside(self) -> None:
        former = self.path.with_name(f"{self.path.name}{FORMER_SUFFIX}")
        atomic_files.retry_while_shared(lambda: os.replace(self.path, former))
