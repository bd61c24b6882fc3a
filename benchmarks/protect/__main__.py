"""What a folded key costs, beside a layer that decrypts: python -m benchmarks.protect

Models have random weights, so nothing is downloaded. The results go to benchmarks/protect/results.json, from
which `python -m benchmarks.protect.page` writes the tables of docs/protect.md. Memory is measured on Linux.
It does not need a quiet machine, and --memory measures nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from benchmarks.protect import memory, study
from benchmarks.protect.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def _add_memory(row: dict[str, Any], batch: int) -> None:
    names = [(case.model, case.name) for case in study.CASES]
    row["memory"] = memory.of_row(names.index((row["model"], row["name"])), batch)
    print(row["model"], row["name"], row["memory"], file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.protect",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=4, help="images at once (default: 4)")
    parser.add_argument(
        "--repeats", type=int, default=7, help="calls of which the median is taken (default: 7)"
    )
    parser.add_argument("--model", action="append", help="measure these again, in place of their rows")
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: benchmarks/protect/results.json")
    parser.add_argument(
        "--memory", action="store_true", help="measure the rows' peak memory only, and keep their times"
    )
    options = parser.parse_args()
    if options.memory:
        results = json.loads(options.json.read_text())
        for row in results["rows"]:
            _add_memory(row, results["batch"])
            atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())
        return
    results = about("python -m benchmarks.protect", torch.get_num_threads())
    results["versions"] |= {"torchvision": torchvision.__version__, "timm": timm.__version__}
    results["batch"], results["repeats"], results["rows"] = options.batch, options.repeats, []
    kept = json.loads(options.json.read_text())["rows"] if options.model else []
    for case in study.CASES:
        rows = [row for row in kept if (row["model"], row["name"]) == (case.model, case.name)]
        if options.model is None or case.model in options.model:
            print(case.model, case.name, file=sys.stderr, flush=True)
            rows = [study.measure(case, options.batch, options.repeats)]
            _add_memory(rows[0], options.batch)
        results["rows"] += rows
    atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
