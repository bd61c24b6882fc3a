"""docs/imagenet.md: its tables are those of the recorded results."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torchvision")

from benchmarks.imagenet import page


def test_the_page_shows_the_recorded_results() -> None:
    found, text = page.recorded(page.RESULTS), page.PAGE.read_text()
    assert len(found) == 2
    assert page.fill(text, found) == text, "run python -m benchmarks.imagenet.page"
    changed = copy.deepcopy(found)
    changed[0]["evaluation"]["plain"] += 0.1
    assert page.fill(text, changed) != text


def test_the_operations_of_resnet50_are_the_known_ones() -> None:
    assert page.forward_flops("resnet50", 224) / 2 == pytest.approx(4.09e9, rel=0.01)  # torchvision's GMACs
