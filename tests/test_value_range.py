"""Floating images whose values are not, or not quite, in [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import blockenc
from blockenc.value_range import TOLERANCE, within_unit_range
from tests import oracle

NOISE = 1.0000001192092896  # the float32 after 1: what a resize of a white image gives
SCHEMES = [("shuffle",), ("np",), ("shuffle", "np", "ffx")]


def image(dtype: torch.dtype, *values: float) -> torch.Tensor:
    """An image of 0.5 whose first values are these."""
    x = torch.full((1, 3, 8, 8), 0.5, dtype=dtype)
    x.view(-1)[: len(values)] = torch.tensor(values).to(dtype)
    return x


@pytest.mark.parametrize("steps", SCHEMES)
@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_rounding_noise_is_clamped(dtype: torch.dtype, steps: tuple[str, ...]) -> None:
    cipher = blockenc.Cipher(oracle.KEY, steps=steps)
    above, below = {torch.float32: (NOISE, -1e-9), torch.float16: (1.001, -0.0019)}.get(dtype, (1.0, -0.0019))
    x, clean = image(dtype, above, below, -0.0, 0.0, 1.0), image(dtype, 1.0, 0.0, 0.0, 0.0, 1.0)
    before = x.clone()
    encrypted = cipher.encrypt(x)
    assert torch.equal(encrypted, cipher.encrypt(clean))
    assert torch.equal(x, before)  # the user's image is not changed
    assert ((encrypted >= 0) & (encrypted <= 1)).all()
    numpy = before.float().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(cipher.encrypt(numpy), cipher.encrypt(clean.float()).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("value", [1 + 1.5 * TOLERANCE, -1.01 * TOLERANCE, 2.0, float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_others_are_refused_and_shown(dtype: torch.dtype, value: float) -> None:
    x = image(dtype, 0.5, 0.25, value)
    shown = f"{float(x.view(-1)[2]):.9g}"
    with pytest.raises(ValueError, match=rf"^x: .*\[0, 1\], got {shown} at \[0, 0, 0, 2\] and 0 more"):
        blockenc.Cipher(oracle.KEY).encrypt(x)
    blockenc.Cipher(oracle.KEY, check_values=False).encrypt(x)


@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_every_value_of_a_type(dtype: torch.dtype) -> None:
    """All 16-bit floats, and as many float32: comparing values gives the same as comparing bits."""
    every = torch.arange(1 << 16, dtype=torch.int32)
    bits = (every << 16).view(torch.float32) if dtype == torch.float32 else every.to(torch.int16).view(dtype)
    tolerance = max(TOLERANCE, torch.finfo(dtype).eps)
    inside = (bits.float() >= -tolerance) & (bits.float() <= 1 + tolerance)
    assert torch.equal(within_unit_range(bits[inside]), bits[inside].clamp(0, 1))
    for value in bits[~inside][::97]:
        with pytest.raises(ValueError, match=r"^x: "):
            within_unit_range(value.reshape(1, 1, 1))


def test_what_is_inside_is_not_copied() -> None:
    x = image(torch.float32, 0.0, 1.0)
    assert within_unit_range(x) is x


def test_layouts() -> None:
    """The place is that in the shape of the image, whatever its memory is like."""
    x = torch.full((2, 3, 8, 8), 0.5).contiguous(memory_format=torch.channels_last)[:, :, ::2, ::2]
    x[1, 2, 3, 1] = 7
    with pytest.raises(ValueError, match=r"got 7 at \[1, 2, 3, 1\]"):
        within_unit_range(x)
    x[1, 2, 3, 1] = NOISE
    assert torch.equal(within_unit_range(x), x.clamp(0, 1))
