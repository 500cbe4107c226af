"""A real browser that shows a page, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Counts the pictures that the browser could decode.
_COUNT = """<script>addEventListener("load", () => document.body.dataset.shown =
[...document.images].filter(picture => picture.complete && picture.naturalWidth).length)</script>"""


def shown(page: Path) -> tuple[str, int]:
    """Return a page as built by Chromium and the number of pictures shown; skips without Chromium."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    copy = page.with_name(f"counted-{page.name}")
    copy.write_text(page.read_text(encoding="utf-8") + _COUNT, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run([program, *flags, profile, copy.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout, int(done.stdout.partition('data-shown="')[2].partition('"')[0] or 0)
