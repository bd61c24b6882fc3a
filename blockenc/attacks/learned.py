"""A network that undoes an encryption whose key it does not know, as it was trained with many other keys.

It learns what photos have in common that survives under every key. The attacker has photos of the same kind,
the scheme, and keys of their own, but neither pairs nor an oracle of the victim's key.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from blockenc.attacks.base import Result
from blockenc.attacks.measures import scores
from blockenc.cipher import Cipher
from blockenc.keys import Key
from blockenc.scheme import Scheme

LEAST_BLOCK = 4  # pixels: the network's own, where the scheme's is smaller
WIDTH, FEATURES = 96, 6
CROP, BATCH = 32, 32  # pixels, images
RATE = 3e-3
STEPS = 400


class InverseTransform(nn.Module):
    """Blocks to tokens, tokens and their neighbours, tokens to pixels: float [N, C, H, W] to the same.

    block_size: in pixels; it divides H and W.
    """

    def __init__(self, block_size: int, channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, block_size, block_size),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, FEATURES * block_size**2, 1),
            nn.PixelShuffle(block_size),
            nn.Conv2d(FEATURES, 2 * FEATURES, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * FEATURES, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def inverse_transform(
    scheme: Scheme,
    photos: torch.Tensor,
    encrypted: torch.Tensor,
    original: torch.Tensor,
    *,
    steps: int = STEPS,
    seconds: float = float("inf"),
    seed: int = 0,
) -> Result:
    """ITN: trains on pieces of the attacker's photos, each encrypted under a key of its own, then inverts the
    images of the victim.

    scheme: public, without a decimal ffx. photos: uint8 [K, C, H, W], the attacker's, as large as a piece (32
    pixels, or the multiple of the scheme's side next to that) or larger. encrypted, original: uint8 [N, C, H,
    W] of the victim; the original is for the scores alone. steps: of training, each of 32 pieces; seconds:
    after which it ends before that.

    Scores: SSIM and PSNR; "SSIM of guessing", of a network's even grey, what no information comes to.
    Recovered: the images. Used: "photos", "steps", "seconds".

    Source: inverse transformation network attacks in the evaluations of learnable encryption (SIA-GAN and the
    papers that it compares with), whose network for blocks is a convolution of whole blocks, two of 1 x 1,
    and a pixel shuffle. The public version ends in a sigmoid after a tanh and cannot fit; this one ends
    linearly, and sees the blocks beside a block.
    """
    side = scheme.side
    while side < LEAST_BLOCK:
        side *= 2
    crop = -(-CROP // side) * side
    n, channels, height, width = photos.shape
    if min(height, width) < crop:
        raise ValueError(f"photos: expected at least {crop} x {crop} pixels, got {height} x {width}")
    if height % side or width % side:
        raise ValueError(f"photos: expected multiples of {side} pixels, got {height} x {width}")
    start = time.perf_counter()
    cipher = Cipher(Key.generate(), scheme, per_image=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InverseTransform(side, channels)
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
        step = 0
        while step < steps and time.perf_counter() - start < seconds:
            rows, columns = (torch.randint(0, size - crop + 1, (BATCH,)) for size in (height, width))
            some = torch.randint(0, n, (BATCH,))
            pieces = torch.stack(
                [photos[k, :, r : r + crop, c : c + crop] for k, r, c in zip(some, rows, columns)]
            )
            seen = cipher.encrypt(pieces, ids=range(step * BATCH, (step + 1) * BATCH))
            loss = (network(_floats(seen)) - _floats(pieces)).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    with torch.no_grad():
        outputs = torch.cat([network(_floats(some)) for some in encrypted.split(8)])
    found = ((outputs + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    guess = torch.full_like(original, int(photos.float().mean()))
    score = {**scores(found, original), "SSIM of guessing": scores(guess, original)["SSIM"]}
    used = {
        "images": float(len(encrypted)),
        "photos": float(n),
        "steps": float(step),
        "seconds": time.perf_counter() - start,
    }
    return Result("learned inverse", score, used, found)


def _floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 - 0.5
