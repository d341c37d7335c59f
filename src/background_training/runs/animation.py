"""A game as an animated picture: its frames with a caption, written as a GIF."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_WIDEST = 480
_MOST_FRAMES_PER_SECOND = 25  # browsers show faster GIFs slowly
_MOST_FRAMES = 1200  # each is kept as up to a quarter of a megabyte until the file is written
_CAPTION_HEIGHT = 18
_LAST_FRAME_MILLISECONDS = 1200


class Animation:
    """Collects the frames of games and packs them into a GIF.

    Attributes:
        is_full: whether the largest number of frames is reached; further ones are dropped.
    """

    def __init__(self, frames_per_second: float) -> None:
        """Start without frames.

        Args:
            frames_per_second: of the frames that `add` is called with; of fast games only every n-th is kept.
        """
        self._every = max(1, round(frames_per_second / _MOST_FRAMES_PER_SECOND))
        self._milliseconds = round(1000 * self._every / frames_per_second)
        self._frames: list[Image.Image] = []
        self._durations: list[int] = []
        self._offered = 0

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= _MOST_FRAMES

    def add(self, render: Callable[[], npt.NDArray[Any]], caption: str, *, is_last: bool = False) -> None:
        """Add a frame.

        Args:
            render: makes the frame, [height, width, 3] of uint8 as Gymnasium's "rgb_array"; called only if the frame is kept.
            caption: shown below the frame.
            is_last: the last of a game: kept in any case, and shown for longer.
        """
        self._offered += 1
        if self.is_full or ((self._offered - 1) % self._every and not is_last):
            return
        self._frames.append(_with_caption(render(), caption))
        self._durations.append(_LAST_FRAME_MILLISECONDS if is_last else self._milliseconds)

    def gif(self) -> bytes:
        """The frames as a GIF that repeats for ever.

        Raises:
            ValueError: there is no frame.
        """
        if not self._frames:
            raise ValueError("there is no frame")
        file = io.BytesIO()
        first, *others = self._frames
        first.save(file, "GIF", save_all=True, append_images=others, duration=self._durations, loop=0)
        return file.getvalue()


def _with_caption(pixels: npt.NDArray[Any], caption: str) -> Image.Image:
    frame = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    # Small games, such as grids of 64 pixels, are enlarged by a whole factor, so that the caption has room.
    factor = max(1, _WIDEST // frame.width) if frame.width < _WIDEST // 2 else 1
    if factor > 1:
        frame = frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
    elif frame.width > _WIDEST:
        frame = frame.resize((_WIDEST, max(1, round(frame.height * _WIDEST / frame.width))))
    whole = Image.new("RGB", (frame.width, frame.height + _CAPTION_HEIGHT), "black")
    whole.paste(frame)
    ImageDraw.Draw(whole).text((5, frame.height + 3), caption, fill="white")
    return whole.quantize(128)
