"""The CUDA kernels compiled by g++ against an emulation of CUDA's execution model, as a module.

`Emulated` has the interface of blockenc._cuda, on host memory: it can stand in its place.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests import shared

HERE = Path(__file__).parent


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, compiled; skips the test where there is no g++."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        import pytest

        pytest.skip("no g++ here, which the emulation of CUDA is compiled with")
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    options = ["-std=c++17", "-O2", *warnings, "-ffp-contract=off", "-shared", "-fPIC"]

    def build(folder: Path) -> None:
        command = [compiler, *options, str(HERE / "emulated.cpp"), "-o", str(folder / "emulated.so")]
        subprocess.run(command, check=True)

    loaded = ctypes.CDLL(str(shared.once("cuda_emulation", build) / "emulated.so"))
    loaded.emulated_message.restype = ctypes.c_char_p
    return loaded


class Fault(RuntimeError):  # noqa: N818 -- not an error, what an error in a kernel is
    """What the emulation found wrong in a kernel."""


def check(status: int) -> int:
    if status < 0:
        raise Fault(library().emulated_message().decode())
    return status


def integers(values: Sequence[int], leading: int) -> ctypes.Array:
    return (ctypes.c_int64 * 4)(*([leading] * (4 - len(values))), *values)


class Emulated:
    """Stands for blockenc._cuda. `grid`: blocks at most; `paths` collects which kernel each call took,
    `tiles` how many tiles it cut the batch into, `ahead` how many were under way by asynchronous copies, both
    0 for other kernels."""

    PATHS = ("elements", "tiles", "blocks")

    def __init__(self, grid: int = 3) -> None:
        self.grid = grid
        self.paths: list[str] = []
        self.tiles: list[int] = []
        self.ahead: list[int] = []

    def missing(self) -> str:
        return ""

    def launch(
        self,
        x,
        out,
        in_type,
        out_type,
        shape,
        stride,
        out_stride,
        plan,
        size,
        header,
        device,
        stream,
        tuning=None,
    ) -> None:
        wide = ctypes.c_int64
        strides = integers(stride, 0), integers(out_stride, 0)
        numbers = None if tuning is None else (ctypes.c_int * 5)(*tuning)
        tiles, ahead = wide(), ctypes.c_int()
        status = library().emulated_launch(
            wide(x), wide(out), in_type, out_type, integers(shape, 1), *strides, wide(plan), wide(size),
            header, self.grid, numbers, ctypes.byref(tiles), ctypes.byref(ahead)
        )  # fmt: skip
        self.paths.append(self.PATHS[check(status)])
        self.tiles.append(tiles.value)
        self.ahead.append(ahead.value)
