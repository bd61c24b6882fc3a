"""docs/schemes.md shows what the schemes say of themselves, and what they make of a photo."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from benchmarks import pages, presets
from blockenc.schemes import PRESETS
from blockenc.steps import Np, Shuffle

MOST_BYTES = 300_000


def test_the_table_is_what_the_schemes_say() -> None:
    text = presets.PAGE.read_text()
    assert pages.replace(text, "presets", presets.table()) == text, "run python -m benchmarks.presets"
    rows = re.findall(r"^\| (\w+) \| .* \| ([\d,]+) \| .* \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(PRESETS)
    # 48! and 48 over 24, by hand.
    assert dict(rows)["SHF"] == "203"
    assert dict(rows)["NP"] == "45"


def test_steps_are_shown_by_what_is_not_their_default() -> None:
    assert presets.shown(Shuffle(8, 8)) == "shuffle (b 8)"
    assert presets.shown(Shuffle(8, 16, fixed=3)) == "shuffle (fixed 3, b 8, P 16)"
    assert presets.shown(Np(4, "image", cells="nibble")) == "np (cells nibble, b 4, P image)"


def test_the_picture_shows_the_schemes() -> None:
    """JPEG blurs, so each panel is compared roughly: what another scheme or key makes is far from it."""
    pytest.importorskip("sklearn")
    path = presets.PAGE.with_name(presets.PICTURE)
    assert path.stat().st_size <= MOST_BYTES
    assert f"]({presets.PICTURE})" in presets.PAGE.read_text()
    pictures = presets.panels()
    assert list(pictures) == ["as it is", *PRESETS]
    with Image.open(path) as image:
        assert image.size == presets.sheet(pictures).size
        shown = np.asarray(image).astype(int)
    differences = {}
    for n, (name, pixels) in enumerate(pictures.items()):
        left, top = presets.place(n)
        panel = shown[top : top + presets.PANEL, left : left + presets.PANEL]
        differences[name] = np.abs(panel - pixels).mean()
        others = [np.abs(panel - other).mean() for key, other in pictures.items() if key != name]
        assert 2 * differences[name] < min(others), name
    assert max(differences.values()) < 15, "run python -m benchmarks.presets"


def test_python_blocks() -> None:
    blocks = re.findall(r"```python\n(.*?)```", presets.PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "schemes.md", "exec"), namespace)
    assert not (namespace["y"] == namespace["x"]).all()
