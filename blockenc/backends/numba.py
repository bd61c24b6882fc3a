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

import numpy as np
import torch

from blockenc.backends import Request, aten
from blockenc.plan import BYTE_VALUES, Plan

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
    plan = Plan.unpack(request.plan.numpy(), request.block_size, x.shape[1], request.tables, request.flags)
    lookup, row_of = _lookup(plan, out.dtype)
    m = plan.block_size
    source = _coordinates(plan.source, plan)
    kernel = _kernel()
    source_array, target_array = x.numpy(), _bits(out)

    def share(first: int, last: int) -> None:
        kernel(source_array, target_array, source, lookup, row_of, m, first, last)

    rows = x.shape[0] * (x.shape[2] // m)
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
    """The whole value chain as one table: rows [R, in_values] as bits of `dtype`, and each position's row."""
    channel = np.arange(plan.length) % plan.channels if dtype.is_floating_point else np.zeros(plan.length)
    chains = np.stack([plan.flips % 2, plan.table_of, channel.astype(np.int64)], axis=1)
    distinct, row_of = np.unique(chains, axis=0, return_inverse=True)
    values = np.arange(plan.in_values)
    rows = []
    for flip, table, c in distinct:
        k = BYTE_VALUES - 1 - values if flip else values
        k = plan.tables[table - 1][k] if table else np.minimum(k, plan.out_values - 1)
        result = torch.from_numpy(plan.output[c][k] if dtype.is_floating_point else k.astype(np.int64))
        rows.append(_bits(result.to(dtype)))
    return np.stack(rows), row_of.reshape(-1).astype(np.int64)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """A view of the tensor as unsigned integers of its item size (NumPy has no bfloat16)."""
    unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[tensor.element_size()]
    return tensor.view(unsigned).numpy()


@functools.cache
def _kernel() -> Callable[..., None]:
    import numba
    from numba.core.compiler_lock import global_compiler_lock

    # A fork waits until no thread compiles: in the child, a lock that one held would be locked for ever.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=global_compiler_lock.acquire,
            after_in_parent=global_compiler_lock.release,
            after_in_child=global_compiler_lock.release,
        )

    @numba.njit(nogil=True, cache=True)
    def kernel(x, out, source, lookup, row_of, m, first, last):  # type: ignore[no-untyped-def]
        channels, block_rows, block_columns = x.shape[1], x.shape[2] // m, x.shape[3] // m
        top = lookup.shape[1] - 1
        for r in range(first, last):
            image, y0 = r // block_rows, r % block_rows * m
            # One position at a time along the row of blocks: its table row stays in the cache.
            for i in range(m):
                for c in range(channels):
                    for j in range(m):
                        p = (i * m + j) * channels + c
                        sc, si, sj = source[p]
                        row = lookup[row_of[p]]
                        for b in range(block_columns):
                            v = x[image, sc, y0 + si, b * m + sj]
                            out[image, c, y0 + i, b * m + j] = row[v if v < top else top]

    return kernel  # type: ignore[no-any-return]
