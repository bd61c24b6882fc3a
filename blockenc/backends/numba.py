"""Integer images by Numba, compiled when first used; the fallback where no C++ compiler was at hand.

Floating images go through plain torch operations (blockenc.backends.aten). Threads are this module's
own: Numba's parallel=True starts a pool that a forked DataLoader worker inherits broken, which kills the
worker; a compiled function that releases the GIL, called from short-lived Python threads, survives.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from blockenc.backends import Request, aten
from blockenc.plan import Plan

DEVICES: tuple[str, ...] | None = ("cpu",)
BYTES_PER_THREAD = 1 << 18  # below this a second thread costs more than it brings


def missing() -> str:
    return "" if importlib.util.find_spec("numba") else "numba is not installed: pip install numba"


def apply(request: Request) -> None:
    x, out = request.x, request.out
    if x.is_floating_point():
        return aten.apply(request)
    if x.dim() == 3:
        x, out = x[None], out[None]
    if x.numel() == 0:
        return
    plan = Plan.unpack(request.plan.numpy(), request.header)
    m, (n, _, h, w) = plan.block_size, x.shape
    lookup, row_of = _lookup(plan, out.dtype)
    place = _coordinates(np.arange(plan.length), plan)
    if plan.is_uniform and not plan.nibbles:
        uniform, source = _uniform_kernel(x.dtype != torch.uint8), place[plan.source[0]]
        blocks_in, blocks_out = (of.unflatten(3, (w // m, m)) for of in (x, out))
        arguments: tuple[Any, ...] = (
            uniform,
            blocks_in.numpy(),
            _bits(blocks_out),
            source,
            lookup,
            row_of[0],
        )
    else:
        maps = plan.maps(h // m * (w // m), n)
        cells = (plan.source, plan.flips % 2 * np.uint8(15), plan.nibbles)
        arguments = (_kernel(), x.numpy(), _bits(out), place, *cells, lookup, row_of, *maps, m)

    def share(first: int, last: int) -> None:
        kernel, *rest = arguments
        kernel(*rest, first, last)

    rows = n * (h // m)
    threads = min(torch.get_num_threads(), rows, 1 + out.numel() * out.element_size() // BYTES_PER_THREAD)
    bounds = [rows * k // threads for k in range(threads + 1)]
    workers = [
        threading.Thread(target=share, args=bounds[k : k + 2], name="blockenc") for k in range(1, threads)
    ]
    for worker in workers:
        worker.start()
    share(*bounds[:2])
    for worker in workers:
        worker.join()


def _coordinates(positions: np.ndarray, plan: Plan) -> np.ndarray:
    """int64 [L, 3]: channel, row and column inside the block of each position."""
    pixel, channel = np.divmod(positions.astype(np.int64), plan.channels)
    row, column = np.divmod(pixel, plan.block_size)
    return np.stack([channel, row, column], axis=1)


def _lookup(plan: Plan, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The whole value chain as one table: rows [R, in_values] as bits of `dtype`, and int64 [V, L], the row
    of each position. (Nibbles are flipped before.)"""
    channels = plan.channels if dtype.is_floating_point else 1
    channel = np.arange(plan.length) % plan.channels % channels
    flips = np.zeros_like(plan.table_of) if plan.nibbles else plan.flips % 2
    chains = (plan.table_of.astype(np.int64) * 2 + flips) * channels + channel
    distinct, row_of = np.unique(chains, return_inverse=True)
    rest, c = np.divmod(distinct, channels)
    rows = plan.substitution(rest % 2, rest // 2)
    if dtype.is_floating_point:
        rows = plan.output[c[:, None], rows]
    return _bits(torch.from_numpy(rows).to(dtype)), row_of.reshape(chains.shape)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """A view of the tensor as unsigned integers of its item size (NumPy has no bfloat16)."""
    unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[tensor.element_size()]
    return tensor.view(unsigned).numpy()


@functools.cache
def _compiler() -> Any:
    import numba
    from numba.core.compiler_lock import global_compiler_lock

    # A fork waits until no thread compiles: in the child, a lock that one held would be locked for ever.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=global_compiler_lock.acquire,
            after_in_parent=global_compiler_lock.release,
            after_in_child=global_compiler_lock.release,
        )
    return numba.njit(nogil=True, cache=True)


@functools.cache
def _uniform_kernel(clamps: bool) -> Callable[..., None]:
    """For plans that treat every block alike.

    clamps: whether values may lie beyond the tables, which hold all bytes; a constant, so that bytes are not
    compared.
    """

    @_compiler()
    def kernel(x, out, source, lookup, row_of, first, last):  # type: ignore[no-untyped-def]
        channels, block_columns, m = x.shape[1], x.shape[3], x.shape[4]
        block_rows, top = x.shape[2] // m, lookup.shape[1] - 1
        for r in range(first, last):
            image, y0 = r // block_rows, r % block_rows * m
            # One position at a time along the row of blocks: its table row stays in the cache.
            for i in range(m):
                for c in range(channels):
                    for j in range(m):
                        p = (i * m + j) * channels + c
                        sc, si, sj = source[p]
                        row = lookup[row_of[p]]
                        taken, put = x[image, sc, y0 + si, :, sj], out[image, c, y0 + i, :, j]
                        for b in range(block_columns):
                            v = taken[b]
                            put[b] = row[min(v, top) if clamps else v]

    return kernel  # type: ignore[no-any-return]


@functools.cache
def _kernel() -> Callable[..., None]:
    """For every plan: block by block."""

    @_compiler()
    def kernel(  # type: ignore[no-untyped-def]
        x, out, place, source, flips, nibbles, lookup, row_of, moves, variants, key_of_image, m, first, last
    ):
        block_rows, block_columns = x.shape[2] // m, x.shape[3] // m
        top, length = lookup.shape[1] - 1, place.shape[0]
        for r in range(first, last):
            image, row = r // block_rows, r % block_rows
            key = key_of_image[image]
            for column in range(block_columns):
                block = row * block_columns + column
                variant, origin = variants[key, block], moves[key, block]
                y0, x0 = origin // block_columns * m, origin % block_columns * m
                for p in range(length):
                    cell = source[variant, p]
                    c, i, j = place[cell % length]
                    v = min(x[image, c, y0 + i, x0 + j], top)
                    if nibbles:
                        low = (v >> 4 if cell >= length else v & 15) ^ flips[variant, p]
                        cell = source[variant, length + p]
                        c, i, j = place[cell % length]
                        v = min(x[image, c, y0 + i, x0 + j], top)
                        v = low | ((v >> 4 if cell >= length else v & 15) ^ flips[variant, length + p]) << 4
                    c, i, j = place[p]
                    out[image, c, row * m + i, column * m + j] = lookup[row_of[variant, p], v]

    return kernel  # type: ignore[no-any-return]
