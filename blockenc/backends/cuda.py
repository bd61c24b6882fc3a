"""The CUDA kernels (csrc/cuda/): torch-free, on the caller's current stream.

Nothing waits for the GPU but the first use of a plan, which is copied to the CPU and checked
(`blockenc.ops`).
"""

from __future__ import annotations

import functools

import torch

from blockenc.backends import Request
from blockenc.backends.native import arguments
from blockenc.errors import BackendError

try:
    from blockenc import _cuda  # type: ignore[attr-defined]
except ImportError as error:
    _cuda = None  # type: ignore[assignment]
    _reason = f"the CUDA extension is not built ({error}); install blockenc with nvcc at hand"
else:
    _reason = ""

DEVICES: tuple[str, ...] | None = ("cuda",)

# How the kernel `tiles` runs (csrc/cuda/tuning.h: threads, bytes of a tile, least tiles, padded, ahead), None
# as it does by default. Only benchmarks.speed.cuda sets it, to compare.
tuning: tuple[int, int, int, bool, int] | None = None


@functools.cache
def missing() -> str:
    return _reason or _cuda.missing()


def apply(request: Request) -> None:
    """Enqueue the kernel. Raises BackendError with CUDA's own words if it cannot be launched."""
    device = request.x.device
    stream = torch.cuda.current_stream(device).cuda_stream
    try:
        _cuda.launch(*arguments(request), request.header.packed(), device.index, stream, tuning)
    except RuntimeError as error:
        raise BackendError(f"cuda: {error}") from error
