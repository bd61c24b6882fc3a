"""The values that floating images hold: [0, 1], and what is done about others.

Values are compared by their bits, as NumPy's unsigned integers: torch's own reductions start threads that a
forked child (a DataLoader worker) waits for in vain, and NumPy's float16 is slow.
"""

from __future__ import annotations

import numpy as np
import torch

# Half a step of a byte. Interpolation and colour conversions leave values as far outside as rounding errors,
# which round to the same byte as 0 or 1.
TOLERANCE = 0.5 / 255

# Of each type: an integer type of its size in torch and in NumPy, and the bits of 1. The bits of the floats
# from 0 to 1 are the integers up to that; those of greater ones, negative ones and NaN are larger.
_BITS: dict[torch.dtype, tuple[torch.dtype, type, int]] = {
    torch.float64: (torch.int64, np.uint64, 0x3FF0000000000000),
    torch.float32: (torch.int32, np.uint32, 0x3F800000),
    torch.float16: (torch.int16, np.uint16, 0x3C00),
    torch.bfloat16: (torch.int16, np.uint16, 0x3F80),
}


def within_unit_range(x: torch.Tensor) -> torch.Tensor:
    """x, a floating image on the CPU, if its values are in [0, 1]; a clamped copy, if they are but for up to
    TOLERANCE, or one step of the type where that is more.

    Raises ValueError that shows a value farther outside, or NaN.
    """
    signed, unsigned, one = _BITS[x.dtype]
    tolerance = max(TOLERANCE, torch.finfo(x.dtype).eps)  # of bfloat16 the next value after 1 is 1 + eps
    bits: np.ndarray = x.detach().resolve_neg().view(signed).numpy().view(unsigned)
    if not bits.size or bits.max() <= one:
        return x
    values = _values(bits, x.dtype)
    outside = ~((values >= -tolerance) & (values <= 1 + tolerance))  # NaN compares false
    if outside.any():
        place = np.unravel_index(int(np.argmax(outside)), outside.shape)
        raise ValueError(
            f"x: floating images hold values in [0, 1], got {values[place]:.9g} at "
            f"{[int(index) for index in place]} and {int(outside.sum()) - 1} more outside; scale, clamp, or "
            "encrypt before normalising (check_values=False skips this check)"
        )
    clamped = np.minimum(bits, unsigned(one))
    clamped[values <= 0] = 0
    return torch.from_numpy(clamped.view(f"i{clamped.itemsize}")).view(x.dtype)


def _values(bits: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The values with these bits, as float32, of float64 as they are."""
    if dtype == torch.bfloat16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    values: np.ndarray = bits.view(f"f{bits.itemsize}")
    return values.astype(np.float32) if bits.itemsize < 8 else values
