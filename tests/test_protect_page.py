"""docs/protect.md: its Python blocks run, and its table is that of the recorded results."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak
from benchmarks.protect import memory, page, study


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    blocks = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/protect.md", "exec"), namespace)
    x = torch.rand(2, 3, 8, 8)
    plain, keyed, locked = (namespace[name](x) for name in ("model", "keyed", "locked"))
    assert torch.allclose(locked, plain, atol=1e-5)
    assert torch.allclose(namespace["bare"](x), keyed, atol=1e-5)
    assert not torch.allclose(keyed, plain, atol=1e-2)


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads(page.RESULTS.read_text())
    text = page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.protect.page"
    assert [(row["model"], row["name"]) for row in results["rows"]] == [
        (case.model, case.name) for case in study.CASES
    ]
    changed = copy.deepcopy(results)
    changed["rows"][-1]["seconds"]["folded"] *= 2
    assert page.fill(text, changed) != text
    for kind in ("protect", "folded"):
        changed = copy.deepcopy(results)
        changed["rows"][0]["memory"][kind] *= 2
        assert page.fill(text, changed) != text


def test_a_row_is_what_the_page_is_made_of() -> None:
    pytest.importorskip("torchvision")
    row = study.measure(study.CASES[1], batch=1, repeats=1)
    assert row["largest difference"] < 1e-5
    layers = row["first layer"]
    # A 3x3 kernel of stride 1 at 32 x 32; the kernel of its blocks of 4 is 12 x 12, for 16 times the outputs.
    assert layers["plain"]["multiply-adds"] == 32 * 32 * 64 * 3 * 9
    assert layers["folded"]["multiply-adds"] == 8 * 8 * 16 * 64 * 3 * 144
    assert set(row["seconds"]) == {"plain", "folded", "decrypting"}


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_peaks_of_memory() -> None:
    kept, size = peak(lambda: torch.ones(20, 1 << 20))
    assert size == pytest.approx(kept.nbytes, rel=0.1)
    assert peak(lambda: torch.ones(10, 1 << 20).sum())[1] == pytest.approx(kept.nbytes / 2, rel=0.2)
    assert peak(lambda: kept)[1] < 2e6  # neither what is there nor what was there counts


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_the_memory_of_a_row_is_what_the_page_is_made_of() -> None:
    pytest.importorskip("torchvision")
    row = memory.of_row(0, 1)
    assert set(row) == {"model", "protect", "plain", "folded"}
    # The copy that protect returns is there at the peak.
    assert row["model"] < row["protect"] < 2 * row["model"]
