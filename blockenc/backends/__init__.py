"""What can apply a plan: the registry of backends, and the choice among them.

A backend is a module of this package with three things, and nothing else is asked of it:

    DEVICES                         the torch device types it works on; None for any
    missing() -> str                why it cannot be used here; "" if it can
    apply(request: Request) -> None fill request.out

One that has several instruction-set levels also has `levels() -> dict[str, bool]`: the names, and whether
this processor has each. Adding a backend is adding its module and its name in `NAMES`.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import NamedTuple

import torch

from blockenc.errors import BackendError
from blockenc.plan.packing import Header

ENVIRONMENT_VARIABLE = "BLOCKENC_BACKEND"
NAMES = ("cuda", "native", "numba", "aten")  # the fastest first


class Request(NamedTuple):
    """One batch for a backend; checked already (`blockenc.ops`), but for the numbers in the plan's arrays."""

    x: torch.Tensor  # [N, C, H, W] or [C, H, W], any strides
    out: torch.Tensor  # same shape and device, does not overlap x
    plan: torch.Tensor  # uint8, Plan.packed, on the same device
    header: Header  # of the plan
    level: str | None = None  # the instruction-set level asked for; None: the fastest


class Choice(NamedTuple):
    """A backend and the instruction-set level asked for."""

    backend: ModuleType
    level: str | None


@functools.cache
def load(name: str) -> ModuleType:
    """The module of a backend. Its `missing()` tells whether it works here."""
    if name not in NAMES:
        raise ValueError(f"backend: expected one of {', '.join(NAMES)}, got {name!r}")
    return importlib.import_module(f"blockenc.backends.{name}")


def choose(device_type: str, name: str | None = None) -> Choice:
    """The backend `name`, else the one BLOCKENC_BACKEND names, else the fastest that works on the device.

    A name may have an instruction-set level after a slash: "native/avx2". Raises BackendError if the one
    named is missing or does not work on the device, ValueError for a name that does not exist.
    """
    forced = name or os.environ.get(ENVIRONMENT_VARIABLE)
    return (
        _forced(device_type, forced, "backend" if name else ENVIRONMENT_VARIABLE)
        if forced
        else _fastest(device_type)
    )


def _forced(device_type: str, forced: str, source: str) -> Choice:
    kind, _, level = forced.partition("/")
    backend = load(kind)
    reason = backend.missing()
    if not reason and backend.DEVICES is not None and device_type not in backend.DEVICES:
        reason = f"it works on {', '.join(backend.DEVICES)}, the images are on {device_type}"
    if not reason and level:
        levels: dict[str, bool] = backend.levels() if hasattr(backend, "levels") else {}
        if level not in levels:
            known = ", ".join(f"{kind}/{name}" for name in levels) or f"{kind} without a level"
            raise ValueError(f"{source}: expected {known}, got {forced!r}")
        if not levels[level]:
            reason = f"this processor has no {level}"
    if reason:
        raise BackendError(f"{source}: the {forced} backend cannot be used: {reason}")
    return Choice(backend, level or None)


@functools.cache
def _fastest(device_type: str) -> Choice:
    for name in NAMES:
        backend = load(name)
        if (backend.DEVICES is None or device_type in backend.DEVICES) and not backend.missing():
            return Choice(backend, None)
    raise BackendError(f"no backend works on {device_type}")


def backends() -> dict[str, str]:
    """The backends, fastest first, each with "available" or the reason why it is missing.

    >>> backends()["aten"]
    'available'
    """
    return {name: load(name).missing() or "available" for name in NAMES}


# As an attribute of blockenc this function hides the package. `import blockenc.backends.aten as aten` asks it
# for its name, by which it then finds the module.
backends.__name__ = __name__
