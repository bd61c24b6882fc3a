"""Small models: a segmenter like FCN (Long and others, 2015), and torchvision's SSD, on one backbone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from benchmarks.vision.scenes import CLASSES, SIDE

# How images are normalised: symmetric, so that the negative of an image is that of its values.
MEAN, STD = (0.5,) * 3, (0.25,) * 3
WIDTHS = (24, 48, 96)
# Of the backbone: the last feature map of each resolution is put in a keyed order.
KEYED = ("layer1.1", "layer2.1", "layer3.1")


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Backbone(nn.Module):
    """Normalised images [N, 3, H, W] to feature maps of strides 2, 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.layer1 = nn.Sequential(layer(3, a, 2), layer(a, a))
        self.layer2 = nn.Sequential(layer(a, b, 2), layer(b, b))
        self.layer3 = nn.Sequential(layer(b, c, 2), layer(c, c))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.layer1(x)
        y = self.layer2(x)
        return [x, y, self.layer3(y)]


class Segmenter(nn.Module):
    """Scores of the classes from each feature map, added up at the finest one: [N, CLASSES, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone: nn.Module = Backbone()
        self.scores = nn.ModuleList([nn.Conv2d(width, CLASSES, 3, padding=1) for width in WIDTHS])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.backbone(x)
        y = self.scores[2](maps[2])
        for n in (1, 0):
            y = scaled(y, maps[n]) + self.scores[n](maps[n])
        return scaled(y, x)


def scaled(y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(y, like.shape[-2:], mode="bilinear", align_corners=False)


class DetectorMaps(nn.Module):
    """The maps that SSD looks for objects in: of strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone: nn.Module = Backbone()
        self.layer4 = layer(WIDTHS[-1], WIDTHS[-1], 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.backbone(x)[-1]
        return OrderedDict([("8", y), ("16", self.layer4(y))])


class Detector(nn.Module):
    """SSD; images are normalised when they come. Output: of each image its boxes, labels and scores; in
    training, given targets, the losses."""

    def __init__(self) -> None:
        super().__init__()
        anchors = DefaultBoxGenerator([[2], [2]], scales=[0.22, 0.32, 0.42], steps=[8, 16])
        self.ssd = SSD(
            DetectorMaps(),
            anchors,
            (SIDE, SIDE),
            CLASSES,
            head=None,
            image_mean=(0.0,) * 3,
            image_std=(1.0,) * 3,
            score_thresh=0.05,
            detections_per_img=20,
            topk_candidates=50,
        )

    def forward(self, x: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None):
        return self.ssd(list(x), targets)


def with_backbone(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of a segmenter or a detector whose backbone is what `change` makes of it."""
    result = copy.deepcopy(model)
    holder: Any = result.ssd.backbone if isinstance(result, Detector) else result
    holder.backbone = change(holder.backbone)
    return result
