"""The CUDA kernels (csrc/cuda/): torch-free, on the caller's current stream.

Nothing waits for the GPU but the first use of a plan, which is copied to the CPU and checked.
"""

from __future__ import annotations

import functools

import torch

from blockenc.backends import Request
from blockenc.backends.native import arguments
from blockenc.errors import BackendError
from blockenc.plan import Plan

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
    _check_plan(request)
    device = request.x.device
    try:
        _cuda.launch(*arguments(request), device.index, torch.cuda.current_stream(device).cuda_stream)
    except RuntimeError as error:
        raise BackendError(f"cuda: {error}") from error


def _check_plan(request: Request) -> None:
    """Raises ValueError for a plan that other backends refuse, at its first use and after it was written to.

    While a graph is captured nothing may wait, so a plan first met there goes unchecked: whatever a plan
    holds, the kernels stay inside their memory.
    """
    plan = request.plan
    version = 0 if plan.is_inference() else plan._version
    use = (plan.data_ptr(), version, request.x.shape[-3], *request[3:])
    memory = plan.untyped_storage()
    if getattr(memory, "blockenc_checked", None) == use:
        return
    if plan.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    Plan.unpack(plan.cpu().numpy(), request.block_size, request.x.shape[-3], request.tables, request.flags)
    memory.blockenc_checked = use  # type: ignore[attr-defined]
