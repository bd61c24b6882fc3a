"""ImageNet as uint8 batches: every draw is a function of the seed, the epoch and the image.

So there is no state to save: a run that goes on in the middle of an epoch, with any number of reading
processes, sees the images, crops and flips that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 [N, 3, H, W] channels_last, int64 [N]


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Drawn(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images as one epoch sees them: a random crop of `size` pixels, and flipped or not."""

    def __init__(self, images: ImageFolder, size: int, seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch
        crop = v2.RandomResizedCrop(size, antialias=True)
        self.transform = v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, self.epoch, index))
            return self.transform(image), label


class Centred(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The centres of images, `size` pixels, of images whose shorter side has 8/7 of that."""

    def __init__(self, images: ImageFolder, size: int) -> None:
        self.images = images
        crops = [v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)]
        self.transform = v2.Compose([v2.PILToTensor(), *crops])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


class Images:
    """The folders train and val, with a folder a class in each; this process's share of every batch."""

    def __init__(self, folder: Path, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        for part in ("train", "val"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(
                    f"--data: expected the folders train and val, a folder a class; no {part} in {folder}"
                )
        self.train, self.val = ImageFolder(str(folder / "train")), ImageFolder(str(folder / "val"))
        if self.train.classes != self.val.classes:
            raise ValueError(f"--data: train and val of {folder} do not have the same classes")
        self.rank, self.world, self.workers = rank, world, workers

    def steps(self, batch: int) -> int:
        """Batches of an epoch, without an incomplete last one. Raises ValueError if there is none."""
        if batch % self.world:
            raise ValueError(f"--batches: expected multiples of {self.world} processes, got {batch}")
        if not (found := len(self.train) // batch):
            raise ValueError(
                f"--batches: expected at most the {len(self.train)} images of train, got {batch}"
            )
        return found

    def batches(self, batch: int, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from number `start` on, of `batch` images over all processes."""
        order = torch.randperm(
            len(self.train), generator=torch.Generator().manual_seed(seed_of(seed, epoch))
        ).tolist()
        here = [
            order[n * batch : (n + 1) * batch][self.rank :: self.world]
            for n in range(start, self.steps(batch))
        ]
        return self._read(Drawn(self.train, size, seed, epoch), here)

    def tests(self, size: int, number: int | None = None, batch: int = 250) -> Iterator[Batch]:
        """This process's test images; number: so many of them in all, at equal distances."""
        number = min(number or len(self.val), len(self.val))
        index = [n * len(self.val) // number for n in range(number)][self.rank :: self.world]
        return self._read(
            Centred(self.val, size), [index[n : n + batch] for n in range(0, len(index), batch)]
        )

    def _read(self, images: torch.utils.data.Dataset[Any], batches: list[list[int]]) -> Iterator[Batch]:
        loader: Any = torch.utils.data.DataLoader(
            images,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader's own draw must not move the global one
        )
        for x, y in loader:
            yield x.contiguous(memory_format=torch.channels_last), y
