"""Segmentation and detection with keys: python -m benchmarks.vision

Scenes are composed of scikit-learn's digits, so nothing is downloaded. Each row goes to a file of its own in
benchmarks/vision/results, from which `python -m benchmarks.vision.page` writes the table of docs/vision.md;
`python -m benchmarks.vision.picture` draws its picture. Rows that have a file are left out, and models that
were trained in part are trained on from the checkpoints in --work: what was stopped goes on when repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.speed.report import about
from benchmarks.vision import study
from benchmarks.vision.page import RESULTS
from benchmarks.vision.scenes import scenes
from blockenc.files import atomic_write

WORK = Path("build") / "vision"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument("--task", choices=list(study.TASKS), action="append", help="default: both")
    parser.add_argument("--form", choices=list(study.FORMS), action="append", help="default: all")
    parser.add_argument("--scenes", type=int, default=4000, help="for training (default: 4000)")
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--test", type=int, default=200, help="scenes for tests (default: 200)")
    parser.add_argument("--wrong", type=int, default=20, help="wrong keys (default: 20)")
    parser.add_argument("--again", action="store_true", help="measure rows that have a file, too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/vision/results")
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints (default: build/vision)")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    torch.set_num_threads(1)  # so that a run can be repeated
    for folder in (chosen.results, chosen.work):
        folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {line}", file=sys.stderr, flush=True)

    for run, form in study.cases(chosen.seeds, chosen.scenes, chosen.epochs):
        name = f"{run.task} {form} seed{run.seed}".replace(",", "").replace(" ", "-")
        path = chosen.results / f"{name}.json"
        wanted = run.task in (chosen.task or study.TASKS) and form in (chosen.form or study.FORMS)
        if not wanted or (path.exists() and not chosen.again):
            continue
        data, test = scenes(chosen.scenes, False), scenes(chosen.test, True)
        row = study.measure(run, form, data, test, chosen.wrong, chosen.work, log)
        result = about("python -m benchmarks.vision", torch.get_num_threads())
        result["versions"] |= {name: version(name) for name in ("torchmetrics", "scikit-learn")}
        result |= row
        atomic_write(path, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
