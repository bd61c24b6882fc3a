"""The tables of docs/imagenet.md out of the recorded results: python -m benchmarks.imagenet.page

`<!-- cost -->`: floating-point operations, counted on a network without data. `<!-- trial -->`: what was run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pages
from benchmarks.imagenet.settings import PLAIN, Config

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "imagenet.md"
TRAIN_IMAGES = 1_281_167  # of ILSVRC 2012
BACKWARD = 3  # a training step, in forward passes: one, and two for the gradients of inputs and weights
TERA = 1e12


def forward_flops(arch: str, size: int) -> int:
    """Floating-point operations of one image, forward; a multiplication and an addition are two."""
    with torch.device("meta"):
        model = torchvision.models.get_model(arch, weights=None).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops())


def cost(config: Config) -> str:
    """The table of predicted costs of one row of ImageNet."""
    rows, whole = [], 0.0
    for size, epochs in zip(config.sizes, config.epochs):
        forward = forward_flops(config.arch, size)
        phase = float(epochs * TRAIN_IMAGES * BACKWARD * forward)
        whole += phase
        hours = phase / (100 * TERA) / 3600
        rows.append([f"{size}", f"{epochs}", f"{forward / 1e9:.2f}", f"{phase:.2e}", f"{hours:.2f}"])
    rows.append(["all", f"{sum(config.epochs)}", "", f"{whole:.2e}", f"{whole / (100 * TERA) / 3600:.2f}"])
    return pages.table(
        "pixels|epochs|GFLOP an image, forward|operations, training|hours at 100 TFLOP/s", rows
    )


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def trial(found: list[dict[str, Any]]) -> str:
    """What was trained, a row for each recorded run, plain first."""
    rows = []
    for record in sorted(found, key=lambda record: record["config"]["steps"] != PLAIN):
        config, evaluation = record["config"], record["evaluation"]
        last = record["epochs"][-1]
        right = evaluation.get("right_key", evaluation["plain"])
        wrong = " ".join(percent(share) for share in evaluation.get("wrong_keys", []))
        plain = percent(evaluation["plain"]) if "right_key" in evaluation else ""
        rows.append(
            [
                config["steps"],
                config["arch"],
                ", ".join(f"{size} x {n}" for size, n in zip(config["sizes"], config["epochs"])),
                f"{evaluation['images']}",
                f"{record['epochs'][0]['loss']:.3f}",
                f"{last['loss']:.3f}",
                percent(right),
                wrong,
                plain,
            ]
        )
    return pages.table(
        "row|network|pixels x epochs|images|loss, first epoch|last epoch|right key, %|wrong keys, %|plain, %",
        rows,
    )


def fill(text: str, found: list[dict[str, Any]]) -> str:
    """The page with what was counted and found."""
    return pages.replace(pages.replace(text, "cost", cost(Config())), "trial", trial(found))


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def main() -> None:
    pages.write("benchmarks.imagenet.page", __doc__, RESULTS, PAGE, fill, recorded)


if __name__ == "__main__":
    main()
