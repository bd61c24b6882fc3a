"""What a folded key costs, beside a layer that decrypts: python -m benchmarks.protect

Models have random weights, so nothing is downloaded. The results go to benchmarks/protect/results.json, from
which `python -m benchmarks.protect.page` writes the table of docs/protect.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import timm
import torch
import torchvision

from benchmarks.protect import study
from benchmarks.protect.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write


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
    options = parser.parse_args()
    results = about("python -m benchmarks.protect", torch.get_num_threads())
    results["versions"] |= {"torchvision": torchvision.__version__, "timm": timm.__version__}
    results["batch"], results["repeats"], results["rows"] = options.batch, options.repeats, []
    kept = json.loads(options.json.read_text())["rows"] if options.model else []
    for case in study.CASES:
        rows = [row for row in kept if (row["model"], row["name"]) == (case.model, case.name)]
        if options.model is None or case.model in options.model:
            print(case.model, case.name, file=sys.stderr, flush=True)
            rows = [study.measure(case, options.batch, options.repeats)]
        results["rows"] += rows
    atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
