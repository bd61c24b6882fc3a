"""What the README shows works: its Python blocks run in order, its two commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import blockenc

ROOT = Path(__file__).parents[1]


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the example leaves its key file
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    runnable = [block for block in blocks if not block.startswith(">>>")]
    assert len(runnable) >= 4
    namespace: dict = {}
    for block in runnable:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["batch"].dtype.is_floating_point


def test_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE)) <= targets


def test_backends_shown_are_the_backends_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"'{name}'" in text for name in blockenc.backends())
