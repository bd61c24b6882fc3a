"""The demo at small size: the report is whole, and the model works with the key only."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import numpy as np
import torch

from blockenc import Scheme, demo
from blockenc.schemes import PRESETS


def test_report(tmp_path: Path, capsys) -> None:
    before = torch.random.get_rng_state()
    path = demo.run(tmp_path / "new" / "folder", epochs=2, wrong_keys=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    page = path.read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    pictures = 2 * (1 + len(demo.SETTINGS) + 2) + len(PRESETS)
    assert page.count("<img ") == pictures + 1
    assert page.count('alt=""') == 0
    assert len(re.findall(r"<td>\d+\.\d %", page)) == 8
    assert "GB/s" in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    sizes = [re.findall(r"^all three steps, M = (\d+): ", caption) for caption in captions[1:5]]
    assert sizes == [["16"], ["8"], ["4"], ["2"]]  # what hides most comes first
    assert [caption.split(":")[0] for caption in captions[-len(PRESETS) :]] == list(PRESETS)
    shown = capsys.readouterr()
    assert "protected model, right key" in shown.out
    # Without a terminal progress is plain lines, one as each stage begins.
    stages = re.findall(r"^demo, (\d) of (\d): \w.*$", shown.err, re.MULTILINE)
    assert stages == [(str(n), str(demo.STAGES)) for n in range(1, demo.STAGES + 1)]
    assert "\x1b" not in shown.err


def test_settings_are_in_the_order_of_what_they_hide() -> None:
    """The captions say what stays visible; by a number: how far the encrypted photo follows the plain one.

    That is the correlation of where either changes: of the differences between neighbouring 8 x 8 areas.
    """

    def changes(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        areas = image.reshape(height // 8, 8, width // 8, 8, 3).transpose(0, 2, 1, 3, 4)
        areas = np.sort(areas.reshape(height // 8, width // 8, -1).astype(float), axis=2)  # in no order
        return np.concatenate([np.abs(np.diff(areas, axis=axis)).mean(2).ravel() for axis in (0, 1)])

    photos = demo.photos().values()
    follows = [
        np.mean(
            [
                np.corrcoef(changes(photo), changes(demo._checked_encrypt(photo, Scheme(m, steps))))[0, 1]
                for photo in photos
            ]
        )
        for m, steps, _ in demo.SETTINGS
    ]
    whole = [steps == demo.ALL_STEPS for _, steps, _ in demo.SETTINGS]
    assert whole == sorted(whole, reverse=True)
    count = sum(whole)
    assert follows[0] < 0.2
    assert 2 * follows[0] < min(follows[1:count])
    assert max(follows[:count]) < 0.6 < 0.75 < min(follows[count:])


def test_the_model_works_with_the_key_only() -> None:
    with torch.random.fork_rng(devices=[]):
        results, curves = demo._train_and_evaluate(8, 5, lambda name: None, lambda: None)
    means = {name: statistics.mean(values) for name, values in results.items()}
    assert means["protected model, right key"] > 0.9
    assert means["protected model, 5 wrong keys"] < 0.45
    assert means["plain model, encrypted images"] < 0.45
    assert len(curves["encrypted"]) == 8
