"""How things are measured: every call of a row in turn (A B C A B C ...), warmed, and the medians compared,
because machines are shared and their speed drifts."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

import blockenc
from benchmarks.speed.peers import PEERS, Call, Case
from benchmarks.speed.rows import Row, scaling_batches
from blockenc.backends import native

# OpenMP's threads, those of torch and others, look for work for some milliseconds after a call before they
# sleep, and take time from the threads of the next call, if it is another's.
SETTLE = 8e-3
TURN = 2e-3  # a short call is repeated in its turn: the caches hold its own data, as in a loop of such calls
SLOW_BYTES = 16 << 20  # slow contenders get so much of a batch, at least one image; rates are a byte
SLOW_BACKENDS = ("aten",)
IMPORT_ROUNDS = 9
IMPORT_PROGRAM = (
    "import time, torch; t = time.perf_counter(); import blockenc; print(time.perf_counter() - t)"
)


def medians(calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 3) -> dict[str, float]:
    """Median seconds of each call, taken in turn until `seconds` have passed (`rounds` rounds at least).

    A call that takes longer than `seconds` / 10 has `rounds` rounds only, so that the others get their share.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}

    def timed(name: str) -> float:
        start = time.perf_counter()
        calls[name]()
        return time.perf_counter() - start

    for name in calls:
        timed(name)  # compiles, allocates
    second = {name: timed(name) for name in calls}
    repeats = {name: max(1, int(TURN / taken)) for name, taken in second.items()}

    def turn(name: str) -> None:
        time.sleep(SETTLE)
        for _ in range(repeats[name] - 1):  # a sleep leaves caches and clocks cold for short calls
            calls[name]()
        times[name] += [timed(name) for _ in range(repeats[name])]

    for _ in range(rounds):
        for name in calls:
            turn(name)
    quick = [name for name in calls if second[name] <= seconds / 10]
    end = time.perf_counter() + seconds
    while quick and time.perf_counter() < end:
        for name in quick:
            turn(name)
    return {name: statistics.median(values) for name, values in times.items()}


def contenders() -> list[str]:
    """blockenc on this machine: the levels of native, fastest first (native/avx512_vbmi), then the others."""
    available = [name for name, state in blockenc.backends().items() if state == "available"]
    levels = [f"native/{level}" for level, has in native.levels().items() if has]
    return levels * ("native" in available) + [n for n in available if n not in ("native", "cuda")]


def make_case(row: Row, tiny: bool = False) -> Case:
    """Random images for a row; a batch of one if `tiny`."""
    row = dataclasses.replace(row, batch=1) if tiny else row
    x = torch.randint(0, 256, row.shape, dtype=torch.uint8)
    if row.source != "uint8":
        x = (x / 255).to(getattr(torch, row.source))
    if row.layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return Case(row, x, torch.empty_like(x, dtype=getattr(torch, row.target)))


def part(case: Case) -> Case:
    """What a slow contender gets: the first SLOW_BYTES of the batch, counted a byte for a value."""
    images = max(1, SLOW_BYTES // case.x[0].numel())
    return case._replace(x=case.x[:images], out=case.out[:images])


def is_slow(name: str) -> bool:
    return name in SLOW_BACKENDS or (name in PEERS and PEERS[name].slow)


def make_call(name: str, case: Case) -> Call:
    """The call of a contender or a peer, which was seen to give what blockenc gives if it should."""
    if name in PEERS:
        call = PEERS[name].make(case)
        if PEERS[name].exact:
            want = case.encrypt(case.cipher())().clone()  # others write to the same tensor
            if not torch.equal(call(), want):
                raise RuntimeError(f"{name} gives other values than blockenc: {case.row.name}")
        return call
    return case.encrypt(case.cipher(name))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_row(row: Row, names: list[str], seconds: float, tiny: bool) -> dict[str, Any]:
    """A row's record: for every contender and peer the median seconds of a call and its images."""
    whole = make_case(row, tiny)
    calls, images, missing = {}, {}, {}
    with threads(row.threads):
        torch._dynamo.reset()  # rows do not share graphs, and there is a limit to recompiling
        for name in names:
            reason = PEERS[name].missing(row) if name in PEERS else ""
            if reason:
                missing[name] = reason
                continue
            case = part(whole) if is_slow(name) else whole
            calls[name], images[name] = make_call(name, case), len(case.x)
        times = medians(calls, seconds)
    return {
        "name": row.name,
        **dataclasses.asdict(row),
        "shape": list(whole.x.shape),
        "threads": row.threads or torch.get_num_threads(),
        "values": whole.x[0].numel(),
        "calls": {name: {"seconds": times[name], "images": images[name]} for name in calls},
        "missing": missing,
    }


def measure_import(tiny: bool) -> float:
    """Median seconds of `import blockenc` after `import torch`, each time in a new process."""
    command = [sys.executable, "-c", IMPORT_PROGRAM]
    runs = range(1 if tiny else IMPORT_ROUNDS + 1)
    taken = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in runs]
    return statistics.median(taken[1:] or taken)  # the first writes byte code


def measure_scaling(most: int, names: list[str], seconds: float, tiny: bool) -> list[dict[str, Any]]:
    """uint8 224x224 planar, M = 4, 3 steps: median seconds by size of the batch and number of threads."""
    batches = scaling_batches()[:2] if tiny else scaling_batches()
    whole = make_case(Row("ImageNet", batches[-1]))
    names = [name for name in names if name == "copy_" or (name in contenders() and not is_slow(name))]
    copy = torch.empty_like(whole.x)
    counts = sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})
    records = []
    for batch in batches:
        x, out, target = whole.x[:batch], whole.out[:batch], copy[:batch]
        case = whole._replace(x=x, out=out)
        calls = {name: make_call(name, case) for name in names if name != "copy_"}
        calls = {"copy_": lambda target=target, x=x: target.copy_(x), **calls}  # type: ignore[misc]
        for count in counts:
            with threads(count):
                times = medians(calls, seconds)
            records.append({"bytes": x.numel(), "threads": count, "seconds": times})
    return records
