"""What a run on ImageNet depends on: epochs, sizes of the images, learning rates, encryption."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

import blockenc
from blockenc.cipher import AnyKey

# One number for all channels: encryption mixes them, and plain images are normalised alike, to compare.
MEAN, STD = 0.449, 0.226
PLAIN = "plain"
ROWS = (PLAIN, "shuffle", "np", "ffx", "shuffle,np,ffx")


@dataclass(frozen=True)
class Config:
    """A row. Phases of progressive resizing: phase i is `epochs[i]` epochs of `batches[i]` images.

    The fifteen epochs in phases of 128, 224 and 288 pixels are those of the "fast" setting of Wong, Rice and
    Kolter (arXiv 2001.03994), which follows DAWNBench. The rate rises to `lr` in the first sixth of the first
    phase, and falls to a tenth by the end of each phase. arXiv 2010.00801 names 15 epochs and progressive
    resizing; the sizes of its batches and its rates are not known to us.
    """

    steps: str = PLAIN  # or kinds of steps with commas between them
    block_size: int = 4
    arch: str = "resnet50"
    weights: str = "IMAGENET1K_V1"
    sizes: tuple[int, ...] = (128, 224, 288)
    epochs: tuple[int, ...] = (6, 6, 3)
    batches: tuple[int, ...] = (512, 224, 128)
    lr: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.epochs) == len(self.batches):
            raise ValueError(
                "--sizes, --epochs, --batches: expected one number for each phase, got "
                f"{len(self.sizes)}, {len(self.epochs)} and {len(self.batches)} numbers"
            )
        for size in self.sizes:
            if size % self.block_size:
                raise ValueError(
                    f"--sizes: expected multiples of the block size {self.block_size}, got {size}"
                )

    @property
    def ends(self) -> list[int]:
        """The epoch at which each phase is over."""
        return list(accumulate(self.epochs))

    def phase(self, epoch: int) -> int:
        """The phase of an epoch; the last one once training is over."""
        return next((n for n, end in enumerate(self.ends) if epoch < end), len(self.ends) - 1)

    def lr_at(self, epoch: float) -> float:
        """The learning rate at a point of training, in epochs, linear between the points of the schedule."""
        points = [(0.0, 0.0), (self.ends[0] / 6, self.lr)]
        points += [(float(end), self.lr / 10 ** (n + 1)) for n, end in enumerate(self.ends)]
        for (a, low), (b, high) in pairwise(points):
            if epoch <= b:
                return low + (high - low) * (epoch - a) / (b - a)
        return points[-1][1]

    def cipher(self, key: AnyKey | None) -> blockenc.Cipher | None:
        """What encrypts under a key, or None for plain images."""
        if self.steps == PLAIN:
            return None
        if key is None:
            raise ValueError(f"--key-file: the row {self.steps} is trained on encrypted images; give a key")
        return blockenc.Cipher(key, block_size=self.block_size, steps=self.steps.split(","))


def prepare(x: torch.Tensor, cipher: blockenc.Cipher | None) -> torch.Tensor:
    """uint8 images [N, 3, H, W], augmented, as the model takes them: encrypted, then normalised, float32."""
    if cipher is None:
        return (x.to(torch.float32) / 255 - MEAN) / STD
    return cipher.encrypt(x, dtype=torch.float32, mean=(MEAN,) * 3, std=(STD,) * 3)  # type: ignore[no-any-return]
