"""The study of segmentation and detection: its scenes, its runs, its page."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import blockenc

pytest.importorskip("torchvision")
pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")
pytest.importorskip("sklearn")

from benchmarks.vision import __main__ as command
from benchmarks.vision import page, picture, study, train
from benchmarks.vision.models import with_backbone
from benchmarks.vision.scenes import CLASSES, SIDE, scenes

TINY = train.Run("segmentation", "features", 0, 128, 3)


def test_scenes() -> None:
    found = scenes(24, False)
    assert found.images.shape == (24, 3, SIDE, SIDE)
    assert found.images.dtype == torch.uint8
    for mask, boxes, labels in zip(found.masks, found.boxes, found.labels):
        assert 1 <= len(boxes) == len(labels) <= 4
        inside = torch.zeros_like(mask, dtype=torch.bool)
        for (left, top, right, bottom), label in zip(boxes.long().tolist(), labels.tolist()):
            part = mask[top:bottom, left:right]
            assert set(part.unique().tolist()) == {0, label}
            assert part[0].any()  # tight
            assert part[-1].any()
            assert part[:, 0].any()
            assert part[:, -1].any()
            inside[top:bottom, left:right] = True
        assert not mask[~inside].any()
    scenes.cache_clear()
    assert torch.equal(scenes(24, False).images, found.images)
    assert not torch.equal(scenes(24, True).images, found.images)
    assert {int(label) for labels in scenes(64, True).labels for label in labels} == set(range(1, CLASSES))


class Told(nn.Module):
    """Gives what it was told to."""

    def __init__(self, outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> object:
        return self.outputs


def test_scores() -> None:
    test = scenes(64, True)
    masks = nn.functional.one_hot(test.masks, CLASSES).movedim(3, 1).float()
    assert study.score("segmentation", (Told(masks), None), test)["mean IoU"] == pytest.approx(100)
    shifted = study.score("segmentation", (Told(masks.roll(2, 3)), None), test)["mean IoU"]
    assert 20 < shifted < 80
    boxes = [
        {"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels))}
        for boxes, labels in zip(test.boxes, test.labels)
    ]
    assert study.score("detection", (Told(boxes), None), test)["mAP"] == pytest.approx(100)
    for one in boxes:
        one["labels"] = one["labels"] % 10 + 1
    assert study.score("detection", (Told(boxes), None), test)["AP50"] < 20


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = scenes(128, False)
    (tmp_path / "whole").mkdir()
    whole = train.trained(TINY, data, tmp_path / "whole", lambda line: None)
    (tmp_path / "parts").mkdir()

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.trained(TINY, data, tmp_path / "parts", stop)
    lines: list[str] = []
    parts = train.trained(TINY, data, tmp_path / "parts", lines.append)
    assert len(lines) == 1
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())
    # Another run does not take its checkpoint for its own.
    train.trained(TINY._replace(epochs=1), data, tmp_path / "parts", lines.append)
    assert len(lines) == 2


def test_a_backbone_is_changed_in_a_copy() -> None:
    for make in train.TASKS.values():
        model = make().eval()
        x = torch.rand(1, 3, SIDE, SIDE)
        changed = with_backbone(
            model, lambda part: blockenc.protect_features(part, train.key(0), ["layer1.1"])
        )
        assert (
            "keyed_channels"
            in dict(changed.named_modules())[
                next(name for name, _ in changed.named_modules() if name.endswith("layer1.1"))
            ]._buffers
        )
        first = next(model.buffers()).clone()
        with torch.inference_mode():
            changed(x)
        assert torch.equal(next(model.buffers()), first)


def test_a_run_writes_what_the_page_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, work, place = tmp_path / "results", tmp_path / "work", tmp_path / "vision.md"
    options = ["--scenes", "64", "--epochs", "2", "--test", "8", "--wrong", "2", "--seeds", "0"]
    folders = ["--results", str(results), "--work", str(work)]
    monkeypatch.setattr(sys, "argv", ["vision", *options, *folders])
    threads = torch.get_num_threads()
    try:
        command.main()
    finally:
        torch.set_num_threads(threads)
    rows = {(row["task"], row["form"]): row for row in page.rows(results)}
    assert list(rows) != []
    assert set(rows) == {(run.task, form) for run, form in study.cases([0], 64, 2)}
    for task, metric in page.METRICS.items():
        plain = rows[task, "plain"]["right"][metric]
        for form, row in rows.items():
            if form[0] == task and form[1].endswith("folded afterwards"):
                assert row["right"][metric] == pytest.approx(plain, abs=0.2)
            if form[0] == task and "deployed" in row:
                assert row["deployed"][metric] == pytest.approx(row["right"][metric], abs=0.2)
            if form[0] == task and form[1] != "plain":
                assert len(row["wrong"]) == 2
    times = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    command.main()  # nothing is measured again
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == times
    place.write_text("before\n<!-- vision -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(results), "--page", str(place)])
    page.main()
    assert place.read_text().count("| segmentation |") == len(study.FORMS)
    drawn = tmp_path / "drawn.png"
    shape = ["--scenes", "64", "--epochs", "2", "--work", str(work), "--picture", str(drawn)]
    monkeypatch.setattr(sys, "argv", ["picture", *shape])
    picture.main()
    assert drawn.stat().st_size > 10_000


def test_the_page_shows_the_recorded_results() -> None:
    found, text = page.rows(page.RESULTS), page.PAGE.read_text()
    assert page.fill(text, found) == text, "run python -m benchmarks.vision.page"
    recorded = [(row["task"], row["form"], row["seed"]) for row in found]
    assert sorted(recorded) == sorted((run.task, form, run.seed) for run, form in study.cases([0, 1], 0, 0))
    assert len({(row["scenes"], row["epochs"], row["test scenes"], row["cpu"]) for row in found}) == 1
    assert picture.PICTURE.exists()
    assert re.search(rf"!\[[^]]+\]\({picture.PICTURE.name}\)", text)
    changed = copy.deepcopy(found)
    changed[0]["right"] = {name: value + 1 for name, value in changed[0]["right"].items()}
    assert page.fill(text, changed) != text


def test_blocks() -> None:
    """What the page shows about a ViT's masks."""
    pytest.importorskip("timm")
    (block,) = re.findall(r"```python\n(.*?)```", page.PAGE.read_text(), re.DOTALL)
    exec(compile(block, "docs/vision.md", "exec"), {"__name__": "docs"})
