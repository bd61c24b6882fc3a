"""Attacks on networks trained on encrypted images: python -m benchmarks.attacks_models --data DIR --runs RUNS

RUNS holds a folder for each network, trained before, on a CPU in minutes each:

    python -m benchmarks.accuracy.fast --data DIR --out RUNS/NAME --steps STEPS --width 24 --epochs 3 \\
        --precision float32

for plain (without --steps), shuffle, np, ffx and shuffle+np+ffx. The results go to
benchmarks/attacks_models/results, from which `python -m benchmarks.attacks_models.page` writes the tables of
docs/attacks-models.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from benchmarks.accuracy import data
from benchmarks.attacks_models import study
from benchmarks.attacks_models.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks_models",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, metavar="RUNS")
    parser.add_argument("--only", choices=study.NAMES, help="one network (default: all)")
    parser.add_argument("--seriation-only", action="store_true", help="of networks that learned under ffx")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    for field in dataclasses.fields(study.Budget):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
