"""Statistics of encrypted images: what papers on image ciphers report, each with its formula's source.

They find weak ciphers and prove no strong one: a shuffle of all pixels has a good correlation, and falls to
one chosen image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from blockenc.attacks.base import Result

VALUES = 256
NEIGHBOURS = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}


def histogram(images: torch.Tensor) -> torch.Tensor:
    """How often each value occurs, float64 [256], of uint8 images of any shape."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    return torch.bincount(images.reshape(-1).int(), minlength=VALUES).double()


def entropy(images: torch.Tensor) -> float:
    """Of the values, in bits: 8 where all 256 are equally frequent. H = -sum p log2 p.

    Source: C. Shannon, A mathematical theory of communication, 1948.

    >>> entropy(torch.arange(256, dtype=torch.uint8))
    8.0
    """
    p = histogram(images)
    p = p[p > 0] / p.sum()
    return float(-(p * p.log2()).sum())


def chi_square(images: torch.Tensor) -> float:
    """Distance of the histogram from a uniform one, chi^2 = sum (n_v - e)^2 / e with e = n / 256, divided by
    its 255 degrees of freedom: about 1 for random values.

    Source: K. Pearson, 1900.

    >>> chi_square(torch.arange(256, dtype=torch.uint8))
    0.0
    """
    counts = histogram(images)
    expected = counts.sum() / VALUES
    return float(((counts - expected).square() / expected).sum() / (VALUES - 1))


def symmetry(images: torch.Tensor) -> float:
    """How symmetric the histogram is, 1 - sum |n_v - n_(255-v)| / (2 n): 1 is what np of half of the values
    comes to, whatever the image.

    Source: that np makes histograms symmetric is in Mathematics 12(6) 908, 2024; the measure is the overlap
    of the histogram with its mirror image.

    >>> symmetry(torch.tensor([0, 255], dtype=torch.uint8)), symmetry(torch.tensor([3], dtype=torch.uint8))
    (1.0, 0.0)
    """
    counts = histogram(images)
    return float(1 - (counts - counts.flip(0)).abs().sum() / (2 * counts.sum()))


def correlation(images: torch.Tensor, direction: str = "horizontal") -> float:
    """Pearson's correlation of neighbouring values, of all images together: near 1 in photos, 0 in noise.

    images: [N, C, H, W]. direction: "horizontal", "vertical" or "diagonal".

    Source: G. Chen, Y. Mao and C. Chui, A symmetric image encryption scheme based on 3D chaotic cat maps,
    Chaos, Solitons & Fractals 21, 2004.

    >>> correlation(torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4))
    1.0
    """
    if direction not in NEIGHBOURS:
        raise ValueError(f"direction: expected one of {', '.join(NEIGHBOURS)}, got {direction!r}")
    down, right = NEIGHBOURS[direction]
    h, w = images.shape[-2:]
    pair = torch.stack([images[..., : h - down, : w - right], images[..., down:, right:]]).double()
    pair = pair.reshape(2, -1) - pair.reshape(2, -1).mean(dim=1, keepdim=True)
    size = pair.square().sum(dim=1).prod().sqrt()
    return float(pair.prod(dim=0).sum() / size) if size else 1.0  # an even picture foretells all of itself


def npcr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of the values that differ: 255/256 = 0.9961 for two random images.

    Source: Y. Wu, J. Noonan and S. Agaian, NPCR and UACI randomness tests for image encryption, Cyber
    Journals, 2011.

    >>> npcr(torch.tensor([1, 2]), torch.tensor([1, 3]))
    0.5
    """
    return float((a != b).double().mean())


def uaci(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean difference of the values over 255: 257/768 = 0.3346 for two random images.

    Source: as of `npcr`.

    >>> uaci(torch.tensor([0, 10]), torch.tensor([255, 10]))
    0.5
    """
    return float((a.double() - b.double()).abs().mean() / (VALUES - 1))


def sensitivity(
    images: torch.Tensor, oracle: Callable[[torch.Tensor], torch.Tensor], other: torch.Tensor
) -> dict[str, float]:
    """What one changed value of the plain image, and another key, change.

    images: uint8 [N, C, H, W]. oracle: encrypts. other: the images encrypted under another key.

    Scores: "NPCR" and "UACI" of one value changed by 1 in the middle of each image; "key NPCR" and "key UACI"
    of the other key. Block-wise schemes change one value of N: they have no diffusion between blocks.
    """
    encrypted = oracle(images)
    changed = images.clone()
    h, w = images.shape[-2:]
    changed[:, 0, h // 2, w // 2] ^= 1
    after = oracle(changed)
    return {
        "NPCR": npcr(after, encrypted),
        "UACI": uaci(after, encrypted),
        "key NPCR": npcr(other, encrypted),
        "key UACI": uaci(other, encrypted),
    }


def statistics(encrypted: torch.Tensor) -> Result:
    """All that needs encrypted images alone: uint8 [N, C, H, W].

    Scores: "entropy", "chi-square", "symmetry", and "horizontal", "vertical" and "diagonal" correlation.
    """
    found = {"entropy": entropy(encrypted), "chi-square": chi_square(encrypted)}
    found["symmetry"] = symmetry(encrypted)
    found.update({name: correlation(encrypted, name) for name in NEIGHBOURS})
    return Result("statistics", found, {"images": float(len(encrypted))})
