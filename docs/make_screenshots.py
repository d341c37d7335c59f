"""Make the pictures of docs/monitoring.md from a real run: `python docs/make_screenshots.py`. Needs Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def screenshot(address: str, picture: Path, width: int, height: int) -> None:
    """Show a page in a browser with an empty profile, and take its picture."""
    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"one of {', '.join(CHROMIUM)} is needed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        where = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        subprocess.run([browser, *FLAGS, *where, address], check=True, timeout=120, capture_output=True)
    if not picture.is_file():
        sys.exit(f"{browser} made no {picture}")


def report(root: Path) -> None:
    """The head of the report of a run."""
    page = root / "report.html"
    subprocess.run([sys.executable, str(CHECKOUT / "tools" / "report.py"), "--root", str(root), "--out", str(page)], check=True)
    screenshot(page.as_uri(), DOCS / "report.png", 1060, 900)


def main() -> int:
    """Play 400 games, and make each picture from them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "run"
        command = [sys.executable, str(CHECKOUT / "run_with_training.py"), "--games", "400", "--seed", "0", "--quiet"]
        subprocess.run([*command, "--root", str(root)], check=True)
        report(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
