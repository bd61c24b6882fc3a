"""The demo at small size: the report is whole, and the model works with the key only."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import torch

from blockenc import demo


def test_report(tmp_path: Path, capsys) -> None:
    before = torch.random.get_rng_state()
    path = demo.run(tmp_path / "new" / "folder", epochs=2, wrong_keys=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    page = path.read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    pictures = 2 * (1 + len(demo.STEP_CHOICES) + len(demo.BLOCK_SIZES) - 1 + 2)
    assert page.count("<img ") == pictures + 1
    assert page.count('alt=""') == 0
    assert len(re.findall(r"<td>\d+\.\d %", page)) == 8
    assert "GB/s" in page
    assert "protected model, right key" in capsys.readouterr().out


def test_the_model_works_with_the_key_only() -> None:
    with torch.random.fork_rng(devices=[]):
        results, curves = demo._train_and_evaluate(8, 5, lambda: None)
    means = {name: statistics.mean(values) for name, values in results.items()}
    assert means["protected model, right key"] > 0.9
    assert means["protected model, 5 wrong keys"] < 0.45
    assert means["plain model, encrypted images"] < 0.45
    assert len(curves["encrypted"]) == 8
