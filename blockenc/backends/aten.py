"""A plan as plain torch operations: the fallback for any device and value type, and the form to export.

Several passes over the data, so many times slower than a kernel; nothing but ATen operators, so it runs
wherever torch does and can be written to ONNX.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch

from blockenc import blocks
from blockenc.backends import Request
from blockenc.plan import BYTE_VALUES, Plan

DEVICES: tuple[str, ...] | None = None


_in_forked_child = False


def _forked() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def missing() -> str:
    return ""


@contextlib.contextmanager
def one_thread_if_forked() -> Iterator[None]:
    """For torch's own operations: a forked child would wait for the OpenMP threads of its parent."""
    threads = torch.get_num_threads()
    if _in_forked_child and threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@one_thread_if_forked()
def apply(request: Request) -> None:
    plan = Plan.unpack(request.plan.cpu().numpy(), request.header)
    request.out.copy_(transform(request.x, plan, request.out.dtype))


def transform(x: torch.Tensor, plan: Plan, dtype: torch.dtype) -> torch.Tensor:
    """What `plan` makes of x ([N, C, H, W] or [C, H, W]), as `dtype`."""
    c, h, w = x.shape[-3:]
    vectors = blocks.to_vectors(x if x.dim() == 4 else x[None], plan.block_size)
    result = _vectors(vectors, plan, dtype)
    return blocks.to_images(result, plan.block_size, c, h, w).reshape(x.shape)


def _vectors(v: torch.Tensor, plan: Plan, dtype: torch.dtype) -> torch.Tensor:
    """The transform of block vectors [N, G, L]."""

    def constant(array: object) -> torch.Tensor:
        return torch.as_tensor(array, device=v.device)

    # Torch indexes few integer types and barely computes with uint16, hence int64 for all integers.
    integers = not v.is_floating_point()
    if integers:
        v = v.to(torch.int64)
    if plan.quantises and plan.nearest and not integers:
        v, integers = _to_integers(v, plan), True
    if plan.nibbles:
        if not integers:
            v, integers = _to_integers(v, plan), True
        v = v.clamp(max=BYTE_VALUES - 1)
        v = torch.cat([v % 16, v // 16], dim=-1)
    v, of_block = _gathered(v, plan, constant)
    flips = constant(of_block(plan.flips))
    if plan.nibbles:
        low, high = torch.where(flips % 2 == 1, 15 - v, v).chunk(2, dim=-1)
        v = low + high * 16
    elif integers:
        v = v.clamp(max=plan.in_values - 1)
        v = torch.where(flips % 2 == 1, (BYTE_VALUES - 1 - v).clamp(min=0), v)
    else:
        negative = _negative if plan.nearest else _published_negative
        for count in range(plan.most_flips):
            v = torch.where(flips > count, negative(v), v)
        if plan.quantises:
            v, integers = _to_integers(v, plan), True
    channel = constant(np.arange(plan.length) % plan.channels)
    if integers:
        if len(plan.tables):
            # Row 0 is the identity, so that table_of indexes rows directly.
            identity = np.minimum(np.arange(plan.in_values), plan.out_values - 1)[None]
            rows = constant(np.concatenate([identity, plan.tables]).astype(np.int64))
            table_of = constant(of_block(plan.table_of).astype(np.int64))
            v = rows.ravel()[v + table_of * plan.in_values]
        else:
            v = v.clamp(max=plan.out_values - 1)
        if dtype.is_floating_point:
            v = constant(plan.output).ravel()[v + channel * plan.out_values]
    elif plan.mean is not None and plan.std is not None:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=v.device)[channel]
            for values in (plan.mean, plan.std)
        )
        v = (v.float() - mean) / std
    return v.to(dtype)


def _gathered(
    v: torch.Tensor, plan: Plan, constant: Callable[[object], torch.Tensor]
) -> tuple[torch.Tensor, Callable[[np.ndarray], np.ndarray]]:
    """Cells [N, G, cells] where the plan moves them to; and what makes [V, ...] an array for every block."""
    if plan.is_uniform:
        return v[..., constant(plan.source[0]).long()], lambda array: array[0]
    key = slice(None) if plan.key_of_image is None else plan.key_of_image
    if plan.variant is None or plan.moves is None:
        variant = np.arange(plan.keys)[key][:, None]
    else:
        variant, moves = plan.variant[key], constant(plan.moves[key]).long()
        v = v.gather(1, moves[:, :, None].expand(v.shape))
    source = constant(plan.source[variant]).long().expand(v.shape)
    return v.gather(2, source), lambda array: array[variant]


def _to_integers(v: torch.Tensor, plan: Plan) -> torch.Tensor:
    scaled = v.float().nan_to_num(0.0).clamp(0, 1) * plan.in_scale
    return (scaled.round() if plan.nearest else scaled).to(torch.int64)


def _published_negative(v: torch.Tensor) -> torch.Tensor:
    return 1 - v


def _negative(v: torch.Tensor) -> torch.Tensor:
    """1 - v; but where v is a byte, k/255 rounded to its type, the byte (255 - k)/255."""
    top = BYTE_VALUES - 1
    k = ((v if v.dtype == torch.float64 else v.float()) * top).round()
    is_byte = ((k / top).to(v.dtype) == v) & (k >= 0) & (k <= top)
    return torch.where(is_byte, ((top - k) / top).to(v.dtype), 1 - v)
