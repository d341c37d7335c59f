"""What a game says to the learner: how long its frames take, "busy now", "free now"; a file of one line per game.

A line is a word, the seconds for which it holds (2 if none are given), and anything else, for people: `busy 5 boss fight`. The
word `frame` is followed by the seconds that the last frame took instead. Each game has a file of its own in
data/game_voice/. Silence means nothing: a word that has not been said again within its time no longer counts, so that
a dead game's last word does not hold anything up.
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

from background_training.ipc.frame_pace import FramePace
from background_training.paths import Paths

BUSY, SLOW, STEADY, FREE, FRAME = "busy", "slow", "steady", "free", "frame"

HOLD_SECONDS = 2.0
LONGEST_HOLD_SECONDS = 60.0
LINE_BYTES = 96
RENEW_SECONDS = 0.5
SUFFIX = ".txt"
_MEANINGLESS_AFTER_SECONDS = 3600.0
_RANK = (BUSY, SLOW, STEADY, FREE)


class GameVoice:
    """A game's side: it says things, cheaply, and never fails for them.

    Its line is written over the former one in a single call, without a new file for each, so that a word costs a game
    microseconds. A reader that meets half a line keeps to the one before. Nothing is written before the first word.
    Not for several threads at a time.
    """

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = paths.game_voice
        self._clock = clock
        self._pace = FramePace()
        self._said = ""
        self._due = -math.inf
        self._count = 0
        self._descriptor = -1
        self._finalizer: weakref.finalize[..., GameVoice] | None = None

    def frame(self, seconds: float) -> None:
        """Tell how long the last frame took: its work or its interval, but always the same of both."""
        word = _word(self._pace, seconds)
        moment = self._clock()
        if word != self._said or moment >= self._due:
            self._say(word, HOLD_SECONDS, _remark(self._pace), moment)

    def busy(self, seconds: float = 5.0) -> None:
        """Ask the learner to stand still; holds for `seconds`, a minute at most, or until another word."""
        self._keep_saying(BUSY, seconds)

    def free(self, seconds: float = 5.0) -> None:
        """Tell that now is a good time to train: a menu, a loading screen; holds as `busy` does."""
        self._keep_saying(FREE, seconds)

    def close(self) -> None:
        """Say no more, and take back what was said."""
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None
            self._descriptor = -1
            self._said = ""

    def _keep_saying(self, word: str, seconds: float) -> None:
        moment = self._clock()
        if word != self._said or moment >= self._due:
            self._say(word, seconds, "", moment)

    def _say(self, word: str, hold_seconds: float, remark: str, moment: float) -> None:
        self._said, self._due = word, moment + min(RENEW_SECONDS, hold_seconds / 4)
        self._count += 1
        # The count makes each line another one: some systems tell the time of a file that is open only late.
        line = f"{word} {hold_seconds:g} {remark} #{self._count}".encode()[: LINE_BYTES - 1]
        try:
            if self._descriptor < 0:
                self._open()
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, line.ljust(LINE_BYTES - 1) + b"\n")
        except OSError:
            # No game stops over this, nor tries it at every frame.
            self._due = moment + 10 * RENEW_SECONDS

    def _open(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        path = self._folder / f"{os.getpid()}_{secrets.token_hex(4)}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o666)
        self._finalizer = weakref.finalize(self, _fall_silent, self._descriptor, path, os.getpid())


def _word(pace: FramePace, seconds: float) -> str:
    """What one more frame amounts to. Until the usual pace is known the learner stands still, or it were part of it."""
    usual = pace.is_usual_after(seconds)
    return BUSY if pace.is_new else STEADY if usual else SLOW


def _remark(pace: FramePace) -> str:
    if pace.is_new:
        return "its usual pace is not known yet"
    return f"{1000 * pace.newest:.1f} ms, usually {1000 * pace.usual:.1f} ms"


def _fall_silent(descriptor: int, path: Path, owner: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if os.getpid() == owner:  # not in a forked child, whose parent still speaks
        with contextlib.suppress(OSError):
            os.unlink(path)


@dataclass
class _Speaker:
    """What the reader knows of one file."""

    changed: tuple[int, bytes] = (0, b"")
    word: str = ""
    remark: str = ""
    until: float = -math.inf
    pace: FramePace = field(default_factory=FramePace)


class GameListener:
    """The learner's side: what the games say just now."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.game_voice
        self._speakers: dict[str, _Speaker] = {}

    def hear(self, moment: float, wall_time: float) -> tuple[str, str]:
        """The word that counts, with its remark; ("", "") in silence.

        When several games speak, one that is busy counts before one with slow frames, and that before the others.

        Args:
            moment: seconds of a clock that never goes back.
            wall_time: seconds since 1970, to know how old a word is that was said before we came.
        """
        names = self._names()
        self._speakers = {name: self._speakers.get(name) or _Speaker() for name in names}
        for name, speaker in self._speakers.items():
            self._listen_to(name, speaker, moment, wall_time)
        speaking = [speaker for speaker in self._speakers.values() if moment < speaker.until]
        loudest = min(speaking, key=lambda speaker: _RANK.index(speaker.word), default=None)
        return (loudest.word, loudest.remark) if loudest else ("", "")

    def _names(self) -> Iterable[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        except OSError:
            return []

    def _listen_to(self, name: str, speaker: _Speaker, moment: float, wall_time: float) -> None:
        path = self._folder / name
        try:
            with open(path, "rb") as file:
                line, modified = file.read(4 * LINE_BYTES), os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return
        if (modified, line) == speaker.changed:
            return
        # Later on we see for ourselves when a word was said, and the clock on the wall may jump.
        age = max(0.0, wall_time - modified / 1e9) if not speaker.changed[1] else 0.0
        speaker.changed = (modified, line)
        if age > _MEANINGLESS_AFTER_SECONDS:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return
        said = _parsed(line)
        if said is None:
            return
        word, number, remark = said
        if word == FRAME:
            word, remark, number = _word(speaker.pace, number), _remark(speaker.pace), HOLD_SECONDS
        speaker.word, speaker.remark = word, remark
        speaker.until = moment + min(number, LONGEST_HOLD_SECONDS) - age


def _parsed(line: bytes) -> tuple[str, float, str] | None:
    """Word, number and remark of a line; None for what is no sentence."""
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
