"""docs/kernels.md: its Python block runs, and its table is that of the recorded results."""

from __future__ import annotations

import copy
import json
import re

import pytest

pytest.importorskip("sklearn")

from benchmarks.kernels import page, study


def test_blocks() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    exec(compile(block, "docs/kernels.md", "exec"), {"__name__": "docs"})


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads(page.RESULTS.read_text())
    text = page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.kernels.page"
    assert [(row["name"], row["machine"]) for row in results["rows"]] == [
        (case.name, machine) for case in study.cases() for machine in study.MACHINES
    ]
    changed = copy.deepcopy(results)
    changed["rows"][-1]["wrong"][0] = 1
    assert page.fill(text, changed) != text


def test_a_row_is_what_the_page_is_made_of() -> None:
    case = next(case for case in study.cases() if case.name == "shuffle, np, M = 4")
    row = study.measure(case, "RBF", wrong_keys=2, seed=1)
    assert row["right"] > 0.97
    assert row["as plain"] == 1
    assert max(row["wrong"]) < 0.7
    assert len(row["wrong"]) == 2
