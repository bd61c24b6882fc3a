"""Pictures out of encrypted images alone, without any key: by what neighbours have in common.

The attackers of this file see encrypted images, and know the scheme.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from blockenc.attacks.base import Result
from blockenc.attacks.measures import scores
from blockenc.blocks import to_images, to_vectors

HALF, LARGEST, VALUES = 128, 255, 256


def feature_reconstruction(encrypted: torch.Tensor, original: torch.Tensor) -> Result:
    """FR: every value above 127 becomes 255 - value, after which a negated value looks like the one it was.

    encrypted, original: uint8 [N, C, H, W]; the original is for the scores alone. Scores: SSIM and PSNR, to
    the original treated likewise ("SSIM of outlines"), too: what FR aims at. Recovered: the images.

    Source: A. Chang and B. Case, Attacks on image encryption schemes for privacy-preserving deep neural
    networks, arXiv 2004.13263, 2020.

    >>> x = torch.tensor([[[[3, 200]]]], dtype=torch.uint8)
    >>> folded(x).tolist()
    [[[[3, 55]]]]
    """
    found = folded(encrypted)
    of_outlines = scores(found, folded(original))["SSIM"]
    score = {**scores(found, original), "SSIM of outlines": of_outlines}
    return Result("feature reconstruction", score, {"images": float(len(encrypted))}, found)


def folded(images: torch.Tensor) -> torch.Tensor:
    """Values above 127 as their negatives."""
    return torch.where(images >= HALF, LARGEST - images, images)


def minimum_difference(encrypted: torch.Tensor, original: torch.Tensor) -> Result:
    """Of what each pixel may have been (its colours in any order, each negated or not: 48 candidates of three
    channels), takes the one nearest to the pixel to its left (first row) or above it.

    encrypted, original: uint8 [N, C, H, W], up to 4 channels. The first pixel is given, as published: of the
    original nothing else is used, but for the scores SSIM and PSNR. Recovered: the images.

    Source: A. Chang and B. Case, arXiv 2004.13263, 2020.
    """
    n, c, h, w = encrypted.shape
    if c > 4:
        raise ValueError(f"encrypted: expected at most 4 channels, got {c}")
    values = encrypted.permute(0, 2, 3, 1).numpy().astype(np.int32)
    orders = np.array(list(itertools.permutations(range(c))))
    signs = np.array(list(itertools.product([False, True], repeat=c)))
    found = np.empty_like(values)

    def nearest(pixels: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """[N, m, C] of both."""
        ordered = pixels[..., orders][..., None, :]  # [N, m, orders, 1, C]
        candidates = np.where(signs, LARGEST - ordered, ordered).reshape(*pixels.shape[:2], -1, c)
        best = np.abs(candidates - neighbours[:, :, None]).sum(axis=-1).argmin(axis=-1)
        picked = np.take_along_axis(candidates, best[:, :, None, None], axis=2)
        return np.asarray(picked[:, :, 0])

    found[:, 0, 0] = original.permute(0, 2, 3, 1)[:, 0, 0].numpy()
    for column in range(1, w):
        found[:, 0, column : column + 1] = nearest(
            values[:, 0, column : column + 1], found[:, 0, column - 1 : column]
        )
    for row in range(1, h):
        found[:, row] = nearest(values[:, row], found[:, row - 1])
    images = torch.from_numpy(found.astype(np.uint8)).permute(0, 3, 1, 2)
    used = {"images": float(n), "given pixels an image": 1.0}
    return Result("minimum difference", scores(images, original), used, images)


def block_means(encrypted: torch.Tensor, original: torch.Tensor, block_size: int) -> Result:
    """Each block as its mean: what a shuffle within blocks leaves, a coarse picture.

    encrypted, original: uint8 [N, C, H, W], multiples of block_size. Scores: SSIM and PSNR. Recovered: the
    images.
    """
    n, c, h, w = encrypted.shape
    means = to_vectors(encrypted.float(), block_size).mean(dim=2, keepdim=True)
    vectors = means.round().to(torch.uint8).expand(-1, -1, block_size * block_size * c)
    images = to_images(vectors, block_size, c, h, w)
    return Result("block means", scores(images, original), {"images": float(n)}, images)


def equal_blocks(encrypted: torch.Tensor, original: torch.Tensor, block_size: int) -> Result:
    """Which blocks are equal to another block of their image: even areas, and what repeats.

    encrypted, original: uint8 [N, C, H, W], multiples of block_size. Scores: "share", of the encrypted blocks
    that have an equal; "share of plain": of the original's blocks, which is as many where the scheme treats
    all blocks alike. Recovered: uint8 [N, C, H, W], equal blocks in one shade, all others black.
    """
    n, c, h, w = encrypted.shape
    counts = [_equals(to_vectors(images, block_size)) for images in (encrypted, original)]
    shares = [float((count > 1).double().mean()) for count in counts]
    shade = torch.where(counts[0] > 1, (32 * counts[0].double().log2()).clamp(0, LARGEST), 0)
    vectors = shade.to(torch.uint8)[..., None].expand(-1, -1, block_size * block_size * c)
    images = to_images(vectors, block_size, c, h, w)
    score = {"share": shares[0], "share of plain": shares[1]}
    return Result("equal blocks", score, {"images": float(n)}, images)


def _equals(vectors: torch.Tensor) -> torch.Tensor:
    """How many blocks of its image each block [N, G, L] is equal to, itself included, [N, G]."""
    found = torch.empty(vectors.shape[:2], dtype=torch.int64)
    for n, blocks in enumerate(vectors):
        _, number, counts = torch.unique(blocks.int(), dim=0, return_inverse=True, return_counts=True)
        found[n] = counts[number]
    return found


def ffx_frequencies(encrypted: torch.Tensor, original: torch.Tensor, block_size: int) -> Result:
    """The mask and the table of an ffx step that treats all blocks alike, out of frequencies.

    First which positions of a block are enciphered: the histogram of a position that is not is smooth, as
    those of photos are, and that of the others is ragged. Then the table: what a ciphertext stands for lies
    near the values beside it that are in the clear, which puts the ciphertexts in order; and in that order
    their frequencies are those of the values in the clear, from the darkest on.

    encrypted, original: uint8 [N, C, H, W], multiples of block_size; the more images, the better. The
    original is for the scores alone: "mask", the share of positions that are told right; SSIM and PSNR.
    Recovered: the images.

    Source: frequency analysis; that ffx leaves half of the values in the clear is MaungMaung & Kiya, arXiv
    2105.14756. The use of neighbours for the order is ours.
    """
    n, c, h, w = encrypted.shape
    vectors = to_vectors(encrypted, block_size).numpy()
    length = vectors.shape[2]
    counts = np.stack([np.bincount(v.ravel(), minlength=VALUES) for v in vectors.transpose(2, 0, 1)])
    ragged = np.abs(np.diff(counts, axis=1)).sum(axis=1)
    masked = np.zeros(length, bool)
    masked[np.argsort(ragged)[length - length // 2 :]] = True

    # The mean, in each block, of the values in the clear that are nearest to each enciphered one.
    row, column, channel = np.indices((block_size, block_size, c)).reshape(3, -1)
    apart = (
        np.abs(row[:, None] - row) + np.abs(column[:, None] - column) + 0.5 * (channel[:, None] != channel)
    )
    weights = np.where(masked[None], 0, 1 / (0.1 + apart) ** 3)
    weights /= weights.sum(axis=1, keepdims=True)
    beside = (vectors.reshape(-1, length).astype(np.float32) @ weights.T.astype(np.float32))[:, masked]
    ciphers = vectors.reshape(-1, length)[:, masked]
    often = np.bincount(ciphers.ravel(), minlength=VALUES)
    near = np.bincount(ciphers.ravel(), beside.ravel(), minlength=VALUES) / np.maximum(often, 1)
    order = np.argsort(np.where(often > 0, near, np.inf))
    # The middle of each ciphertext's place in the distribution of the values in the clear.
    middle = (np.cumsum(often[order]) - often[order] / 2) / often.sum()
    clear = counts[~masked].sum(axis=0)
    value = np.empty(VALUES, np.uint8)
    value[order] = np.searchsorted(np.cumsum(clear) / clear.sum(), middle).clip(0, LARGEST)

    found = np.where(masked, value[vectors], vectors)
    images = to_images(torch.from_numpy(found), block_size, c, h, w)
    changed = (encrypted != original).to(torch.uint8)
    truth = to_vectors(changed, block_size).reshape(-1, length).double().mean(dim=0).numpy() > 0.5
    score = {"mask": float((masked == truth).mean()), **scores(images, original)}
    return Result("frequency analysis", score, {"images": float(n)}, images)


def np_correlations(encrypted: torch.Tensor, original: torch.Tensor, block_size: int | None) -> Result:
    """The mask of an np step on single values, out of how neighbours correlate.

    Neighbouring values of photos rise and fall together: if two do the opposite, one of them is negated.
    Position by position, row by row, the sign is taken that fits those before it best.

    encrypted, original: uint8 [N, C, H, W]; the original is for the scores alone. block_size: of a mask that
    is the same for all blocks, each of which is an example more; None for one mask of the whole image, of
    which each image is one example. That all may be negated is left, and the better of the two is scored.

    Scores: "mask", the share of positions told right (chance is 0.5); SSIM and PSNR. Recovered: the images.

    Source: that np turns the scatter plot of neighbours into a cross is in Mathematics 12(6) 908, 2024; its
    use as an attack is ours.
    """
    n, c, h, w = encrypted.shape
    rows, columns = (h, w) if block_size is None else (block_size, block_size)

    def examples(images: torch.Tensor) -> np.ndarray:
        """[rows, columns, C, R]"""
        if block_size is None:
            return images.permute(2, 3, 1, 0).numpy()
        return to_vectors(images, block_size).numpy().reshape(-1, rows, columns, c).transpose(1, 2, 3, 0)

    seen = examples(encrypted).astype(np.float32)
    centred = seen - seen.mean(axis=3, keepdims=True)
    centred /= np.linalg.norm(centred, axis=3, keepdims=True) + 1e-6
    sign = np.ones((rows, columns, c), np.float32)
    for row in range(rows):
        for column in range(columns):
            near = centred[max(row - 2, 0) : row + 1, max(column - 2, 0) : column + 3]
            signs = sign[max(row - 2, 0) : row + 1, max(column - 2, 0) : column + 3].copy()
            signs[-1, min(column, 2) :] = 0  # not told yet
            around = np.einsum("ijcr,ijc->r", near, signs)
            for channel in range(c):
                own = centred[row, column, channel]
                sign[row, column, channel] = -1 if own @ around < 0 else 1
                around = around + sign[row, column, channel] * own
    changed = examples((encrypted != original).to(torch.uint8)).mean(axis=3) > 0.5
    share = float(((sign < 0) == changed).mean())
    if share < 0.5:
        sign, share = -sign, 1 - share
    tiled = np.tile(sign.transpose(2, 0, 1) < 0, (1, h // rows, w // columns))
    images = torch.where(torch.from_numpy(tiled), LARGEST - encrypted, encrypted)
    return Result(
        "np correlations", {"mask": share, **scores(images, original)}, {"images": float(n)}, images
    )
