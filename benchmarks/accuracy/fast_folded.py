"""Models of the fast recipe, trained on plain images, with a key folded into them: what they are worth.

`blockenc.protect` has no handler for the whitening stem, since it repeats the edge pixels beyond the edge: an
encrypted image has other pixels there. The one here gives the blocks at the edges kernels of their own, which
see the edge pixels twice. No pixel is invented, so that it is as exact as the others.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.accuracy import data
from benchmarks.accuracy.fast import Config, Run
from benchmarks.accuracy.fast_evaluate import evaluate
from benchmarks.accuracy.fast_models import PATCH, WhiteningConv
from benchmarks.accuracy.train import MEAN, STD
from blockenc.folding import fold
from blockenc.folding.convolutions import look_up_of, parameter

EDGES = [(2, 2), (2, 1), (1, 2), (1, 1)]  # blocks seen, down and across, but for the last of a row or column


class FoldedWhitening(nn.Module):
    """A WhiteningConv for encrypted images: a kernel for blocks within the image, and one for each edge.

    kernels: for blocks within, in the last column, in the last row and in the corner, [b*b*D, F, A*b, B*b]
        for the A x B blocks of EDGES and F features; frozen. offsets: [4, b*b*D] or None, for values that are
        encrypted linearly. bias: [D], learned as the plain stem's is.

    Input: [N, C, H, W], H and W multiples of b. Output: [N, D, H, W].
    """

    def __init__(
        self,
        kernels: list[nn.Parameter],
        offsets: torch.Tensor,
        bias: nn.Parameter,
        look_up: nn.Module | None,
    ) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(kernels)
        self.register_buffer("offsets", offsets)
        self.bias = bias
        self.look_up = look_up
        self.block_size = kernels[-1].shape[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.look_up is not None:
            x = self.look_up(x)
        b, (h, w) = self.block_size, x.shape[2:]
        rows = []
        for down in (2, 1):
            part = x if down == 2 else x[:, :, h - b :]
            row = []
            for across in (2, 1):
                seen = part if across == 2 else part[:, :, :, w - b :]
                if down * b <= h and across * b <= w:
                    n = EDGES.index((down, across))
                    row.append(functional.conv2d(seen, self.kernels[n], self.offsets[n], b))
            if row:
                rows.append(torch.cat(row, 3))
        return functional.pixel_shuffle(torch.cat(rows, 2), b) + self.bias[:, None, None]


@fold.register
def _(stem: WhiteningConv, folding: Any) -> FoldedWhitening:
    b, weight = folding.plan.block_size, stem.weight.double()
    d, channels = weight.shape[:2]
    kernels, offsets = [], []
    for down, across in EDGES:
        seen = weight.new_zeros(d, b, b, channels, down * b, across * b)
        for i in range(b):
            for j in range(b):
                for u in range(PATCH):
                    for v in range(PATCH):
                        at = min(i + u, down * b - 1), min(j + v, across * b - 1)
                        seen[:, i, j, :, at[0], at[1]] += weight[:, :, u, v]
        kernel, offset = folding.values.fold(seen.flatten(0, 2), b)
        kernels.append(parameter(kernel, stem.weight))
        offsets.append(offset)
    look_up = look_up_of(folding, stem.weight) if folding.values.rows is not None else None
    return FoldedWhitening(kernels, torch.stack(offsets).to(stem.weight), stem.bias, look_up)


def protected(model: nn.Module, config: Config, channels: int) -> nn.Module:
    """A copy of a plain model of the fast recipe, with the key of a configuration in it; on the CPU."""
    norm = {"mean": (MEAN,) * channels, "std": (STD,) * channels}
    positions = "place" if config.model == "vit" else None
    cipher = config.cipher(channels=channels)
    return blockenc.protect(copy.deepcopy(model).cpu(), cipher, positions=positions, **norm)  # type: ignore[arg-type]


@torch.no_grad()
def logits(run: Run, cipher: blockenc.Cipher | None) -> torch.Tensor:
    """Of all test images in one view, in float32."""
    assert isinstance(run.found.test, data.Part)
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    run.model.eval()
    with exact:
        batches = run.found.test.batches(500, None)
        return torch.cat([run.model(run.config.prepare(x.to(run.device), cipher)).cpu() for x, _ in batches])


def weights(stem: nn.Module) -> int:
    """Numbers that pixels are multiplied by: all but biases, of which blocks may have one each."""
    return sum(p.numel() for p in stem.parameters() if p.dim() > 2)


def evaluate_folded(
    plain: Run,
    steps: str,
    block_size: int,
    folder: Path,
    preset: str = "",
    *,
    keys: int = 100,
    images: int = 1000,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """What a plain model is worth once the key of such a scheme is folded into it, without any training.

    steps, block_size, preset: of the scheme, as in a configuration; a preset in the place of steps.

    "exact" compares it with the plain model on all test images, both in float32; the rest is `evaluate`, in
    the precision of the training. Raises Stopped once `stop` says so; `folder` keeps what was measured.
    """
    config = dataclasses.replace(plain.config, steps=steps, block_size=block_size, preset=preset)
    model = protected(plain.model, config, plain.found.channels)
    run = Run(config, plain.found, plain.device, plain.bf16, model)
    y = plain.found.test.y  # type: ignore[union-attr]
    before, after = logits(plain, None), logits(run, run.cipher)
    exact = {
        "plain_accuracy": float((before.argmax(1) == y).double().mean()),
        "folded_accuracy": float((after.argmax(1) == y).double().mean()),
        "other_predictions": int((before.argmax(1) != after.argmax(1)).sum()),
        "largest_difference": float((before - after).abs().max() / before.abs().max()),
    }
    return {
        **({"preset": preset} if preset else {"steps": steps}),
        "block_size": block_size,
        "exact": exact,
        "stem_weights": {"plain": weights(plain.model.stem), "folded": weights(run.model.stem)},
        **evaluate(run, folder, keys=keys, images=images, stop=stop),
    }
