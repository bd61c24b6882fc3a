"""The CUDA kernels (csrc/cuda/): torch-free, on the caller's current stream; nothing waits for the GPU."""

from __future__ import annotations

import functools

import torch

from blockenc.backends import Request
from blockenc.backends.native import TYPES
from blockenc.errors import BackendError

try:
    from blockenc import _cuda  # type: ignore[attr-defined]
except ImportError as error:
    _cuda = None  # type: ignore[assignment]
    _reason = f"the CUDA extension is not built ({error}); install blockenc with nvcc at hand"
else:
    _reason = ""

DEVICES: tuple[str, ...] | None = ("cuda",)


@functools.cache
def missing() -> str:
    return _reason or _cuda.missing()


def apply(request: Request) -> None:
    """Enqueue the kernel. Raises BackendError with CUDA's own words if it cannot be launched."""
    x, out, plan = request.x, request.out, request.plan
    try:
        _cuda.apply(
            x.data_ptr(),
            out.data_ptr(),
            TYPES[x.dtype],
            TYPES[out.dtype],
            tuple(x.shape),
            x.stride(),
            out.stride(),
            plan.data_ptr(),
            plan.numel(),
            request.block_size,
            request.tables,
            request.flags,
            x.device.index,
            torch.cuda.current_stream(x.device).cuda_stream,
        )
    except RuntimeError as error:
        raise BackendError(f"cuda: {error}") from error
