"""What can apply a plan: the registry of backends, and the choice among them.

A backend is a module of this package with three things, and nothing else is asked of it:

    DEVICES                         the torch device types it works on; None for any
    missing() -> str                why it cannot be used here; "" if it can
    apply(request: Request) -> None fill request.out

Adding one is adding its module and its name in `NAMES`.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import NamedTuple

import torch

from blockenc.errors import BackendError

ENVIRONMENT_VARIABLE = "BLOCKENC_BACKEND"
NAMES = ("cuda", "native", "numba", "aten")  # the fastest first


class Request(NamedTuple):
    """One batch for a backend; checked already (`blockenc.ops`)."""

    x: torch.Tensor  # [N, C, H, W] or [C, H, W], any strides
    out: torch.Tensor  # same shape and device, does not overlap x
    plan: torch.Tensor  # uint8, Plan.packed, on the same device
    block_size: int
    tables: int
    flags: int


@functools.cache
def load(name: str) -> ModuleType:
    """The module of a backend. Its `missing()` tells whether it works here."""
    if name not in NAMES:
        raise ValueError(f"backend: expected one of {', '.join(NAMES)}, got {name!r}")
    return importlib.import_module(f"blockenc.backends.{name}")


def choose(device_type: str, name: str | None = None) -> ModuleType:
    """The backend `name`, else the one BLOCKENC_BACKEND names, else the fastest that works on the device.

    Raises BackendError if the one named is missing or does not work on the device.
    """
    forced = name or os.environ.get(ENVIRONMENT_VARIABLE)
    if not forced:
        return _fastest(device_type)
    backend = load(forced)
    reason = backend.missing()
    if not reason and backend.DEVICES is not None and device_type not in backend.DEVICES:
        reason = f"it works on {', '.join(backend.DEVICES)}, the images are on {device_type}"
    if reason:
        source = "backend" if name else ENVIRONMENT_VARIABLE
        raise BackendError(f"{source}: the {forced} backend cannot be used: {reason}")
    return backend


@functools.cache
def _fastest(device_type: str) -> ModuleType:
    for name in NAMES:
        backend = load(name)
        if (backend.DEVICES is None or device_type in backend.DEVICES) and not backend.missing():
            return backend
    raise BackendError(f"no backend works on {device_type}")


def backends() -> dict[str, str]:
    """The backends, fastest first, each with "available" or the reason why it is missing."""
    return {name: load(name).missing() or "available" for name in NAMES}
