"""How fast the CUDA kernels are, as a ratio to a copy on the device: python -m benchmarks.speed.cuda

Beside Tensor.copy_ and blockenc: the same on images that begin at an odd address, which go one element a
thread; the aten backend; and for uniform plans torch.compile of the fused gather and look-up, CuPy gather and
look-up, a Triton kernel. Each is timed in turn with CUDA events, after a warm-up that also checks that all
give the same bytes; medians are compared. With --tunings, ways to run the kernel `tiles` (cuda_tunings.py)
take the place of those others. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cuda_tunings import tunings
from benchmarks.speed.peers import Call, Case, fused
from benchmarks.speed.rows import BLOCK_SIZES, VERSION_2, Row
from blockenc.backends import aten, cuda
from blockenc.plan import Plan

IMAGES = 1024  # of 224 x 224
ROWS = [
    *[Row("ImageNet", IMAGES, m) for m in BLOCK_SIZES],
    *[Row("CIFAR", 128, m) for m in BLOCK_SIZES[:4]],
    *[dataclasses.replace(row, batch=IMAGES) for row, *_ in VERSION_2],
    Row("ImageNet", IMAGES, 16, "VIT"),
    Row("ImageNet", IMAGES, target="float32"),
    Row("ImageNet", IMAGES, 16, "ETC", target="float32"),
]
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
ONE_BY_ONE = "one element a thread"
OTHERS = (ONE_BY_ONE, "aten", *PEERS)


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


def unaligned(x: torch.Tensor) -> torch.Tensor:
    """A copy that begins one element after an aligned address."""
    return torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view(x.shape).copy_(x)


def make_case(row: Row) -> Case:
    x = torch.randint(0, 256, row.shape, dtype=torch.uint8, device="cuda")
    return Case(row, x, torch.empty_like(x, dtype=getattr(torch, row.target)))


def make_other(name: str, case: Case) -> Call:
    if name == ONE_BY_ONE:
        odd = case._replace(x=unaligned(case.x), out=unaligned(case.out))
        return odd.encrypt(case.cipher("cuda"))
    if name == "aten":
        return case.encrypt(case.cipher("aten"))
    return PEERS[name](case.x, case.cipher("cuda").plan())


def tuned(call: Call, tuning: tuple[int, int, int, bool, int]) -> Call:
    """The call, with the kernel `tiles` tuned."""

    def run() -> torch.Tensor:
        cuda.tuning = tuning
        try:
            return call()
        finally:
            cuda.tuning = None

    return run


def is_uniform(row: Row) -> bool:
    """Whether the row is of bytes to bytes, under a plan that the kernel `tiles` and the peers can do."""
    return not row.scheme and not row.per_image and row.target == "uint8"


def measure(row: Row, rounds: int, names: Collection[str] = OTHERS, tune: bool = False) -> dict[str, Any]:
    """A row's record: medians of every call on the GPU, and what a call of blockenc takes on the CPU, in
    milliseconds. `tune` adds every tuning."""
    case = make_case(row)
    copy = torch.empty_like(case.x)
    calls: dict[str, Call] = {
        "copy_": lambda: copy.copy_(case.x),
        "blockenc": case.encrypt(case.cipher("cuda")),
    }
    want = calls["blockenc"]().clone()
    processors = torch.cuda.get_device_properties(case.x.device).multi_processor_count
    for name, tuning in tunings(processors).items() if tune else ():
        calls[name] = tuned(calls["blockenc"], tuning)
        case.out.zero_()
        if not torch.equal(calls[name](), want):
            raise RuntimeError(f"tuning {name!r} gives other values than none: {row.name}")
    for name in names:
        if name in PEERS and not is_uniform(row):
            continue
        try:
            other = make_other(name, case)
            same = torch.equal(other(), want)
        except (ImportError, RuntimeError) as error:  # not installed; out of memory
            print(f"{name} left out: {str(error).splitlines()[0]}")
            continue
        if not same:
            raise RuntimeError(f"{name} gives other values than blockenc: {row.name}")
        calls[name] = other
    return {
        "name": row.name,
        "shape": list(case.x.shape),
        "milliseconds": medians(calls, rounds),
        "call": asking(calls["blockenc"], rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="batches of one, to see that it runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", default="", help="only rows with this in their name")
    parser.add_argument("--peers", nargs="*", choices=OTHERS, default=list(OTHERS), help="beside copy_")
    parser.add_argument("--tunings", action="store_true", help="instead of peers, in rows that have them")
    parser.add_argument("--json", type=Path, help="write the medians here, too")
    options = parser.parse_args()
    if reason := cuda.missing():
        print(f"SKIPPED: the cuda backend cannot be used here: {reason}")
        return
    machine = {"device": torch.cuda.get_device_name(), "torch": str(torch.__version__),
               "cuda": torch.version.cuda, "tiny": options.tiny, "rounds": options.rounds,
               "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}  # fmt: skip
    print(f"Milliseconds, and speed against Tensor.copy_ on the device. {machine}\n")
    results = []
    for row in ROWS:
        if options.rows not in row.name or (options.tunings and not is_uniform(row)):
            continue
        result = measure(
            dataclasses.replace(row, batch=1) if options.tiny else row,
            options.rounds,
            () if options.tunings else options.peers,
            options.tunings,
        )
        times = result["milliseconds"]
        cells = [f"{name} {t:.4f} ({times['copy_'] / t:.3f})" for name, t in times.items()]
        cells.append(f"a call of blockenc takes {result['call']:.4f} on the CPU")
        print(f"{result['name']}: {', '.join(cells)}", flush=True)
        results.append(result)
        if options.json:
            options.json.write_text(json.dumps({**machine, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
