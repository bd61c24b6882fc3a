"""What passports cost beside keys in images: python -m benchmarks.passports

Training steps and inferences of one ResNet-18 for images of 32 x 32: plain, with encrypted images, with a key
folded into the stem, and with passports. All forms take turns, so that the machine's drift meets them alike.
Writes benchmarks/passports/results/cost.json, of which `python -m benchmarks.passports.page` makes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.passports.layers import passports, with_passports
from benchmarks.passports.page import COST
from benchmarks.protect.study import ALL, KEY, LARGE_STEM, model_of
from benchmarks.speed.measure import medians
from benchmarks.speed.report import about
from blockenc.files import atomic_write

MEAN, STD = (0.5,) * 3, (0.25,) * 3  # alike for all channels, which encryption mixes
STAGES = {"last stage": ("layer4",), "all stages": ("layer1", "layer2", "layer3", "layer4")}
Call = Callable[[], object]


def prepare(x: torch.Tensor, cipher: blockenc.Cipher | None) -> torch.Tensor:
    """uint8 [N, 3, H, W], normalised, and encrypted before that where there is a cipher."""
    if cipher is not None:
        return cipher.encrypt(x, dtype=torch.float32, mean=MEAN, std=STD)  # type: ignore[no-any-return]
    return (x / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def training(model: nn.Module, x: torch.Tensor, y: torch.Tensor, cipher: blockenc.Cipher | None) -> Call:
    """A training step, the preparation of the batch included."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        loss = functional.cross_entropy(model(prepare(x, cipher)), y)
        for layer in passports(model):
            loss = loss + layer.sign_loss()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def inference(model: nn.Module, x: torch.Tensor, cipher: blockenc.Cipher | None) -> Call:
    model.eval()

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model(prepare(x, cipher))  # type: ignore[no-any-return]

    return run


def measure(batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each form: parameters, numbers of secret tensors, milliseconds."""
    draw = torch.manual_seed(0)
    x = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=draw)
    y = torch.randint(0, 10, (batch,), generator=draw)
    cipher = blockenc.Cipher(KEY, ALL)
    plain = model_of(LARGE_STEM)
    # The sender encrypts for a folded model, so that its images are prepared like plain ones.
    folded = blockenc.protect(plain, cipher, mean=MEAN, std=STD)
    models: dict[str, tuple[nn.Module, blockenc.Cipher | None]] = {
        "plain": (model_of(LARGE_STEM), None),
        "key in the images": (model_of(LARGE_STEM), cipher),
        "key folded in": (folded, None),
    }
    for name, stages in STAGES.items():
        models[f"passports, {name}"] = with_passports(plain, stages, prepare(x[:2], None)), None
    kept = with_passports(plain, STAGES["all stages"], prepare(x[:2], None))
    for layer in passports(kept):
        layer.keep()
    untrained = {"key folded in": folded, "passports, all stages, scale and bias kept": kept}
    trained = {name: pair for name, pair in models.items() if name not in untrained}
    models["passports, all stages, scale and bias kept"] = kept, None
    seconds = {
        "inference": medians({name: inference(m, x, c) for name, (m, c) in models.items()}, 0, rounds),
        "training": medians({name: training(m, x, y, c) for name, (m, c) in trained.items()}, 0, rounds),
    }
    return [
        {
            "form": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "passports": sum(2 * layer.get_buffer("scale").numel() for layer in passports(model)),
            **{f"{what}_ms": 1e3 * found[name] for what, found in seconds.items() if name in found},
        }
        for name, (model, _) in models.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.passports",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=128, help="images (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="of each form (default 5)")
    parser.add_argument("--json", type=Path, default=COST)
    options = parser.parse_args()
    command = " ".join(["python -m benchmarks.passports", *sys.argv[1:]])
    result = {**about(command, torch.get_num_threads()), "batch": options.batch, "rounds": options.rounds}
    result["rows"] = measure(options.batch, options.rounds)
    atomic_write(options.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
