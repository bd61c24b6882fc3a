"""Support vector machines on encrypted digits: python -m benchmarks.kernels

The digits are those that scikit-learn bundles. The results go to benchmarks/kernels/results.json, from which
`python -m benchmarks.kernels.page` writes the table of docs/kernels.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

from benchmarks.kernels import study
from benchmarks.kernels.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--wrong", type=int, default=20, help="wrong keys (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the halves of the digits (default: 0)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: benchmarks/kernels/results.json")
    options = parser.parse_args()
    results = about("python -m benchmarks.kernels", threads=1)
    results["versions"]["scikit-learn"] = importlib.metadata.version("scikit-learn")
    results["seed"] = options.seed
    results["rows"] = [
        study.measure(case, machine, options.wrong, options.seed)
        for case in study.cases()
        for machine in study.MACHINES
    ]
    atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
