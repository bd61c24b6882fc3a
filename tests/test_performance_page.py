"""docs/performance.md shows what was recorded, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import cuda_page, page, report
from benchmarks.speed.rows import BUDGETS, report_rows

ROW = report_rows()[0]
CALLS = {
    "copy_": {"seconds": 0.01, "images": 1024},
    "native/avx512_vbmi": {"seconds": 0.0125, "images": 1024},
    "numba": {"seconds": 0.02, "images": 512},
}
RUN: dict[str, Any] = {
    **{
        "command": "python -m benchmarks.speed --scaling",
        "date": "2026-01-02T03:04:05+00:00",
        "cpu": "A Processor",
    },
    **{"machine": "x86_64", "cpus": 2, "threads": 2, "versions": {"torch": "2.4"}, "tiny": False},
    "rows": [
        {"name": ROW.name, "shape": [1024, 3, 224, 224], "source": "uint8", "values": 150528, "calls": CALLS}
    ],
    "import_seconds": None,
    "scaling": [{"bytes": 10**6, "threads": 1, "seconds": {"copy_": 1e-4, "numba": 2e-4}}],
}
RUN["budgets"] = report.judge(RUN)


def test_the_page_of_cuda_shows_the_recorded_runs(tmp_path: Path) -> None:
    text = cuda_page.PAGE.read_text()
    assert cuda_page.fill(text, cuda_page.RESULTS) == text
    run = json.loads((cuda_page.RESULTS / "h100.json").read_text())
    run["rows"][0]["milliseconds"]["blockenc"] *= 2
    (tmp_path / "h100.json").write_text(json.dumps(run))
    assert cuda_page.fill(text, tmp_path) != text
    (tmp_path / "h100.json").write_text(json.dumps({**run, "tiny": True}))
    with pytest.raises(ValueError, match="--tiny"):
        cuda_page.fill(text, tmp_path)


def test_the_page_shows_the_recorded_runs() -> None:
    text = page.PAGE.read_text()
    assert page.fill(text, page.recorded(page.RESULTS)) == text, "run python -m benchmarks.speed.page"
    for picture in re.findall(r"\]\((\S+\.png)\)", text):
        assert page.PAGE.with_name(picture).exists()


def test_every_number_comes_from_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "performance.md"
    place.write_text("before\n<!-- speed -->\nold numbers\n<!-- end -->\nafter\n")
    (tmp_path / "a machine.json").write_text(json.dumps(RUN))
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(tmp_path), "--page", str(place)])
    page.main()
    text = place.read_text()
    assert text.startswith("before\n<!-- speed -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old numbers" not in text
    assert "### a machine\n" in text
    assert "A Processor, x86_64, 2 CPUs, 2 threads; torch 2.4" in text
    budget = BUDGETS[0]
    assert f"| {budget.what} | {ROW.name} | {budget.text} | 0.8 | NOT met |" in text
    assert f"| {ROW.name} | 1024x3x224x224 | 15.4 | 0.8, 12.5 ms | 0.25, 20 ms for 512 |" in text
    assert "| 1 | 1 | 100 (10.0) | 200 (5.0) |" in text
    assert f"]({page.PLOT})" in text
    assert (tmp_path / page.PLOT).exists()
    changed = copy.deepcopy(RUN)
    changed["rows"][0]["calls"]["numba"]["seconds"] = 0.03
    assert page.fill(text, {"a machine": changed}) != text


def test_a_tiny_run_is_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**RUN, "tiny": True}))
    with pytest.raises(ValueError, match=r"x\.json: expected a measurement, got a run with --tiny"):
        page.recorded(tmp_path)


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="has no place for the table speed"):
        page.fill("# Performance\n", {})
