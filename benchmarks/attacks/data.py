"""The images that are attacked, uint8 [N, 3, H, W] of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.accuracy import data as accuracy_data

CIFAR = "cifar-10-batches-py"
ENDINGS = (".jpg", ".jpeg", ".png")


def load(folder: Path | None, size: int, count: int) -> tuple[torch.Tensor, str]:
    """The images, and in words where they come from.

    folder: of pictures, at any depth, in the order of their paths, whose middle squares are reduced to `size`
    pixels; or one that holds cifar-10-batches-py, whose test images have 32 pixels. None: pieces of the two
    photos that scikit-learn bundles. Raises ValueError where there are fewer than two, or for another size.
    """
    if folder is not None and (folder / CIFAR).is_dir():
        if size != 32:
            raise ValueError(f"--size: expected 32 for {CIFAR}, got {size}")
        part = accuracy_data.load("cifar10", folder).test
        assert isinstance(part, accuracy_data.Part)
        return part.x[:count].permute(0, 3, 1, 2).contiguous(), f"{count} test images of CIFAR-10"
    if folder is None:
        from sklearn.datasets import load_sample_images

        pieces = [piece for photo in load_sample_images().images for piece in _pieces(photo, size)][:count]
        note = f"{len(pieces)} pieces of scikit-learn's two photos"
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)[:count]
        pieces = [_square(path, size) for path in paths]
        note = f"the middle squares of {len(pieces)} photos"
    if len(pieces) < 2:
        raise ValueError(f"--data: expected at least 2 pictures of {size} x {size} pixels, got {len(pieces)}")
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).contiguous(), note


def with_free_photo(images: torch.Tensor) -> torch.Tensor:
    """The images with the first of those that are attacked replaced by the first photo of scikit-learn, which
    may be shown."""
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[0])
    shown = torch.from_numpy(_middle(photo, images.shape[-1])).permute(2, 0, 1)
    half = len(images) // 2
    return torch.cat([images[:half], shown[None], images[half + 1 :]])


def _pieces(photo: np.ndarray, size: int) -> list[np.ndarray]:
    rows, columns = (range(0, side - size + 1, size) for side in photo.shape[:2])
    return [photo[row : row + size, column : column + size] for row in rows for column in columns]


def _square(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as opened:
        return _middle(opened.convert("RGB"), size)


def _middle(image: Image.Image, size: int) -> np.ndarray:
    """The middle square, reduced to that many pixels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    return np.array(middle.resize((size, size), Image.Resampling.LANCZOS))
