"""How much memory a call takes at its peak, on Linux."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLEAR_PEAK = "5"  # Linux: VmHWM starts again from what is resident now


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """What the call returns, and by how many bytes the resident memory of this process rose meanwhile.

    What earlier calls freed is given back to the system first, so that its use again counts. What a first
    call imports or makes once counts too: make such a call before, on something small.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = _resident("VmRSS")
    result = call()
    return result, _resident("VmHWM") - before


def _resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
