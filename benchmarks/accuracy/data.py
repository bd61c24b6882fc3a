"""Data sets as uint8 batches: encryption and normalisation come later, on the device.

cifar10, cifar100: a folder that holds cifar-10-batches-py or cifar-100-python (or is it); torchvision
    downloads it where asked to.
folder: train/ and val/ with a folder a class, as ImageNet has them (torchvision's ImageFolder).
digits: what scikit-learn bundles, 8 x 8 pixels, enlarged; no file is needed.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

DATASETS = ("cifar10", "cifar100", "digits", "folder")
Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 [N, C, H, W] channels_last, int64 [N]


@dataclass
class Part:
    """Images in memory, uint8 [N, H, W, C], and labels int64 [N]; augmented by random crops and flips."""

    x: torch.Tensor
    y: torch.Tensor
    pad: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, seed: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """This process's share. With a seed shuffled and augmented, without an incomplete last batch."""
        if seed is None:
            for some in torch.arange(rank, len(self), world).split(size):
                yield self.x[some].permute(0, 3, 1, 2), self.y[some]
            return
        # Drawn for all processes alike, so that their shares fit together; a seed an epoch, so that a
        # resumed run draws what the whole one would have.
        g = torch.Generator().manual_seed(seed)
        n, h, w, c = self.x.shape
        order = torch.randperm(n, generator=g)
        shift = torch.randint(0, 2 * self.pad + 1, (2, n, 1, 1), generator=g)
        flipped = torch.randint(0, 2, (n, 1, 1), generator=g).bool() & self.flip
        rows = (torch.arange(h).view(1, h, 1) + shift[0] - self.pad).clamp_(0, h - 1)  # the edge goes on
        columns = torch.arange(w).view(1, 1, w)
        columns = torch.where(flipped, w - 1 - columns, columns) + shift[1] - self.pad
        columns = columns.clamp_(0, w - 1)
        pixels = self.x.view(n * h * w, c)
        share = order[: n // (size * world) * (size * world)][rank::world]
        for some in share.split(size):
            index = (some.view(-1, 1, 1) * h + rows[some]) * w + columns[some]
            x = pixels.index_select(0, index.flatten()).view(len(some), h, w, c)
            yield x.permute(0, 3, 1, 2), self.y[some]

    def steps(self, size: int, world: int = 1) -> int:
        """Batches of one training epoch."""
        return len(self) // (size * world)

    def some(self, number: int) -> Part:
        """The first images, for a quick test."""
        return Part(self.x[:number], self.y[:number])


@dataclass
class Folder:
    """An ImageFolder, read by worker processes: random resized crops and flips, or the centre."""

    path: Path
    image_size: int
    training: bool
    workers: int = min(8, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        size = self.image_size
        if self.training:
            crops = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        else:
            crops = [v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)]
        self.images: Any = ImageFolder(str(self.path), v2.Compose([v2.PILToTensor(), *crops]))

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, seed: int | None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """As Part.batches. What is drawn depends on the number of workers, too."""
        g = torch.Generator().manual_seed(seed or 0)
        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=g)
        if seed is not None:
            order = order[: self.steps(size, world) * size * world]
        loader: Any = torch.utils.data.DataLoader(
            self.images,
            size,
            sampler=order[rank::world].tolist(),
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=g,
        )
        for x, y in loader:
            yield x.contiguous(memory_format=torch.channels_last), y

    def steps(self, size: int, world: int = 1) -> int:
        return len(self) // (size * world)

    def some(self, number: int) -> Folder:
        """Images at equal distances, since they lie in the order of their classes."""
        found = copy.copy(self)
        index = torch.arange(min(number, len(self))) * len(self) // min(number, len(self))
        found.images = torch.utils.data.Subset(self.images, index.tolist())
        return found


@dataclass
class Data:
    train: Part | Folder
    test: Part | Folder
    classes: int
    channels: int
    image_size: int
    note: str  # where the images come from


def load(name: str, folder: Path | None, *, image_size: int = 224, download: bool = False) -> Data:
    """A data set. Raises FileNotFoundError or ValueError that say what is missing."""
    if name == "digits":
        return _digits()
    if folder is None:
        raise ValueError(f"--data: {name} needs a folder")
    if name == "folder":
        train = Folder(folder / "train", image_size, True)
        test = Folder(folder / "val", image_size, False)
        return Data(train, test, len(train.images.classes), 3, image_size, "ImageFolder")
    if download:
        from torchvision import datasets

        {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name](str(folder), download=True)
    return _cifar(name, folder)


def _cifar(name: str, folder: Path) -> Data:
    if name == "cifar10":
        inside, label = "cifar-10-batches-py", b"labels"
        files = [f"data_batch_{n}" for n in range(1, 6)]
        test = "test_batch"
    else:
        inside, label, files, test = "cifar-100-python", b"fine_labels", ["train"], "test"
    where = folder if (folder / test).exists() else folder / inside
    if not (where / test).exists():
        raise FileNotFoundError(f"--data: no {inside} in {folder}")

    def read(names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        # The data set's own format; it is the user's own folder.
        batches = [pickle.loads((where / n).read_bytes(), encoding="bytes") for n in names]
        x = np.concatenate([np.asarray(b[b"data"], np.uint8) for b in batches]).reshape(-1, 3, 32, 32)
        y = np.concatenate([np.asarray(b[label], np.int64) for b in batches])
        return torch.from_numpy(x.transpose(0, 2, 3, 1).copy()), torch.from_numpy(y)

    train = Part(*read(files), pad=4, flip=True)
    classes = 10 if name == "cifar10" else 100
    return Data(train, Part(*read([test])), classes, 3, 32, f"{name} in the standard layout")


def _digits() -> Data:
    """The digits as [1797, 16, 16, 1] images: 1400 to train on."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy((found.images * (255 / 16)).round().astype(np.uint8))
    x = x.repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(-1).contiguous()
    y = torch.from_numpy(found.target.astype(np.int64))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    first, rest = order[:1400], order[1400:]
    train, test = Part(x[first], y[first], pad=2), Part(x[rest], y[rest])
    return Data(train, test, 10, 1, 16, "scikit-learn digits, enlarged twice")
