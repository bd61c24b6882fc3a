"""The C++ kernels (csrc/): torch-free, so one build serves every torch version."""

from __future__ import annotations

import functools

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
FASTEST = -1  # in the place of a level's number


def missing() -> str:
    return _reason


@functools.cache
def levels() -> dict[str, bool]:
    """The instruction-set levels of this build, fastest first, and whether this processor has each."""
    return dict(_native.levels())


@functools.cache
def level_number(name: str | None) -> int:
    return FASTEST if name is None else list(levels()).index(name)


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
    )


def apply(request: Request) -> None:
    _native.run(*arguments(request), torch.get_num_threads(), level_number(request.level))
