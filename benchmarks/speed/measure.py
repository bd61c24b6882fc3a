"""How fast each backend and instruction-set level is, as a ratio to a copy of the same bytes.

    python -m benchmarks.speed

Every measurement of a row is taken in turn with `Tensor.copy_` (A B C A B C ...), after a warm-up, and
the medians are compared, because machines are shared and their speed drifts.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import blockenc
from blockenc.backends import native

KEY = bytes(range(32))  # speed does not depend on the key
STEPS = ("shuffle", "np", "ffx")
# name, shape, block size, steps, normalised float32 output
ROWS = [
    *[(f"M = {m}", (1024, 3, 224, 224), m, STEPS, False) for m in (2, 4, 8, 16, 32, 14)],
    ("M = 4, shuffle only", (1024, 3, 224, 224), 4, ("shuffle",), False),
    ("M = 4 to normalised float32", (256, 3, 224, 224), 4, STEPS, True),
    ("M = 4, a CIFAR batch", (128, 3, 32, 32), 4, STEPS, False),
]
TINY_BATCH = 1


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, taken in turn until `seconds` have passed (3 rounds at least).

    A call that takes longer than `seconds` / 10 has 3 rounds only, so that the others get their share.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    slow = set()

    def timed(name: str) -> float:
        start = time.perf_counter()
        calls[name]()
        return time.perf_counter() - start

    for name in calls:
        if timed(name) > seconds / 10:
            slow.add(name)
    for _ in range(3):
        for name in calls:
            times[name].append(timed(name))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in [name for name in calls if name not in slow]:
            times[name].append(timed(name))
    return {name: statistics.median(values) for name, values in times.items()}


def measure_row(
    shape: tuple[int, ...], block_size: int, steps: tuple[str, ...], normalise: bool, seconds: float
) -> dict[str, float]:
    """Median seconds of a copy, and of each backend, on one batch."""
    x = torch.randint(0, 256, shape, dtype=torch.uint8)
    copy = torch.empty_like(x)
    out = torch.empty_like(x, dtype=torch.float32 if normalise else torch.uint8)
    output = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} if normalise else {}
    calls: dict[str, Callable[[], object]] = {"copy_": lambda: copy.copy_(x)}
    for name, state in blockenc.backends().items():
        if state == "available" and name != "cuda":
            cipher = blockenc.Cipher(KEY, block_size=block_size, steps=steps, backend=name)
            encrypt = functools.partial(cipher.encrypt, x, out=out, **output)
            if name == "native":
                supported = [level for level, has in native.levels().items() if has]
                calls |= {
                    f"native/{level}": functools.partial(at_level, level, encrypt) for level in supported
                }
            else:
                calls[name] = encrypt
    return medians(calls, seconds)


def at_level(level: str, call: Callable[[], object]) -> None:
    """Make a call with the native backend held to one instruction-set level."""
    native.force_level(level)
    try:
        call()
    finally:
        native.force_level(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="batches of one, to see that it runs")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row (default 5)")
    parser.add_argument("--rows", default="", help="only the rows with this in their name (default all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the medians here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, torch {torch.__version__}"
    )
    print(f"Speed against Tensor.copy_ of the same uint8 batch (1 = as fast). {machine}.\n")
    results = []
    rows = [row for row in ROWS if options.rows in row[0]]
    if not rows:
        parser.error(
            f"--rows: no row is named like {options.rows!r}; there are {', '.join(r[0] for r in ROWS)}"
        )
    for number, (name, shape, block_size, steps, normalise) in enumerate(rows):
        if options.tiny:
            shape = (TINY_BATCH, *shape[1:])
        times = measure_row(shape, block_size, steps, normalise, options.seconds)
        if number == 0:
            print(f"| batch | row | copy_ GB/s | {' | '.join(list(times)[1:])} |")
            print("|---" * (len(times) + 2) + "|")
        copy = times["copy_"]
        gigabytes = torch.Size(shape).numel() / copy / 1e9
        ratios = [f"{copy / t:.3f} ({t * 1e3:.3g} ms)" for backend, t in times.items() if backend != "copy_"]
        size = "x".join(map(str, shape))
        print(f"| {size} | {name} | {gigabytes:.1f} | {' | '.join(ratios)} |", flush=True)
        results.append({"row": name, "shape": shape, "median_seconds": times})
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
