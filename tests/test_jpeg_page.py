"""docs/jpeg.md shows what was recorded, and the study measures what it says."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blockenc
from benchmarks.jpeg import __main__ as command
from benchmarks.jpeg import page, study

KEY = blockenc.Key(bytes(range(32)))


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads(page.RESULTS.read_text())
    text = page.PAGE.read_text()
    assert page.fill(text, results) == text, "run python -m benchmarks.jpeg.page"
    assert page.PAGE.with_name(page.PLOT).exists()
    assert set(page.cases(results)) == set(study.CASES)
    changed = copy.deepcopy(results)
    changed["rows"][0]["psnr"] += 1
    assert page.fill(text, changed) != text


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    y, x = np.mgrid[:40, :60]
    for n, name in enumerate(("a.png", "class/b.bmp")):
        pixels = 128 + 90 * np.stack([np.sin((y + x + n) / 9), np.cos(x / 7), np.sin(y / 5)], axis=-1)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_a_run_writes_what_the_page_is_made_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "QUALITIES", (60, 80, 95))
    monkeypatch.setattr(page, "QUALITIES", (60, 80, 95))
    found, place = tmp_path / "results.json", tmp_path / "jpeg.md"
    monkeypatch.setattr(sys, "argv", ["jpeg", "--data", str(photos), "--json", str(found)])
    command.main()
    results = json.loads(found.read_text())
    assert results["photos"] == 2
    assert str(photos) not in found.read_text()
    place.write_text("before\n<!-- jpeg -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(found), "--page", str(place)])
    page.main()
    text = place.read_text()
    assert text.startswith("before\n<!-- jpeg -->\n\nMeasured by `python -m benchmarks.jpeg --data DIR`")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| shuffle (refused) | 8 x 8 | 4:4:4 |" in text
    assert (tmp_path / page.PLOT).exists()


def test_cases(photos: Path) -> None:
    images = study.photos(photos)
    assert [image.shape for image in images] == [(32, 48, 3)] * 2
    rows = {case: list(study.measure(case, images, KEY)) for case in study.CASES}
    plain = rows[study.Case("plain", None, "444")]
    assert [row["psnr"] for row in plain] == sorted(row["psnr"] for row in plain)
    for size in (8, 16):
        moved = rows[study.Case("scramble", size, "444")]
        assert [row["psnr"] for row in moved] == [row["psnr"] for row in plain]
    assert [case for case in study.CASES if case.refused] == [study.Case("shuffle", 8, "444")]
    assert rows[study.Case("shuffle", 8, "444")][0]["psnr"] < plain[0]["psnr"] - 5


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data: expected at least 1 pictures below .*, got 0"):
        study.photos(tmp_path)


def test_bits_between_the_qualities() -> None:
    rows = [{"psnr": 30.0, "bits": 1.0}, {"psnr": 32.0, "bits": 2.0}]
    assert page.bits_at(rows, 31.0) == 1.5
    assert page.bits_at(rows, 33.0) is None
