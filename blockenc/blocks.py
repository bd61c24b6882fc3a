"""Images as the vectors of their blocks, and back (docs/scheme.md, "Blocks"). For torch tensors and
graphs."""

from __future__ import annotations

import torch


def to_vectors(x: torch.Tensor, block_size: int) -> torch.Tensor:
    """Images [N, C, H, W] as [N, G, L]: blocks row by row, position p = (i*M + j)*C + c within a block."""
    m = block_size
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // m, m, w // m, m).permute(0, 2, 4, 3, 5, 1)
    return blocks.reshape(n, h // m * (w // m), m * m * c)


def to_images(vectors: torch.Tensor, block_size: int, channels: int, height: int, width: int) -> torch.Tensor:
    """The inverse of `to_vectors`."""
    m, c = block_size, channels
    blocks = vectors.reshape(-1, height // m, width // m, m, m, c).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(-1, c, height, width)
