"""Whether a game's frames take longer than this game's frames usually do."""

from __future__ import annotations

import math

USUAL_SHARE = 0.9
"""The usual frame time is the one that so many of the game's own frames stay below; so jitter is part of it."""
SLOWER_BY = 1.25
"""Frames count as slow from so many times the usual time on."""
_ADAPT_SECONDS = 10.0
_PASSED_OVER, _FIRST_FRAMES, _FIRST_SECONDS = 10, 40, 3.0
_LAST_FRAMES = 0b1111
_STEADY_AGAIN_SECONDS = 0.25
_SEVERAL = tuple(bits.bit_count() >= 2 for bits in range(_LAST_FRAMES + 1))


class FramePace:
    """Follows one game's frame times and says at each frame whether it still keeps its pace.

    Two slow ones among the last four frames are slow; a single hiccup is not. After a quarter of a second without a
    slow frame, frames are as usual again. What is usual follows the game: a scene that is heavier for good counts as
    usual after some ten seconds, whoever made it heavier. So it tells a change, not how good the pace is.

    Attributes:
        is_new: true for the first forty frames, three seconds at most, while there is no usual pace yet; the first ten
            of them are passed over, so that there is time to get out of the game's way before.
        usual: seconds, the 90 % quantile of the frame times of late.
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
        """Note one more frame; whether the pace is the usual one. Costs about a microsecond."""
        if not 0.0 < seconds < math.inf:
            return not self._slow
        self.newest = seconds
        if self.is_new:
            self._begin_with(seconds)
            return True
        is_slow = seconds > SLOWER_BY * self.usual
        # A step of the quantile's own size: up for USUAL_SHARE of the frames that are longer, down for the others,
        # so that both balance where they should. A step of more than a tenth would make one long frame the rule.
        step = self.usual * min(seconds / _ADAPT_SECONDS, 0.1)
        self.usual += USUAL_SHARE * step if seconds > self.usual else -(1.0 - USUAL_SHARE) * step
        self._last = (self._last << 1 | is_slow) & _LAST_FRAMES
        if _SEVERAL[self._last]:
            self._slow = True
        self._steady_seconds = 0.0 if is_slow else self._steady_seconds + seconds
        if self._steady_seconds >= _STEADY_AGAIN_SECONDS:
            self._slow = False
        return not self._slow

    def _begin_with(self, seconds: float) -> None:
        self._first.append(seconds)
        counted = sorted(self._first[_PASSED_OVER:] or self._first)
        self.usual = counted[int(USUAL_SHARE * len(counted))]
        self.is_new = len(self._first) < _FIRST_FRAMES and sum(self._first) < _FIRST_SECONDS
