"""Attacks on networks trained on encrypted images: python -m benchmarks.attacks_models --data DIR --runs RUNS

RUNS holds a folder for each network, trained before, on a CPU in minutes each:

    python -m benchmarks.accuracy.fast --data DIR --out RUNS/NAME --steps STEPS --width 24 --epochs 3 \\
        --precision float32

for plain (without --steps), shuffle, np, ffx and shuffle+np+ffx. The results go to
benchmarks/attacks_models/results, from which `python -m benchmarks.attacks_models.page` writes the tables of
docs/attacks-models.md.

With --grid-runs, the networks that benchmarks.accuracy.grid trained are attacked instead, by more attacks, on
a GPU if there is one: the most telling first, by --jobs processes, for --minutes. Networks that are not there
are left out. The same command goes on with what has no JSON in --out:

    OMP_NUM_THREADS=1 python -m benchmarks.attacks_models --data DIR --grid-runs RUNS --jobs 8 --minutes 2
    python -m benchmarks.attacks_models --list
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

from benchmarks.accuracy import data
from benchmarks.accuracy.fast import stop_on_signals
from benchmarks.attacks_models import on_grid, study
from benchmarks.attacks_models.page import RESULTS
from benchmarks.attacks_models.target import Sizes
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks_models",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--runs", type=Path, metavar="RUNS")
    parser.add_argument("--only", choices=study.NAMES, help="one network (default: all)")
    parser.add_argument("--seriation-only", action="store_true", help="of networks that learned under ffx")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    for field in dataclasses.fields(study.Budget):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    grid = parser.add_argument_group("networks of the grid")
    grid.add_argument(
        "--grid-runs", type=Path, metavar="RUNS", help="--runs or --bundle of benchmarks.accuracy.grid"
    )
    grid.add_argument("--out", type=Path, default=RESULTS / "grid", metavar="DIR", help="a JSON an attack")
    grid.add_argument("--jobs", type=int, default=1, metavar="K", help="processes (default 1)")
    grid.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    grid.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    grid.add_argument("--attack", default="", metavar="PART", help="only jobs with this in their name")
    grid.add_argument("--test-images", type=int, default=0, help="only so many, for a trial")
    grid.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    grid.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="sizes, for a trial")
    grid.add_argument("--list", action="store_true", help="the jobs, and which are done")
    options = parser.parse_args()
    if options.list or options.grid_runs:
        attack_grid(options, parser)
        return
    if not options.data or not options.runs:
        parser.error("expected --data and --runs, or --grid-runs")
    budget = study.Budget(**{f.name: getattr(options, f.name) for f in dataclasses.fields(study.Budget)})
    found = data.load("cifar10", options.data)
    for name in [options.only] if options.only else study.NAMES:
        changed = [
            f" --{name.replace('_', '-')} {value}"
            for name, value in dataclasses.asdict(budget).items()
            if value != getattr(study.Budget(), name)
        ]
        chosen = f"--only {name}{' --seriation-only' * options.seriation_only}{''.join(changed)}"
        command = f"python -m benchmarks.attacks_models --data DIR --runs RUNS {chosen}"
        results = about(command, torch.get_num_threads())
        results.update(study.measure(name, options.runs, found, budget, options.seriation_only))
        text = json.dumps(results, indent=1) + "\n"
        atomic_write(options.results / f"{name}.json", text.encode())


def attack_grid(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    end = time.monotonic() + 60 * options.minutes
    todo = [job for job in on_grid.jobs() if options.attack in job.name]
    if options.list:
        for job in todo:
            print("done" if (options.out / f"{job.name}.json").exists() else "    ", job.name)
        return
    if not options.data:
        parser.error("--data: expected the folder of CIFAR-10")
    changed = {name: json.loads(value) for name, _, value in (s.partition("=") for s in options.set)}
    sizes = Sizes(**{name: tuple(v) if isinstance(v, list) else v for name, v in changed.items()})
    told = on_grid.Options(
        options.data,
        options.grid_runs,
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
