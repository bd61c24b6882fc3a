"""docs/sealing.md: its Python block runs, and its tables are those of the recorded results."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from benchmarks.sealing import page, study


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/sealing.md", "exec"), {"__name__": "docs"})
    assert "1 difference from what was sealed" in capsys.readouterr().out


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads(page.RESULTS.read_text())
    text = page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.sealing.page"
    assert [(row["megabytes"], row["form"]) for row in results["rows"]] == [
        (megabytes, form) for megabytes in study.SIZES for form in study.FORMS
    ]
    changed = copy.deepcopy(results)
    changed["located"]["located"] -= 1
    assert page.fill(text, changed) != text


def test_the_benchmark_at_a_small_size(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("safetensors")
    results = study.run(tmp_path, bits=5, seed=1, repeats=1, sizes=(8,))
    assert results["located"]["located"] == 5
    assert results["located"]["intact again"]
    assert sum(results["located"]["header"].values()) == 5
    assert "not found" not in results["located"]["header"]
    assert [row["form"] for row in results["rows"]] == list(study.FORMS)
    for row in results["rows"]:
        assert row["seconds"]["verify"] > 0
        assert row["seal bytes"] > 32 * 8_000_000 / 65536
