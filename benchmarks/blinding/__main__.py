"""Stems that hide their key, and who reads it all the same: python -m benchmarks.blinding RUN --data DIR

RUN is the --out of benchmarks.accuracy.fast for a plain model with an embedding stem:

    python -m benchmarks.accuracy.fast --data DIR --out RUN --stem embedding --block-size 4 --epochs 3

Rows go to benchmarks/blinding/results.json one by one, from which `python -m benchmarks.blinding.page` writes
docs/blinding.md. The same command goes on with the rows that are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.accuracy import data
from benchmarks.accuracy.fast_evaluate import load
from benchmarks.blinding.page import RESULTS
from benchmarks.blinding.study import CPU, NOISES, ROWS, Study
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blinding",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--work", type=Path, default=Path("runs/blinding"), metavar="DIR", help="checkpoints")
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: beside this file")
    o = parser.parse_args()
    plain = load(o.run, data.load("cifar10", o.data), CPU)
    study = Study(plain, o.work)
    results = about("python -m benchmarks.blinding RUN --data DIR", torch.get_num_threads())
    results["plain"] = {name: plain.record[name] for name in ("config", "flops", "cpu_seconds")}
    kept = json.loads(o.json.read_text()) if o.json.exists() else {"rows": []}
    results |= {name: kept[name] for name in ("rows", "noise alone") if name in kept}
    for blinding in ROWS:
        done = {(row["kind"], row["strength"]) for row in results["rows"]}
        if o.only in blinding.name and (blinding.kind, blinding.strength) not in done:
            print(blinding.name, file=sys.stderr, flush=True)
            results["rows"].append(study.measure(blinding))
            order = [(row.kind, row.strength) for row in ROWS]
            results["rows"].sort(key=lambda row: order.index((row["kind"], row["strength"])))
            atomic_write(o.json, (json.dumps(results, indent=1) + "\n").encode())
    if "noise alone" not in results:
        results["noise alone"] = {kind: study.noise_alone(kind) for kind in NOISES}
        atomic_write(o.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
