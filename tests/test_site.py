"""The documentation site builds, strictly, and has every page and every public name."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import blockenc

ROOT = Path(__file__).parents[1]

if not os.environ.get("CI") and not importlib.util.find_spec("mkdocs"):
    pytest.skip("MkDocs is not installed: pip install 'blockenc[docs]'", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    for page in (*pages, "changelog", "contributing", "security"):
        assert (site / page / "index.html").exists(), page
    assert "Encrypts images block by block" in (site / "index.html").read_text()  # the README


def test_every_public_name_is_documented(site: Path) -> None:
    shown = re.findall(r'id="blockenc\.([\w.]+)"', (site / "api/index.html").read_text())
    documented = {name.replace("backends.backends", "backends") for name in shown}
    assert set(blockenc.__all__) - {"schemes", "steps"} <= documented
    assert {"Cipher.encrypt", "KeySet.from_seed", "nn.Encrypt", "nn.BlockEmbedding"} <= set(shown)


def test_fields_of_docstrings_are_lists(site: Path) -> None:
    assert "<li><code>backend</code>: " in (site / "api/index.html").read_text()
