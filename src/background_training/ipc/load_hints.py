"""Load hints from a game to the learner: how long its frames take, "busy now", "free now"; a file of one line per game.

A line is a word, the seconds for which it holds (2 by default), and a remark for people: `busy 5 boss fight`. The word
`frame` is followed by the seconds that the last frame took instead. Each game writes a file of its own in data/game_voice/.
A hint that is not renewed within its time expires, so that the last hint of a dead game does not stop the learner for ever.

The name of a file begins with the process id of its game, `<pid>_`; the learner does not count the load of that process and
its children as that of other programs. A game without hints registers with a file that holds the word `game`, which is no hint.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from background_training.paths import Paths

if TYPE_CHECKING:
    import psutil

BUSY, SLOW, STEADY, FREE, FRAME = "busy", "slow", "steady", "free", "frame"

HOLD_SECONDS = 2.0
LONGEST_HOLD_SECONDS = 60.0
LINE_BYTES = 96
RENEW_SECONDS = 0.5
SUFFIX = ".txt"
_OUTDATED_SECONDS = 3600.0
_REGISTERED = "game"
_CLOCK_TOLERANCE_SECONDS = 10.0
_RANK = (BUSY, SLOW, STEADY, FREE)


USUAL_SHARE = 0.9
"""The usual frame time is this quantile of the game's own frame times, so that jitter is part of it."""
SLOWER_BY = 1.25
"""A frame is slow if it takes more than this times the usual time."""
_ADAPT_SECONDS = 10.0
_PASSED_OVER, _FIRST_FRAMES, _FIRST_SECONDS = 10, 40, 3.0
_LAST_FRAMES = 0b1111
_STEADY_AGAIN_SECONDS = 0.25
_SEVERAL = tuple(bits.bit_count() >= 2 for bits in range(_LAST_FRAMES + 1))


class LoadHints:
    """The game's side: writes hints, at a cost of microseconds, and never raises because of them.

    The line is overwritten in place by a single call, without a new file each time. A reader that finds half a line keeps
    the hint before. Nothing is written before `register` or the first hint. Not thread-safe.
    """

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = paths.game_voice
        self._clock = clock
        self._pace = FramePace()
        self._last = ""
        self._due = -math.inf
        self._count = 0
        self._descriptor = -1
        self._finalizer: weakref.finalize[..., LoadHints] | None = None

    def register(self) -> None:
        """Show the learner that this process is a game of the root; costs nothing after the first time.

        It makes no folder: in a root without data there is no learner yet, so a later call registers.
        """
        if self._descriptor < 0 and (moment := self._clock()) >= self._due:
            self._due = moment + RENEW_SECONDS
            if os.path.isdir(self._folder.parent):
                self._write(_REGISTERED, 0.0, "", moment)
                self._last = ""

    def frame(self, seconds: float) -> None:
        """Report how long the last frame took: its work or its interval, but always the same of the two."""
        word = _word(self._pace, seconds)
        moment = self._clock()
        if word != self._last or moment >= self._due:
            self._write(word, HOLD_SECONDS, _remark(self._pace), moment)

    def busy(self, seconds: float = 5.0) -> None:
        """Ask the learner to pause for `seconds`, a minute at most, or until the next hint."""
        self._keep(BUSY, seconds)

    def free(self, seconds: float = 5.0) -> None:
        """Report a good time to train, such as a menu or a loading screen; holds as `busy` does."""
        self._keep(FREE, seconds)

    def close(self) -> None:
        """Withdraw the hint and remove the file."""
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None
            self._descriptor = -1
            self._last = ""

    def _keep(self, word: str, seconds: float) -> None:
        moment = self._clock()
        if word != self._last or moment >= self._due:
            self._write(word, seconds, "", moment)

    def _write(self, word: str, hold_seconds: float, remark: str, moment: float) -> None:
        self._last, self._due = word, moment + min(RENEW_SECONDS, hold_seconds / 4)
        self._count += 1
        # The count makes every line different: some systems update the mtime of an open file only when it is closed.
        line = f"{word} {hold_seconds:g} {remark} #{self._count}".encode()[: LINE_BYTES - 1]
        try:
            if self._descriptor < 0:
                self._open()
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, line.ljust(LINE_BYTES - 1) + b"\n")
        except OSError:
            # A hint is not worth an error in the game; retry later, not at every frame.
            self._due = moment + 10 * RENEW_SECONDS

    def _open(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        path = self._folder / f"{os.getpid()}_{secrets.token_hex(4)}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o666)
        self._finalizer = weakref.finalize(self, _withdraw, self._descriptor, path, os.getpid())


def _word(pace: FramePace, seconds: float) -> str:
    """The hint after one more frame: BUSY while the usual pace is measured, or the learner's load would be part of it."""
    usual = pace.is_usual_after(seconds)
    return BUSY if pace.is_new else STEADY if usual else SLOW


def _remark(pace: FramePace) -> str:
    if pace.is_new:
        return "its usual pace is not known yet"
    return f"{1000 * pace.newest:.1f} ms, usually {1000 * pace.usual:.1f} ms"


def _withdraw(descriptor: int, path: Path, owner: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if os.getpid() == owner:  # not in a forked child: the file is still in use by the parent
        with contextlib.suppress(OSError):
            os.unlink(path)


class FramePace:
    """Tracks one game's frame times: whether its frames take longer than they usually do.

    The pace is slow when two of the last four frames are; a single slow frame is ignored. After a quarter of a second
    without a slow frame it is usual again. The usual frame time adapts: a scene that stays heavier counts as usual after
    about ten seconds, whatever the cause. So this detects a change; it does not measure how good the pace is.

    Attributes:
        is_new: true for the first forty frames, or three seconds, while there is no usual pace yet. The first ten of them
            are left out, so that the learner has time to stop before the measurement.
        usual: seconds, the 90 % quantile of the recent frame times.
        newest: seconds of the last frame.
    """

    def __init__(self) -> None:
        self.is_new = True
        self.usual = 0.0
        self.newest = 0.0
        self._first: list[float] = []
        self._last = 0
        self._slow = False
        self._steady_seconds = 0.0

    def is_usual_after(self, seconds: float) -> bool:
        """Add a frame; whether the pace is usual. Costs about a microsecond."""
        if not 0.0 < seconds < math.inf:
            return not self._slow
        self.newest = seconds
        if self.is_new:
            self._start_with(seconds)
            return True
        is_slow = seconds > SLOWER_BY * self.usual
        # Stochastic quantile estimate: up by USUAL_SHARE of a step for a longer frame, down by the rest for a shorter one,
        # which balance at that quantile. The step is bounded by a tenth; otherwise one long frame would become the usual.
        step = self.usual * min(seconds / _ADAPT_SECONDS, 0.1)
        self.usual += USUAL_SHARE * step if seconds > self.usual else -(1.0 - USUAL_SHARE) * step
        self._last = (self._last << 1 | is_slow) & _LAST_FRAMES
        if _SEVERAL[self._last]:
            self._slow = True
        self._steady_seconds = 0.0 if is_slow else self._steady_seconds + seconds
        if self._steady_seconds >= _STEADY_AGAIN_SECONDS:
            self._slow = False
        return not self._slow

    def _start_with(self, seconds: float) -> None:
        self._first.append(seconds)
        counted = sorted(self._first[_PASSED_OVER:] or self._first)
        self.usual = counted[int(USUAL_SHARE * len(counted))]
        self.is_new = len(self._first) < _FIRST_FRAMES and sum(self._first) < _FIRST_SECONDS


@dataclass
class _GameFile:
    """The state of one game's file as last read."""

    changed: tuple[int, bytes] = (0, b"")
    word: str = ""
    remark: str = ""
    until: float = -math.inf
    pace: FramePace = field(default_factory=FramePace)


class LoadHintReader:
    """The learner's side: the hint that counts now."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.game_voice
        self._files: dict[str, _GameFile] = {}

    def read(self, moment: float, wall_time: float) -> tuple[str, str]:
        """The hint that counts and its remark; ("", "") if there is none.

        Of several games, a busy one counts first, then one with slow frames, then the others.

        Args:
            moment: seconds of a clock that never goes back.
            wall_time: seconds since 1970, for the age of a hint that was written before the first call.
        """
        names = self._names()
        self._files = {name: self._files.get(name) or _GameFile() for name in names}
        for name, game in self._files.items():
            self._read_file(name, game, moment, wall_time)
        valid = [game for game in self._files.values() if moment < game.until]
        first = min(valid, key=lambda game: _RANK.index(game.word), default=None)
        return (first.word, first.remark) if first else ("", "")

    def _names(self) -> Iterable[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        except OSError:
            return []

    def _read_file(self, name: str, game: _GameFile, moment: float, wall_time: float) -> None:
        path = self._folder / name
        try:
            with open(path, "rb") as file:
                line, modified = file.read(4 * LINE_BYTES), os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return
        if (modified, line) == game.changed:
            return
        # Later hints are timed by `moment`, since the wall clock may jump.
        age = max(0.0, wall_time - modified / 1e9) if not game.changed[1] else 0.0
        game.changed = (modified, line)
        if age > _OUTDATED_SECONDS and owner(path, modified / 1e9) is None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return
        hint = _parsed(line)
        if hint is None:
            return
        word, number, remark = hint
        if word == FRAME:
            word, remark, number = _word(game.pace, number), _remark(game.pace), HOLD_SECONDS
        game.word, game.remark = word, remark
        game.until = moment + min(number, LONGEST_HOLD_SECONDS) - age


def owner(path: Path, modified: float) -> psutil.Process | None:
    """The process that a file's name begins with; None if there is none, or if it was started after the file was `modified`.

    Such a process has got the id of one that has ended.
    """
    # Only the learner reads: a game runs without psutil.
    import psutil

    digits = path.name.partition("_")[0]
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits[:12]) < 2**31):
        return None
    try:
        process = psutil.Process(int(digits))
        return process if process.create_time() <= modified + _CLOCK_TOLERANCE_SECONDS else None
    except (OSError, psutil.Error):
        return None


def registered(folder: Path) -> list[psutil.Process]:
    """The running processes of the games of this folder."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if entry.name.endswith(SUFFIX) and (process := owner(Path(entry.path), entry.stat().st_mtime)) is not None:
                    found[process.pid] = process
    return [found[pid] for pid in sorted(found)]


def _parsed(line: bytes) -> tuple[str, float, str] | None:
    """Word, number and remark of a line; None if it is not a valid hint."""
    if len(line) >= LINE_BYTES and not line.endswith(b"\n"):
        return None
    words = line.decode("ascii", "replace").split()
    if not words or words[0] not in (*_RANK, FRAME):
        return None
    number, rest = HOLD_SECONDS, words[1:]
    if rest:
        try:
            number, rest = float(rest[0]), rest[1:]
        except ValueError:
            if words[0] == FRAME:
                return None
    elif words[0] == FRAME:
        return None
    if not (math.isfinite(number) and number >= 0):
        return None
    return words[0], number, " ".join(word for word in rest if not word.startswith("#"))
