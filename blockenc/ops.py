"""The torch operators: schema, shape function, implementation. The only user of torch.library.

    torch.ops.blockenc.apply(x, plan, dtype, backend=None) -> Tensor
    torch.ops.blockenc.apply_out(x, plan, out, backend=None) -> ()

`plan` is `Plan.packed` as a tensor on x's device: a key enters a graph neither as a constant nor at all. It
describes itself, so that nothing goes beside it; and it may come from anyone (an exported program, a
pickle), so its header is checked here, and the numbers in it by every backend. Operators have no derivative:
differentiating them is an error in every mode (autograd, torch.func, forward mode).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from blockenc.backends import Request, choose
from blockenc.dtypes import result_dtype
from blockenc.errors import BackendError
from blockenc.plan.packing import HEADER_BYTES, Header, read_header, unpack

HUGE_PAGES_FROM = 4 << 20  # bytes

_library = torch.library.Library("blockenc", "DEF")
_library.define("apply(Tensor x, Tensor plan, ScalarType dtype, str? backend=None) -> Tensor")
_library.define("apply_out(Tensor x, Tensor plan, Tensor(a!) out, str? backend=None) -> ()")
APPLY, APPLY_OUT = torch.ops.blockenc.apply.default, torch.ops.blockenc.apply_out.default


def header_of(plan: torch.Tensor) -> Header:
    """The header of a packed plan. Raises ValueError for what is no plan.

    A plan on another device is copied to the CPU and checked as a whole when it is first met, and after it
    was written to; that waits for the device. It cannot be while a CUDA graph is captured, which may not
    wait: there a BackendError asks for a call before.
    """
    if plan.is_cpu:
        return read_header(ctypes.string_at(plan.data_ptr(), HEADER_BYTES))
    version = 0 if plan.is_inference() else plan._version
    state, memory = (plan.data_ptr(), plan.numel(), version), plan.untyped_storage()
    known, header = getattr(memory, "blockenc_header", (None, None))
    if known != state or header is None:
        if plan.is_cuda and torch.cuda.is_current_stream_capturing():
            raise BackendError("plan: first met while a CUDA graph is captured; use it once before that")
        packed = plan.cpu().numpy()
        unpack(packed)
        header = read_header(packed[:HEADER_BYTES].tobytes())
        memory.blockenc_header = (state, header)  # type: ignore[attr-defined]
    return header


def check_size(shape: torch.Size, block_size: int) -> None:
    """Raises ValueError unless images [..., H, W] of that shape have whole blocks."""
    h, w = shape[-2:]
    if h % block_size or w % block_size:
        raise ValueError(
            f"x: height and width must be multiples of the block size {block_size}, got {h} x {w}"
        )


def _check(x: torch.Tensor, plan: torch.Tensor) -> None:
    """What can be told without the values of the plan, which a trace does not have."""
    if x.dim() not in (3, 4):
        raise ValueError(f"x: expected [N, C, H, W] or [C, H, W], got shape {tuple(x.shape)}")
    if plan.device != x.device:
        raise ValueError(f"plan: expected on the device of x, {x.device}, got {plan.device}")
    if (
        plan.dtype != torch.uint8
        or plan.dim() != 1
        or not plan.is_contiguous()
        or plan.numel() < HEADER_BYTES
    ):
        raise ValueError(
            f"plan: expected a packed plan, a contiguous vector of bytes, got {plan.dtype} of shape "
            f"{tuple(plan.shape)} and strides {plan.stride()}"
        )


def _checked(x: torch.Tensor, plan: torch.Tensor, dtype: torch.dtype) -> tuple[Header, torch.dtype]:
    """The header of the plan, after x was compared with it, and the dtype of the result."""
    _check_memory("plan", plan)
    header = header_of(plan)
    return header, _compared(header, plan.numel(), x.shape, x.dtype, dtype)


@functools.lru_cache(maxsize=256)  # every call asks
def _compared(
    header: Header, plan_bytes: int, shape: torch.Size, source: torch.dtype, dtype: torch.dtype
) -> torch.dtype:
    """The dtype of the result for images of that shape and dtype. Raises ValueError or TypeError for images
    that the plan is not for."""
    if plan_bytes != header.size:
        raise ValueError(f"plan: expected {header.size} bytes, as its header says, got {plan_bytes}")
    if shape[-3] != header.channels:
        raise ValueError(f"x: expected {header.channels} channels, as the plan has, got {shape[-3]}")
    m = header.block_size
    check_size(shape, m)
    if header.rows and shape[-2:] != (header.rows * m, header.columns * m):
        raise ValueError(
            f"x: the plan is for images of {header.rows * m} x {header.columns * m} pixels, got "
            f"{shape[-2]} x {shape[-1]}"
        )
    images = shape[0] if len(shape) == 4 else 1
    if header.images not in (0, images) and 0 not in shape:
        raise ValueError(f"x: the plan has keys for {header.images} images, got {images}")
    return result_dtype(source, header.flags, dtype)


def _check_memory(name: str, tensor: torch.Tensor) -> None:
    """A tensor's storage may have been resized under it (FSDP frees memory so); kernels get addresses."""
    if name == "plan" and tensor.data_ptr() % 4:
        raise ValueError("plan: expected memory that is aligned to 4 bytes")
    needed = tensor.storage_offset() + (tensor.numel() if tensor.is_contiguous() else _span(tensor))
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if needed > held:
        raise ValueError(
            f"{name}: its storage holds {held} elements, and its shape and strides need {needed}"
        )


def _span(tensor: torch.Tensor) -> int:
    """How many elements of memory a tensor reaches over. Strides of torch tensors are >= 0."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) + 1


def _fake_apply(
    x: torch.Tensor, plan: torch.Tensor, dtype: torch.dtype, backend: str | None = None
) -> torch.Tensor:
    _check(x, plan)
    return torch.empty_like(x, dtype=dtype)


def _apply(
    x: torch.Tensor, plan: torch.Tensor, dtype: torch.dtype, backend: str | None = None
) -> torch.Tensor:
    _check(x, plan)
    header, dtype = _checked(x, plan, dtype)
    out = torch.empty_like(x, dtype=dtype)
    if out.nbytes >= HUGE_PAGES_FROM and out.device.type == "cpu":
        _use_huge_pages(out)
    if x.numel():
        _check_memory("x", x)
        _run(x, out, plan, header, backend)
    return out


def _run(x: torch.Tensor, out: torch.Tensor, plan: torch.Tensor, header: Header, backend: str | None) -> None:
    chosen = choose(x.device.type, backend)
    chosen.backend.apply(Request(x, out, plan, header, chosen.level))


def _use_huge_pages(new: torch.Tensor) -> None:
    """Tells Linux that memory just allocated may lie in huge pages, as NumPy does: to have it mapped page by
    page takes longer than to encrypt into it. Advice only (madvise(2)): whether it is taken is not asked.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        import ctypes

        first = -(-new.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = new.data_ptr() + new.nbytes - first
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses that a tensor's elements lie in: first byte, one past the last."""
    return tensor.data_ptr(), tensor.data_ptr() + _span(tensor) * tensor.element_size()


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
    x: torch.Tensor, plan: torch.Tensor, out: torch.Tensor, backend: str | None = None
) -> None:
    _check(x, plan)
    if out.shape != x.shape or out.device != x.device:
        raise ValueError(
            f"out: expected shape {tuple(x.shape)} on {x.device}, got {tuple(out.shape)} on {out.device}"
        )


def _apply_out(x: torch.Tensor, plan: torch.Tensor, out: torch.Tensor, backend: str | None = None) -> None:
    _fake_apply_out(x, plan, out)
    try:
        header, _ = _checked(x, plan, out.dtype)
    except TypeError as error:
        raise TypeError(str(error).replace("dtype: ", "out: ", 1)) from None
    if not x.numel():
        return
    _check_memory("x", x)
    _check_memory("out", out)
    (x_first, x_last), (out_first, out_last) = _extent(x), _extent(out)
    if x_first < out_last and out_first < x_last:
        raise ValueError("out: must not share memory with x: blocks are read after others are written")
    if _shares_itself(out):
        raise ValueError(f"out: its elements share memory with each other (strides {out.stride()})")
    _run(x, out, plan, header, backend)
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # so that autograd hears of the change


def has_values(x: torch.Tensor) -> bool:
    """Whether x, and what is made of it, has memory: neither stands for a tensor in a trace, nor inside of
    torch.func."""
    return not (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._is_functional_tensor(x)
        or hasattr(x, "fake_mode")
    )


def _is_plain(x: torch.Tensor) -> bool:
    """Whether nothing that traces, wraps or converts tensors is at work."""
    return (
        type(x) is torch.Tensor
        and (x.is_cpu or x.is_cuda)
        and not torch._C._len_torch_dispatch_stack()
        and has_values(x)
    )


def check_no_derivative(name: str, tensor: torch.Tensor) -> None:
    """Raises RuntimeError where autograd, torch.func or forward mode would differentiate by `tensor`."""
    wanted = tensor.requires_grad and torch.is_grad_enabled()
    if not wanted and forward_ad._current_level >= 0:
        wanted = torch._VF._unpack_dual(tensor, level=0)[1] is not None  # type: ignore[attr-defined]
    if wanted:
        raise RuntimeError(
            f"{name}: requires grad (or has a forward-mode tangent), but encryption has no derivative; "
            f"pass {name}.detach(), or use torch.no_grad()"
        )


def _without_derivative(operator: Any, implementation: Callable[..., Any]) -> Callable[..., Any]:
    """What an operator does in the place of autograd, whose own fallback would let derivatives be zeros."""

    def autograd(x: torch.Tensor, plan: torch.Tensor, target: Any, backend: str | None = None) -> Any:
        out = target if isinstance(target, torch.Tensor) else None  # else a dtype
        check_no_derivative("x", x)
        x = x.resolve_neg()
        if out is not None:
            check_no_derivative("out", out)
            if out.is_neg():  # kernels write bits, of which torch would read the negative
                plain = torch.empty_like(out).resolve_neg()
                operator(x, plan, plain, backend)
                out.copy_(plain)
                return None
        if _is_plain(x) and (out is None or _is_plain(out)):  # what remains of the dispatch is skipped
            return implementation(x, plan, target, backend)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(x, plan, target, backend)

    return autograd


for _name, _operator, _implementation, _fake in (
    ("apply", APPLY, _apply, _fake_apply),
    ("apply_out", APPLY_OUT, _apply_out, _fake_apply_out),
):
    # One implementation for every device: the choice of a backend is Python's (blockenc.backends).
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    _library.impl(_name, _without_derivative(_operator, _implementation), "Autograd")
    torch.library.register_fake(f"blockenc::{_name}", _fake, lib=_library)
