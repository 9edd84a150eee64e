"""Pages as a real browser has them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
in_a_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on the PATH")


def browsed(text: str, at: str, folder: Path) -> str:
    """The page, once its script has run, with the part of its address behind #."""
    (folder / "page.html").write_text(text)
    address = f"{(folder / 'page.html').as_uri()}#{at}"
    command = [str(BROWSER), *QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def text_of(page: str, start: str, end: str) -> str:
    """What is to read between two marks of a page."""
    return re.sub(r"<[^>]*>", " ", page.partition(start)[2].partition(end)[0])
