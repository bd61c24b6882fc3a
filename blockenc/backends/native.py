"""The C++ kernels (csrc/): torch-free, so one build serves every torch version."""

from __future__ import annotations

import torch

from blockenc.backends import Request

try:
    from blockenc import _native  # type: ignore[attr-defined]
except ImportError as error:
    _native = None  # type: ignore[assignment]
    _reason = f"the extension is not built ({error}); install blockenc with a C++17 compiler at hand"
else:
    _reason = ""

DEVICES: tuple[str, ...] | None = ("cpu",)
# csrc/plan.h, enum Type
TYPES = {torch.uint8: 0, torch.uint16: 1, torch.float32: 2, torch.float16: 3, torch.bfloat16: 4}

forced_level = -1  # set by `force_level`


def missing() -> str:
    return _reason


def levels() -> dict[str, bool]:
    """The instruction-set levels of this build, fastest first, and whether this processor has each."""
    return dict(_native.levels())


def force_level(name: str | None) -> None:
    """Use one instruction-set level in this process (for tests and benchmarks); None: the fastest."""
    global forced_level
    forced_level = -1 if name is None else list(levels()).index(name)


def arguments(request: Request) -> tuple[object, ...]:
    """What csrc/job.h, make_job, takes; the cuda backend passes the same."""
    x, out, plan = request.x, request.out, request.plan
    return (
        x.data_ptr(),
        out.data_ptr(),
        TYPES[x.dtype],
        TYPES[out.dtype],
        x.shape,
        x.stride(),
        out.stride(),
        plan.data_ptr(),
        plan.numel(),
        request.block_size,
        request.tables,
        request.flags,
    )


def apply(request: Request) -> None:
    # What the kernels prepare for a plan is kept with the plan's memory: freed with it, and not pickled.
    # (The cache compares the bytes, so a plan that was overwritten is not taken for the one before.)
    memory = request.plan.untyped_storage()
    cache = getattr(memory, "blockenc_cache", None)
    if cache is None:
        cache = memory.blockenc_cache = _native.PlanCache()  # type: ignore[attr-defined]
    cache.run(*arguments(request), torch.get_num_threads(), forced_level)
