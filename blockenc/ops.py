"""The torch operators: schema, shape function, implementation. The only user of torch.library.

    torch.ops.blockenc.apply(x, plan, block_size, tables, flags, dtype=None, backend=None) -> Tensor
    torch.ops.blockenc.apply_out(x, plan, block_size, tables, flags, out, backend=None) -> ()

`plan` is `Plan.packed` as a tensor on x's device: a key enters a graph neither as a constant nor at all.
Operators have no derivative; an input that requires grad is an error.
"""

from __future__ import annotations

import mmap

import torch

from blockenc.backends import Request, choose
from blockenc.plan import DECIMAL_IN, DECIMAL_OUT, QUANTISES

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

HUGE_PAGES_FROM = 4 << 20  # bytes

_library = torch.library.Library("blockenc", "DEF")
_library.define(
    "apply(Tensor x, Tensor plan, int block_size, int tables, int flags, "
    "ScalarType? dtype=None, str? backend=None) -> Tensor"
)
_library.define(
    "apply_out(Tensor x, Tensor plan, int block_size, int tables, int flags, "
    "Tensor(a!) out, str? backend=None) -> ()"
)


def result_dtype(x: torch.dtype, flags: int, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a result, given the input's and the one asked for. Raises TypeError for what cannot be."""
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


def _check(x: torch.Tensor, plan: torch.Tensor, block_size: int) -> None:
    if x.dim() not in (3, 4):
        raise ValueError(f"x: expected [N, C, H, W] or [C, H, W], got shape {tuple(x.shape)}")
    h, w = x.shape[-2], x.shape[-1]
    if h % block_size or w % block_size:
        raise ValueError(
            f"x: height and width must be multiples of the block size {block_size}, got {h} x {w}"
        )
    if plan.device != x.device:
        raise ValueError(f"plan: expected on the device of x, {x.device}, got {plan.device}")
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "x: requires grad, but encryption has no derivative; pass x.detach(), or use torch.no_grad()"
        )


def _fake_apply(
    x: torch.Tensor,
    plan: torch.Tensor,
    block_size: int,
    tables: int,
    flags: int,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    _check(x, plan, block_size)
    return torch.empty_like(x, dtype=result_dtype(x.dtype, flags, dtype))


def _apply(
    x: torch.Tensor,
    plan: torch.Tensor,
    block_size: int,
    tables: int,
    flags: int,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    out = _fake_apply(x, plan, block_size, tables, flags, dtype)
    if out.nbytes >= HUGE_PAGES_FROM and out.device.type == "cpu":
        _use_huge_pages(out)
    if x.numel():
        choose(x.device.type, backend).apply(Request(x, out, plan, block_size, tables, flags))
    return out


def _use_huge_pages(new: torch.Tensor) -> None:
    """Tells Linux that memory just allocated may lie in huge pages, as NumPy does: to have it mapped page by
    page takes longer than to encrypt into it. Advice only (madvise(2)): whether it is taken is not asked.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        import ctypes

        first = -(-new.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = new.data_ptr() + new.nbytes - first
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


def _check_out(x: torch.Tensor, out: torch.Tensor, flags: int) -> None:
    if out.shape != x.shape or out.device != x.device:
        raise ValueError(
            f"out: expected shape {tuple(x.shape)} on {x.device}, got {tuple(out.shape)} on {out.device}"
        )
    if out.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("out: requires grad, but encryption has no derivative; pass out.detach()")
    try:
        result_dtype(x.dtype, flags, out.dtype)
    except TypeError as error:
        raise TypeError(str(error).replace("dtype: ", "out: ", 1)) from None


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses that a tensor's elements lie in: first byte, one past the last. Strides are >= 0."""
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) + 1
    return tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()


def _shares_itself(tensor: torch.Tensor) -> bool:
    """Whether elements may share memory: expanded or sliding windows. No slice or permutation does."""
    reach = 0  # of the dimensions with smaller strides, in elements
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1:
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False


def _fake_apply_out(
    x: torch.Tensor,
    plan: torch.Tensor,
    block_size: int,
    tables: int,
    flags: int,
    out: torch.Tensor,
    backend: str | None = None,
) -> None:
    _check(x, plan, block_size)
    _check_out(x, out, flags)


def _apply_out(
    x: torch.Tensor,
    plan: torch.Tensor,
    block_size: int,
    tables: int,
    flags: int,
    out: torch.Tensor,
    backend: str | None = None,
) -> None:
    _fake_apply_out(x, plan, block_size, tables, flags, out)
    if not x.numel():
        return
    (x_first, x_last), (out_first, out_last) = _extent(x), _extent(out)
    if x_first < out_last and out_first < x_last:
        raise ValueError("out: must not share memory with x: blocks are read after others are written")
    if _shares_itself(out):
        raise ValueError(f"out: its elements share memory with each other (strides {out.stride()})")
    choose(x.device.type, backend).apply(Request(x, out, plan, block_size, tables, flags))


for _name, _implementation, _fake in (
    ("apply", _apply, _fake_apply),
    ("apply_out", _apply_out, _fake_apply_out),
):
    # One implementation for every device: the choice of a backend is Python's (blockenc.backends).
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"blockenc::{_name}", _fake, lib=_library)
