"""The site of the pages builds without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, PROJECT


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert built == {page.stem for page in PAGES if page.name != "README.md"} | {"404"}
    # No part of a page is loaded from the network.
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and 'rel="stylesheet" href="http' not in page
