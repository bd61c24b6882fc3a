"""The value types: names for them, and which of them a plan takes and gives."""

from __future__ import annotations

import numpy as np
import torch

from blockenc.plan.packing import DECIMAL_IN, DECIMAL_OUT, QUANTISES

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def torch_dtype(dtype: torch.dtype | np.dtype | str | type) -> torch.dtype:
    """A torch, NumPy or named dtype as torch's. Raises TypeError naming the argument."""
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        name = dtype if dtype == "bfloat16" else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtype: expected a torch or NumPy dtype, got {dtype!r}")
    return found


def result_dtype(x: torch.dtype, flags: int, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a result of a plan with these flags, given the input's and the one asked for.

    None asks for the input's; for integers under a plan that gives decimal values, for float32 (value / m).
    Raises TypeError for what cannot be.
    """
    integer_in = torch.uint16 if flags & DECIMAL_IN else torch.uint8
    integer_out = torch.uint16 if flags & DECIMAL_OUT else torch.uint8
    if x != integer_in and x not in FLOATS:
        raise TypeError(
            f"x: expected {integer_in} or a float type out of {', '.join(map(str, FLOATS))}, got {x}"
        )
    if dtype is None:
        if x in FLOATS:
            return x
        return torch.float32 if flags & DECIMAL_OUT else integer_out
    integers = x == integer_in or flags & QUANTISES
    allowed = (*FLOATS, integer_out) if integers else FLOATS
    if dtype not in allowed:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, allowed))}, got {dtype}")
    return dtype
