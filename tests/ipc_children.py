"""Children that behave badly in one way each: `python -m ipc_children WAY`, as tests of ipc start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from background_training.ipc import json_lines
from background_training.ipc.json_lines import Channel, Message
from background_training.ipc.supervision import Heartbeat

DESCENDANT = "import time; time.sleep(600)"


def main(way: str) -> None:
    channel = json_lines.parent_channel()
    if way == "raise":
        raise RuntimeError("as expected")
    channel.send("ready", pid=os.getpid(), session=os.getsid(0) if hasattr(os, "getsid") else 0)
    channel.listen(lambda message: handle(channel, message), json_lines.exit_at_once)
    if way == "beat":
        heartbeat = Heartbeat(channel.send, lambda: 50 * time.monotonic())
        for _ in range(10):
            heartbeat.beat()
            time.sleep(0.03)
        channel.send("done")
    threading.Event().wait()


def handle(channel: Channel, message: Message) -> None:
    kind = message["event"]
    if kind == "echo":
        channel.send("echo", text=message["text"], environment=dict(os.environ), modules=sorted(sys.modules))
    elif kind == "print":
        print("a library's chatter", flush=True)
        os.write(1, b'{"event": "from below Python"}\n')
        channel.send("printed")
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "start descendant":
        keeper = subprocess.Popen(
            [sys.executable, "-c", DESCENDANT],
            start_new_session=message["escapes"],
            pass_fds=[channel._outgoing.fileno()] if os.name == "posix" else (),
        )
        channel.send("descendant", pid=keeper.pid)
    elif kind == "exit":
        os._exit(message["code"])


if __name__ == "__main__":
    main(sys.argv[1])
