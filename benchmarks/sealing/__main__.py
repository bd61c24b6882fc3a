"""Whether seals find what was changed, and what they cost: python -m benchmarks.sealing

Weights are random, so nothing is downloaded; files go to a temporary folder, 1 GB at most. The results go to
benchmarks/sealing/results.json, from which `python -m benchmarks.sealing.page` writes the tables of
docs/sealing.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path

from benchmarks.sealing import study
from benchmarks.sealing.page import RESULTS
from benchmarks.speed.report import about
from blockenc.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sealing",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--bits", type=int, default=1000, help="bits that are changed (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of their places (default: 0)")
    parser.add_argument("--repeats", type=int, default=3, help="calls whose median is taken (default: 3)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: benchmarks/sealing/results.json")
    options = parser.parse_args()
    results = about("python -m benchmarks.sealing", threads=1)
    results["versions"]["safetensors"] = importlib.metadata.version("safetensors")
    results["repeats"] = options.repeats
    with tempfile.TemporaryDirectory() as folder:
        results |= study.run(Path(folder), options.bits, options.seed, options.repeats)
    atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
