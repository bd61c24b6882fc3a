"""The table of ffx out of logits alone: values that look alike to the model are neighbours before encryption.

One position of every block of a few encrypted images is set to each of the 256 values. A network that looks
values up answers smoothly in the plain value, so that its answers lie along a line in the order of the plain
values; seriation finds that order. A convolution is smooth in the encrypted value, and betrays no order so.
Neither plain images nor labels nor weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from blockenc.attacks.base import Result
from blockenc.blocks import to_images, to_vectors

VALUES = 256


def seriation(
    logits: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    block_size: int,
    positions: Sequence[int],
    *,
    table: np.ndarray | None = None,
    batch: int = 256,
) -> Result:
    """The order of the plain values of positions whose values are enciphered by one table.

    logits: encrypted images, uint8 [N, C, H, W], to logits [N, classes].
    images: encrypted images, uint8 [N, C, H, W]; a few do. The values of the positions are replaced.
    positions: of a block, p = (i*b + j)*C + c, of which the answers are taken together.
    table: the right one, 256 integers, for the scores only.
    batch: how many images the model is given at once.

    The order is that of the Fiedler vector of the answers' similarities (Atkins and others, SIAM J. Comput.
    28(1), 1998), and so known up to its direction.

    Scores, with the table, in the better direction: "rank correlation" (Spearman's, 0 to 1) and "rank error",
    the mean distance in values between a plain value and its rank, which is the lower the better for the
    attacker; a random order has about 82. `recovered`: int64 [256], the rank of each encrypted value.

    >>> y = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    >>> identity = seriation(lambda v: v.flatten(1).float(), y, 1, [0], table=np.arange(256))
    >>> identity.scores
    {'rank correlation': 1.0, 'rank error': 0.0}
    """
    if not len(positions):
        raise ValueError("positions: expected at least one, got none")
    answers = [answers_of(logits, images, block_size, position, batch=batch) for position in positions]
    ranks = order(np.concatenate([scaled(answer) for answer in answers], axis=1))
    scores = {} if table is None else _scores(ranks, np.argsort(np.asarray(table)))
    used: dict[str, float] = {"images": len(images), "queries": VALUES * len(images) * len(positions)}
    return Result("seriation", scores, used, ranks)


@torch.no_grad()
def answers_of(
    logits: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    block_size: int,
    position: int,
    *,
    values: Sequence[int] | np.ndarray = range(VALUES),
    batch: int = 256,
) -> np.ndarray:
    """float64 [V, N * classes]: a model's answers where a position of every block has each of V values."""
    vectors = to_vectors(images, block_size)
    if not 0 <= position < vectors.shape[-1]:
        raise ValueError(f"positions: expected numbers below {vectors.shape[-1]}, got {position}")
    changed = vectors[None].repeat(len(values), 1, 1, 1)
    column = torch.as_tensor(np.asarray(values), dtype=images.dtype, device=images.device)
    changed[..., position] = column[:, None, None]
    whole = to_images(changed.flatten(0, 1), block_size, *images.shape[1:])
    found = torch.cat([logits(some) for some in whole.split(batch)])
    rows: np.ndarray = found.double().reshape(len(values), -1).cpu().numpy()
    return rows


def order(answers: np.ndarray) -> np.ndarray:
    """The rank of each row along the line that the rows lie on, int64; its direction is arbitrary."""
    squares = (answers**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * answers @ answers.T, 0)
    np.fill_diagonal(distances, np.inf)
    # Wide enough that every row has a few neighbours, and narrow enough that the ends do not meet.
    width = np.median(np.sort(distances, axis=1)[:, :8]) + np.finfo(float).tiny
    similar = np.exp(-distances / (2 * width)) + 1e-9  # in one piece, so that there is one Fiedler vector
    np.fill_diagonal(similar, 0)
    root = 1 / np.sqrt(similar.sum(axis=1))
    laplacian = np.eye(len(answers)) - root[:, None] * similar * root
    fiedler = np.linalg.eigh(laplacian)[1][:, 1] * root
    ranks: np.ndarray = np.argsort(np.argsort(fiedler))
    return ranks


def scaled(answers: np.ndarray) -> np.ndarray:
    """Answers about their mean, of the same size for each position."""
    moved = answers - answers.mean(axis=0)
    size = np.sqrt((moved**2).mean())
    scaled: np.ndarray = moved / size if size > 0 else moved
    return scaled


def _scores(ranks: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    last = VALUES - 1
    correlation = float(np.corrcoef(ranks, plain)[0, 1])
    error = min(float(np.abs(r - plain).mean()) for r in (ranks, last - ranks))
    return {"rank correlation": round(abs(correlation), 12), "rank error": error}
