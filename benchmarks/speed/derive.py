"""How many images a second keys of their own are derived for: python -m benchmarks.speed.derive

From the key and the ids to compiled plans; encrypting is not in it. Each number of images is
measured several times, with new ids, and the median counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import torch

import blockenc
from blockenc.plan.compilation import Compiler

BATCHES = (64, 256, 1024, 4096)
SCHEMES = {
    "shuffle": ("shuffle",),
    "shuffle+np": ("shuffle", "np"),
    "shuffle+np+ffx": ("shuffle", "np", "ffx"),
}


def images_a_second(steps: Sequence[str], images: int, rounds: int) -> float:
    key, scheme = blockenc.Key.generate(), blockenc.Scheme(block_size=4, steps=tuple(steps))
    taken, numbers = [], itertools.count()
    for _ in range(rounds + 1):
        ids = [str(next(numbers)).encode() for _ in range(images)]
        start = time.perf_counter()
        Compiler(scheme, key, ids).plans(scheme.side, scheme.side, [False])
        taken.append(time.perf_counter() - start)
    return images / statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.derive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tiny", action="store_true", help="few images, to see that it runs")
    options = parser.parse_args()
    batches = BATCHES[:1] if options.tiny else BATCHES
    print(f"| steps, M = 4 | threads | {' | '.join(f'{n} images' for n in batches)} |")
    print("|---" * (len(batches) + 2) + "|")
    for name, steps in SCHEMES.items():
        for threads in options.threads:
            torch.set_num_threads(threads)
            rates = [f"{images_a_second(steps, n, options.rounds):,.0f}/s" for n in batches]
            print(f"| {name} | {threads} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
