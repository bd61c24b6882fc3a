"""What trained models find with the right key, with wrong ones and with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

import blockenc
from benchmarks.vision.models import KEYED, MEAN, STD, with_backbone
from benchmarks.vision.scenes import CLASSES, Scenes
from benchmarks.vision.train import TASKS, Run, cipher, encrypted, key, trained


class Form(NamedTuple):
    """Where a key is. training: what a model was trained with; keyed: what needs the key in use."""

    training: str
    keyed: str  # "", "images" or "features"


FORMS = {
    "plain": Form("plain", ""),
    "images, trained so": Form("images", "images"),
    "images, folded afterwards": Form("plain", "images"),
    "feature maps, trained so": Form("features", "features"),
    "feature maps, folded afterwards": Form("plain", "features"),
}
# A model, and what encrypts its images (None: plain images).
Keyed = tuple[nn.Module, blockenc.Cipher | None]


class Models(NamedTuple):
    """How a form is used with a key of some number, and without; deployed: with the key in the weights."""

    with_key: Callable[[int], Keyed]
    without: Keyed
    deployed: nn.Module | None = None


def models(model: nn.Module, form: Form) -> Models:
    """A trained model in one of the forms."""
    if not form.keyed:
        return Models(lambda number: (model, None), (model, None))
    if form.keyed == "images":
        if form.training == "plain":
            right = cipher(0)
            model = with_backbone(model, lambda part: blockenc.protect(part, right, mean=MEAN, std=STD))
        return Models(lambda number: (model, cipher(number)), (model, None))
    if form.training == "plain":
        model = with_backbone(model, lambda part: blockenc.protect_features(part, key(0), KEYED, fold=True))
    bare = with_backbone(model, lambda part: blockenc.unprotect_features(part, key(0)))
    return Models(
        lambda number: (
            with_backbone(bare, lambda part: blockenc.protect_features(part, key(number), KEYED)),
            None,
        ),
        (bare, None),
        with_backbone(model, lambda part: blockenc.unprotect_features(part, key(0), fold=True)),
    )


def found(keyed: Keyed, x: torch.Tensor) -> Any:
    """What a model gives for uint8 images."""
    model, by = keyed
    with torch.inference_mode():
        return model(encrypted(x, by))


def score(task: str, keyed: Keyed, test: Scenes) -> dict[str, float]:
    """In percent. mean IoU: of all classes, the background among them. mAP: COCO's, over IoU 0.5 to 0.95;
    AP50: at IoU 0.5."""
    outputs = found(keyed, test.images)
    if task == "segmentation":
        return {"mean IoU": 100 * float(MulticlassJaccardIndex(CLASSES)(outputs, test.masks))}
    metric = MeanAveragePrecision()
    metric.update(
        outputs, [{"boxes": boxes, "labels": labels} for boxes, labels in zip(test.boxes, test.labels)]
    )
    values = metric.compute()
    return {"mAP": 100 * float(values["map"]), "AP50": 100 * float(values["map_50"])}


def measure(
    run: Run, form: str, data: Scenes, test: Scenes, wrong: int, work: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """One row: the scores of a form with the right key, with so many wrong ones, and with none."""
    used = models(trained(run, data, work, log), FORMS[form])
    row: dict[str, Any] = {**run._asdict(), "form": form, "test scenes": len(test.images)}
    row["right"] = score(run.task, used.with_key(0), test)
    if FORMS[form].keyed:
        row["none"] = score(run.task, used.without, test)
        row["wrong"] = []
        for number in range(1, wrong + 1):
            row["wrong"].append(score(run.task, used.with_key(number), test))
            log(f"{run.task}, {form}: wrong key {number} of {wrong}, {row['wrong'][-1]}")
    if used.deployed is not None:
        row["deployed"] = score(run.task, (used.deployed, None), test)
    log(f"{run.task}, {form}: {row['right']}")
    return row


def cases(seeds: list[int], count: int, epochs: int) -> list[tuple[Run, str]]:
    """All rows, seed by seed."""
    return [
        (Run(task, form.training, seed, count, epochs), name)
        for seed in seeds
        for task in TASKS
        for name, form in FORMS.items()
    ]
