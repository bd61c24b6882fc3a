"""Scenes of digits on clutter, with masks and boxes: composed of scikit-learn's digits by a seed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

SIDE = 64
CLASSES = 11  # the background, and the digits 0 to 9 as 1 to 10
TRAIN_DIGITS = 1297  # of 1797; the others are in test scenes only


class Scenes(NamedTuple):
    """N scenes.

    images: uint8 [N, 3, SIDE, SIDE]. masks: int64 [N, SIDE, SIDE], the class of each pixel.
    boxes, labels: of each scene, float32 [K, 4] (left, top, right, bottom in pixels) and int64 [K].
    """

    images: torch.Tensor
    masks: torch.Tensor
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]


@functools.cache
def scenes(count: int, test: bool) -> Scenes:
    """So many scenes for training, or for tests, of other digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(TRAIN_DIGITS, None) if test else slice(TRAIN_DIGITS)
    glyphs, labels = digits.images[part].astype(np.float32) / 16, digits.target[part]
    generator = np.random.default_rng(int(test))
    made = [_scene(glyphs, labels, generator) for _ in range(count)]
    images, masks, boxes, classes = zip(*made)
    return Scenes(torch.stack(images), torch.stack(masks), list(boxes), list(classes))


def _scene(
    glyphs: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    image = _resized(generator.uniform(0, 255, (3, 5, 5)).astype(np.float32), SIDE, SIDE, "bilinear")
    image = 0.7 * image + generator.normal(40, 12, image.shape).astype(np.float32)
    for _ in range(generator.integers(3, 7)):  # pieces of strokes, which are not to be found
        row, column = generator.integers(0, 5, 2)
        piece = glyphs[generator.integers(len(glyphs))][row : row + 4, column : column + 4]
        height, width = generator.integers(7, 13, 2)
        _paint(image, _resized(piece[None], height, width, "bicubic")[0], _place(height, width, generator))
    mask = np.zeros((SIDE, SIDE), np.int64)
    boxes: list[list[int]] = []
    classes: list[int] = []
    for _ in range(generator.integers(2, 5)):
        n = generator.integers(len(glyphs))
        height = generator.integers(16, 29)
        width = int(height * generator.uniform(0.8, 1))
        glyph = _resized(glyphs[n][None], height, width, "bicubic")[0]
        rows, columns = (np.flatnonzero((glyph > 0.4).any(axis)) for axis in (1, 0))
        for _ in range(20):
            top, left = _place(height, width, generator)
            box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
            if all(_apart(box, other) for other in boxes):
                _paint(image, glyph, (top, left))
                inside = mask[top : top + height, left : left + width]
                inside[glyph > 0.4] = labels[n] + 1
                boxes.append([int(side) for side in box])
                classes.append(int(labels[n]) + 1)
                break
    pixels = torch.from_numpy(image.clip(0, 255).astype(np.uint8))
    return pixels, torch.from_numpy(mask), torch.tensor(boxes, dtype=torch.float32), torch.tensor(classes)


def _paint(image: np.ndarray, glyph: np.ndarray, place: tuple[int, int]) -> None:
    """In a colour far from what is there."""
    top, left = place
    part = image[:, top : top + glyph.shape[0], left : left + glyph.shape[1]]
    colour = (part.mean((1, 2)) + 128) % 256
    part += glyph.clip(0, 1) * (colour[:, None, None] - part)


def _place(height: int, width: int, generator: np.random.Generator) -> tuple[int, int]:
    return int(generator.integers(SIDE - height + 1)), int(generator.integers(SIDE - width + 1))


def _apart(box: list[int], other: list[int]) -> bool:
    return box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]


def _resized(picture: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    x = torch.from_numpy(picture)[None]
    return functional.interpolate(x, (height, width), mode=mode, align_corners=False)[0].numpy()
