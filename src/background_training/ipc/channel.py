"""How a worker tells its parent what it did: one JSON object a line, from any thread."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

Tell = Callable[..., None]


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
