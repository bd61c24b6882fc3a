"""The CUDA kernels. Not part of this release yet."""

from __future__ import annotations

from blockenc.backends import Request
from blockenc.errors import BackendError

DEVICES: tuple[str, ...] | None = ("cuda",)
_reason = "this release has no CUDA kernels; CUDA tensors go through the aten backend"


def missing() -> str:
    return _reason


def apply(request: Request) -> None:
    raise BackendError(_reason)
