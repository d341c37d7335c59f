"""Ways for tests to run the monitor's page: its server as a process of its own, and a real Chromium before it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import learner_runs
import pytest
from conftest import PATIENCE_SECONDS

from background_training.paths import CHECKOUT

SCRIPT = CHECKOUT / "tools" / "monitor_background_training.py"
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-features=SpareRendererForSitePerProcess"]


@dataclass(frozen=True)
class Server:
    """A monitor's server at work."""

    process: subprocess.Popen[str]
    port: int
    token: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def server(root: Path, *, ends_by: int = signal.SIGINT) -> Iterator[Server]:
    """The page of a root, on a free port; ended by a signal, and nothing complained."""
    pytest.importorskip("nicegui", reason="NiceGUI (extra web) is not installed")
    command = [sys.executable, str(SCRIPT), "--web", "--port", "0", "--root", str(root)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    process = subprocess.Popen(command, **pipes, env=learner_runs.environment())
    assert process.stdout is not None
    try:
        said = [process.stdout.readline() for _ in range(3)]
        if not said[0].startswith("[OK]"):
            pytest.fail(f"the server did not start: {said} {process.communicate()}")
        port = int(said[0].rpartition("127.0.0.1:")[2].partition("/")[0])
        yield Server(process, port, said[1].split()[-1])
        assert process.poll() is None, "the server has ended by itself"
        process.send_signal(ends_by)
        rest, complaints = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, rest, complaints) == (0, "Monitoring stopped; the learner continues.\n", "")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; skips where none can be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright (extra test) is not installed")
    with playwright.sync_playwright() as running:
        found = [path for name in _CHROMIUMS if (path := shutil.which(name))]
        if not found and not Path(running.chromium.executable_path).exists():
            pytest.skip("no Chromium is here: install the package chromium, or run: python -m playwright install chromium")
        browser = running.chromium.launch(executable_path=found[0] if found else None, args=_FLAGS)
        try:
            # What a browser starts once for itself is started now, and no test's own.
            browser.new_page().close()
            yield browser
        finally:
            browser.close()
