"""How near a recovered picture is to the original: PSNR, SSIM, and the distance that a network sees.

LPIPS itself, which papers also give, needs the weights of a network trained on ImageNet, and is left to
`torchmetrics.image.lpip`; `perceptual` is the same of any network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

WINDOW, SIGMA = 11, 1.5  # pixels, as published
K1, K2 = 0.01, 0.03
PEAK = 255.0
BATCH = 100  # images that a network is given at once
MOST_PSNR = 100.0  # dB


def psnr(image: torch.Tensor, original: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over images.

    image, original: uint8 [N, C, H, W]. PSNR = 10 log10(255^2 / MSE) of each image, at most 100, so that
    equal images count as a number.

    >>> white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    >>> psnr(white, torch.zeros_like(white)), psnr(white, white)
    (0.0, 100.0)
    """
    _check(image, original)
    errors = (image.double() - original.double()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(PEAK**2 / errors)).clamp(max=MOST_PSNR).mean())


def ssim(image: torch.Tensor, original: torch.Tensor) -> float:
    """Structural similarity, the mean over images: 1 for equal ones, about 0 for unrelated noise.

    image, original: uint8 [N, C, H, W], H and W at least 11: a Gaussian window of 11 pixels, sigma 1.5, K1 =
    0.01, K2 = 0.03, at all places where it fits. Raises ValueError for smaller images.

    Source: Z. Wang and others, Image quality assessment: from error visibility to structural similarity, IEEE
    Transactions on Image Processing 13(4), 2004, equation 13.

    >>> x = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    >>> round(ssim(x, x), 6)
    1.0
    """
    _check(image, original)
    n, c, h, w = image.shape
    if min(h, w) < WINDOW:
        raise ValueError(f"image: expected at least {WINDOW} x {WINDOW} pixels, got {h} x {w}")
    place = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    bell = torch.exp(-place.square() / (2 * SIGMA**2))
    bell /= bell.sum()

    def blurred(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))

    # Around 0, so that float32 loses little where variances are differences of squares.
    x, y = (of.float().reshape(n * c, 1, h, w) - PEAK / 2 for of in (image, original))
    mean_x, mean_y = blurred(x), blurred(y)
    var_x = blurred(x * x) - mean_x.square()
    var_y = blurred(y * y) - mean_y.square()
    both = blurred(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + PEAK / 2, mean_y + PEAK / 2
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    lightness = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return float((lightness * (2 * both + c2) / (var_x + var_y + c2)).mean())


@torch.no_grad()
def perceptual(
    image: torch.Tensor,
    original: torch.Tensor,
    features: Callable[[torch.Tensor], Sequence[torch.Tensor]],
) -> float:
    """How far a network sees the images apart, the mean over images: 0 for equal ones.

    image, original: uint8 [N, C, H, W]. features: such images to the maps of some layers of a network,
    floats [N, channels, h, w] each. Of each layer, the features of every place are scaled to length 1, and
    the squares of the differences are summed over channels and averaged over places; layers are added up.

    Source: R. Zhang and others, The unreasonable effectiveness of deep features as a perceptual metric, CVPR
    2018 (LPIPS), equation 1, with all weights 1. Raises ValueError for other images.

    >>> x = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    >>> perceptual(x, x, lambda v: [v.float()]), perceptual(255 - x, x, lambda v: [v.float()]) > 0.1
    (0.0, True)
    """
    _check(image, original)
    total = 0.0
    for a, b in zip(image.split(BATCH), original.split(BATCH)):
        for ours, theirs in zip(features(a), features(b)):
            unit_a, unit_b = (F.normalize(maps.double(), dim=1) for maps in (ours, theirs))
            total += float((unit_a - unit_b).square().sum(1).mean((1, 2)).sum())
    return total / len(image)


def scores(image: torch.Tensor, original: torch.Tensor) -> dict[str, float]:
    """SSIM and PSNR, by name."""
    return {"SSIM": ssim(image, original), "PSNR": psnr(image, original)}


def _check(image: torch.Tensor, original: torch.Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 4:
        raise ValueError(f"image: expected uint8 [N, C, H, W], got {image.dtype} {list(image.shape)}")
    if image.shape != original.shape or original.dtype != torch.uint8:
        raise ValueError(
            f"original: expected uint8 {list(image.shape)}, got {original.dtype} {list(original.shape)}"
        )
