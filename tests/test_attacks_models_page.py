"""docs/attacks-models.md: its Python block runs, and its tables are those of the recorded results."""

from __future__ import annotations

import copy
import re

from benchmarks.attacks_models import page


def test_blocks() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    exec(compile(block, "docs/attacks-models.md", "exec"), {"__name__": "docs"})


def test_the_page_shows_the_recorded_results() -> None:
    results, text = page.load(page.RESULTS), page.PAGE.read_text()
    assert results
    assert page.fill(text, results) == text, "run python -m benchmarks.attacks_models.page"
    changed = copy.deepcopy(results)
    changed["conv-m4-np-seed0.pgd"]["result"]["right key"]["scores"]["success"] = 0.123
    assert "12.3" in page.fill(text, changed)
    assert page.fill(text, changed) != text
