"""Straight-through gradients of encryption: exact for moves and negatives, slope 1 for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from blockenc.backends import aten
from blockenc.ops import has_values
from blockenc.plan import Plan


def differentiates(x: torch.Tensor, dtype: torch.dtype | None) -> bool:
    """Whether autograd asks for a gradient by x, and it can have one. dtype: of the result; None: of x."""
    wanted = x.is_floating_point() and x.requires_grad and torch.is_grad_enabled()
    return wanted and has_values(x) and (dtype is None or dtype.is_floating_point)


def straight_through(
    x: torch.Tensor,
    transform: Callable[[torch.Tensor], torch.Tensor],
    linear: Sequence[Plan],
    std: Sequence[float] | None,
) -> torch.Tensor:
    """transform(x), whose gradient by x is that of the linear plans, divided by std.

    linear: plans of moves and negatives only (`Compiler(linear=True)`).
    """
    return _StraightThrough.apply(x, transform, linear, std)  # type: ignore[no-any-return, no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        transform: Callable[[torch.Tensor], torch.Tensor],
        linear: Sequence[Plan],
        std: Sequence[float] | None,
    ) -> torch.Tensor:
        ctx.linear, ctx.std, ctx.dtype = linear, std, x.dtype
        return transform(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        if ctx.std is not None:
            std = torch.tensor(ctx.std, dtype=gradient.dtype, device=gradient.device)
            gradient = gradient / std[:, None, None]
        # A linear map has the same gradient everywhere, so that x need not be kept.
        anywhere = torch.zeros_like(gradient, requires_grad=True)
        with torch.enable_grad(), aten.one_thread_if_forked():
            y = anywhere
            for plan in ctx.linear:
                y = aten.transform(y, plan, gradient.dtype)
            (found,) = torch.autograd.grad(y, anywhere, gradient)
        return found.to(ctx.dtype), None, None, None
