"""How a worker tells its parent what it did: one JSON object a line, from any thread."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from local_training.visible_text import visible

if TYPE_CHECKING:  # the game's process loads this module, and no learner
    from tools.learner.intake import SetAside

logger = logging.getLogger(__name__)

Tell = Callable[..., None]


def tell_set_aside(tell: Tell, item: SetAside) -> None:
    tell("set_aside", name=visible(item.name), fate=item.fate, reason=item.reason)


def teller(answers: BinaryIO) -> Tell:
    lock = threading.Lock()

    def tell(event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, **facts}).encode() + b"\n"
        try:
            with lock:
                answers.write(line)
                answers.flush()
        except OSError:
            # The parent is gone; stdin ends as well, and with it this process.
            logger.debug("nobody listens")

    return tell
