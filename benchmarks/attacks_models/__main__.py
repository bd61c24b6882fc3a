"""Attacks on networks trained on encrypted images: python -m benchmarks.attacks_models --data DIR --runs RUNS

RUNS is what `python -m benchmarks.accuracy.grid` trained: its --runs, or a folder of the archives that its
--bundle writes. Its networks are attacked on a GPU if there is one, the most telling attacks first, by --jobs
processes, for --minutes. Networks that are not there are left out. Each attack leaves a JSON in --out; the
same command goes on with those that have none:

    OMP_NUM_THREADS=1 python -m benchmarks.attacks_models --data DIR --runs RUNS --jobs 8 --minutes 2
    python -m benchmarks.attacks_models --list

`python -m benchmarks.attacks_models.page` writes the tables of docs/attacks-models.md out of the JSONs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.accuracy.fast import stop_on_signals
from benchmarks.attacks_models import on_grid
from benchmarks.attacks_models.page import RESULTS
from benchmarks.attacks_models.target import Sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks_models",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--runs", type=Path, metavar="RUNS")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="a JSON an attack")
    parser.add_argument("--jobs", type=int, default=1, metavar="K", help="processes (default 1)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attack", default="", metavar="PART", help="only jobs with this in their name")
    parser.add_argument("--test-images", type=int, default=0, help="only so many, for a trial")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="sizes, for a trial")
    parser.add_argument("--list", action="store_true", help="the jobs, and which are done")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    todo = [job for job in on_grid.jobs() if options.attack in job.name]
    if options.list:
        for job in todo:
            print("done" if (options.out / f"{job.name}.json").exists() else "    ", job.name)
        return
    if not options.data or not options.runs:
        parser.error("expected --data and --runs, or --list")
    changed = {name: json.loads(value) for name, _, value in (s.partition("=") for s in options.set)}
    sizes = Sizes(**{name: tuple(v) if isinstance(v, list) else v for name, v in changed.items()})
    told = on_grid.Options(
        options.data,
        options.runs,
        options.out,
        sizes,
        options.device,
        end,
        options.test_images,
        options.precision == "bfloat16",
    )
    complete = on_grid.run(told, todo, options.jobs, stop_on_signals())
    print("all is done" if complete else "stopped or failed; the same command goes on")


if __name__ == "__main__":
    main()
