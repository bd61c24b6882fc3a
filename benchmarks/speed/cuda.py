"""How fast the CUDA kernels are, as a ratio to a copy on the device: python -m benchmarks.speed.cuda

Peers: Tensor.copy_, the aten backend, torch.compile of the fused gather and look-up, CuPy gather and
look-up, a Triton kernel. Each is timed in turn with CUDA events, after a warm-up that also checks that all
give the same bytes; medians are compared. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch

import blockenc
from benchmarks.speed.peers import fused
from blockenc.backends import aten, cuda
from blockenc.plan import Plan

KEY = bytes(range(32))
SHAPES = ((1024, 3, 224, 224), (128, 3, 32, 32))
BLOCK_SIZES = (2, 4, 8, 16)
ROUNDS = 20
CALLS = 8
WAIT = 3_000_000  # clock cycles, in which Python queues that many calls


def compiled_peer(x: torch.Tensor, plan: Plan) -> Callable[[], torch.Tensor]:
    function = torch.compile(functools.partial(aten.transform, plan=plan, dtype=torch.uint8))
    return lambda: function(x)


def cupy_peer(x: torch.Tensor, plan: Plan) -> Callable[[], torch.Tensor]:
    import cupy

    m, c = plan.block_size, plan.channels
    n, _, h, w = x.shape
    source, rows = (cupy.from_dlpack(t.to(x.device)) for t in fused(plan))
    image, positions = cupy.from_dlpack(x), cupy.arange(plan.length)

    def run() -> torch.Tensor:
        blocks = image.reshape(n, c, h // m, m, w // m, m).transpose(0, 2, 4, 3, 5, 1)
        vectors = blocks.reshape(n, h // m, w // m, plan.length)[..., source]
        result = rows[positions, vectors].reshape(n, h // m, w // m, m, m, c)
        return torch.from_dlpack(
            cupy.ascontiguousarray(result.transpose(0, 5, 1, 3, 2, 4)).reshape(n, c, h, w)
        )

    return run


def triton_peer(x: torch.Tensor, plan: Plan) -> Callable[[], torch.Tensor]:
    import triton
    from triton import language as tl

    @triton.jit
    def kernel(  # type: ignore[no-untyped-def]
        x, out, source, rows, total, c: tl.constexpr, h, w, m: tl.constexpr, size: tl.constexpr
    ):
        i = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
        inside = i < total
        column, line = i % w, i // w
        y, plane = line % h, line // h
        channel, image = plane % c, plane // c
        p = ((y % m) * m + column % m) * c + channel
        s = tl.load(source + p, mask=inside, other=0)
        row, col = y // m * m + s // c // m, column // m * m + s // c % m
        value = tl.load(x + ((image * c + s % c) * h + row) * w + col, mask=inside, other=0)
        tl.store(out + i, tl.load(rows + p * 256 + value.to(tl.int64), mask=inside, other=0), mask=inside)

    source, rows = (t.to(x.device) for t in fused(plan))
    out, (_, c, h, w), size = torch.empty_like(x), x.shape, 1024
    grid = (triton.cdiv(x.numel(), size),)

    def run() -> torch.Tensor:
        kernel[grid](x, out, source, rows, x.numel(), c, h, w, plan.block_size, size)
        return out

    return run


PEERS = {"torch.compile": compiled_peer, "CuPy": cupy_peer, "Triton": triton_peer}


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, the calls taken in turn.

    A round of a call is several of them, queued while the GPU is kept waiting, so that what is timed is the
    GPU's work and not how long Python takes to ask for it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(WAIT)
            first.record()
            for _ in range(CALLS):
                call()
            last.record()
            last.synchronize()
            times[name].append(first.elapsed_time(last) / CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def asking(call: Callable[[], object], rounds: int) -> float:
    """Median milliseconds that a call keeps Python."""
    times = []
    for _ in range(10 * rounds):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return statistics.median(times)


def measure(
    shape: tuple[int, ...], block_size: int, rounds: int, names: Collection[str] = tuple(PEERS)
) -> tuple[dict[str, float], float]:
    """Medians of every call on the GPU, and what a call of blockenc takes on the CPU, in milliseconds."""
    x = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    copy, out = torch.empty_like(x), torch.empty_like(x)
    cipher = blockenc.Cipher(KEY, block_size=block_size, backend="cuda")
    want = cipher.encrypt(x)
    calls: dict[str, Callable[[], object]] = {
        "copy_": lambda: copy.copy_(x),
        "blockenc": lambda: cipher.encrypt(x, out=out),
    }
    slow = blockenc.Cipher(KEY, block_size=block_size, backend="aten")
    peers: dict[str, Callable[[], Callable[[], torch.Tensor]]] = {"aten": lambda: lambda: slow.encrypt(x)}
    peers |= {
        name: functools.partial(make, x, cipher.plan()) for name, make in PEERS.items() if name in names
    }
    for name, make in peers.items():
        try:
            call = make()
            same = torch.equal(call(), want)
        except (ImportError, RuntimeError) as error:  # not installed; out of memory
            print(f"{name} left out: {str(error).splitlines()[0]}")
            continue
        if not same:
            raise RuntimeError(f"{name} gives other bytes than blockenc")
        calls[name] = call
    return medians(calls, rounds), asking(calls["blockenc"], rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="batches of one, to see that it runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), help="beside copy_ and aten"
    )
    parser.add_argument("--json", type=Path, help="write the medians here, too")
    options = parser.parse_args()
    if reason := cuda.missing():
        print(f"SKIPPED: the cuda backend cannot be used here: {reason}")
        return
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"Milliseconds, and speed against Tensor.copy_ on the device. {machine}.\n")
    results = []
    for shape in SHAPES:
        size = (1, *shape[1:]) if options.tiny else shape
        for block_size in BLOCK_SIZES:
            times, asked = measure(size, block_size, options.rounds, options.peers)
            cells = [f"{name} {t:.4f} ({times['copy_'] / t:.3f})" for name, t in times.items()]
            cells.append(f"a call of blockenc takes {asked:.4f} on the CPU")
            print(f"{'x'.join(map(str, size))} M = {block_size}: {', '.join(cells)}", flush=True)
            results.append(
                {"shape": size, "block_size": block_size, "median_milliseconds": times, "call": asked}
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
