"""The rows of docs/blinding.md: a way to blind a stem, how strongly, what it costs and what is still read."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import blockenc
from benchmarks.accuracy import data, fast
from benchmarks.accuracy.fast import Run, native_bf16
from benchmarks.accuracy.study import ALL
from benchmarks.accuracy.train import key_set
from benchmarks.blinding import readers, stems, tune
from blockenc.attacks.weights import read_places

EXTRA = 8  # columns of decoys
NOISED = 6  # columns of noise that a fine-tuned model starts with,
START = 0.1  # and their size, times that of the true ones
NATURAL_IMAGES = 1000  # of the training set: what the owner and the readers know of natural blocks
LOGIT_IMAGES = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Blinding:
    """kind: none, decoys, pairs, noise (rough or quiet) or tuned; strength: of the noise, or of the penalty.
    logits: whether the reader of logits is asked, too."""

    kind: str
    strength: float = 0.0
    logits: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.strength:g}"


NOISES = ("rough noise", "quiet noise")
ROWS = (
    Blinding("none", logits=True),
    *(Blinding("decoys", strength, strength == 16) for strength in (1, 4, 16)),
    *(Blinding("pairs", strength, strength == 16) for strength in (1, 4, 16)),
    *(Blinding("rough noise", strength, strength == 1) for strength in (0.01, 0.03, 0.1, 0.25, 1)),
    *(Blinding("quiet noise", strength, strength == 1) for strength in (0.1, 0.3, 1, 3, 10)),
    *(Blinding("tuned", strength, strength == 1000) for strength in (0, 100, 300, 1000)),
)


class Study:
    """A plain model of the fast recipe with an embedding stem, and what is known of natural blocks."""

    def __init__(self, plain: Run, work: Path) -> None:
        config = plain.config
        if config.stem != "embedding" or config.steps or config.block_size % 2:
            raise ValueError(f"RUN: expected a plain one with an embedding stem, got {config}")
        self.plain, self.work = plain, work
        self.config = dataclasses.replace(config, steps=ALL)
        cipher = self.config.cipher(key_set(0), plain.found.channels)
        assert cipher is not None
        self.cipher, self.plan = cipher, cipher.plan()
        images = plain.found.train.some(NATURAL_IMAGES).x.permute(0, 3, 1, 2)  # type: ignore[union-attr]
        self.blocks = stems.blocks_of(images, config.block_size)
        start = stems.stem_of(fast.build(config, plain.found))
        assert start.weight is not None
        self.start = start.weight[:, :, 0].detach().double().T.numpy()
        self.natural = np.cov(self.blocks.double().numpy().T)

    @functools.cached_property
    def quiet(self) -> torch.Tensor:
        return stems.quiet_directions(self.blocks)

    def blinded(self, blinding: Blinding) -> nn.Module:
        """The plain model, blinded; for plain images."""
        stem = stems.stem_of(self.plain.model)
        g = torch.Generator().manual_seed(1)
        strength = blinding.strength
        if blinding.kind == "none":
            return self.plain.model
        if blinding.kind == "tuned":
            wide = tune.widened(stem, NOISED, START, g)
            config = dataclasses.replace(
                self.plain.config, epochs=0.5, lr=0.5, small=0.0, rank=stem.table.shape[2] + NOISED
            )
            found, bf16 = self.plain.found, native_bf16(CPU)
            path = self.work / f"{blinding.name}.pt"
            model = stems.with_stem(self.plain.model, wide)
            return tune.tune(model, config, strength, path, found=found, device=CPU, bf16=bf16)
        if blinding.kind == "decoys":
            layers = stems.decoys(stem, EXTRA, strength, g)
        elif blinding.kind == "pairs":
            layers = stems.pairs(stem, strength, g)
        else:
            quiet = self.quiet if blinding.kind == "quiet noise" else None
            layers = stems.noisy(stem, strength, g, self.blocks, quiet)
        return stems.with_stem(self.plain.model, *layers)

    def measure(self, blinding: Blinding) -> dict[str, Any]:
        """A row: accuracy of the blinded and protected model with the right key, and what readers find."""
        config, found = self.config, self.plain.found
        model = blockenc.protect(self.blinded(blinding).eval(), self.cipher).eval()
        run = Run(config, found, CPU, native_bf16(CPU), model)
        test = found.test
        assert isinstance(test, data.Part)
        right = run.right(test, self.cipher)[0] / len(test)
        layers: nn.Module = nn.Sequential(*list(model.stem)[:-1])  # type: ignore[arg-type]
        one = torch.zeros(1, found.channels, config.block_size, config.block_size, dtype=torch.uint8)
        F = readers.responses(lambda blocks: layers(blocks).flatten(1), one)
        row: dict[str, Any] = {
            "kind": blinding.kind,
            "strength": blinding.strength,
            "accuracy": right,
            "weights": readers.by_weights(stems.stem_of(model), self.plan, config.block_size),
            "behaviour": readers.by_behaviour(F, self.plan, config.block_size, self.start, self.natural),
        }
        if blinding.logits:
            g = torch.Generator().manual_seed(2)

            def logits(images: torch.Tensor) -> torch.Tensor:
                return model(images)  # type: ignore[no-any-return]

            row["logits"] = readers.by_logits(logits, self.plan, LOGIT_IMAGES, g)
        return row

    @torch.no_grad()
    def noise_alone(self, kind: str) -> dict[str, float]:
        """What noise as large as F is without the stem: how much it varies over natural blocks, times what F
        does, and how often the reader of weights takes neighbours for the most similar."""
        stem = stems.stem_of(self.plain.model)
        F = stems.effect(stem)
        noise = stems.effect(stems.stem_of(self.blinded(Blinding(kind, 1)))) - F
        varies = [
            float(sum(T[p, column] for p, column in enumerate(self.blocks.long().T)).var(0).sum())  # type: ignore[union-attr]
            for T in (noise, F)
        ]
        features = noise[torch.from_numpy(self.plan.source[0]).long()]
        features -= features.mean(1, keepdim=True)
        places = read_places(features.permute(2, 0, 1).numpy(), self.plan, self.config.block_size)
        return {"variance": varies[0] / varies[1], "neighbour": places["neighbour"]}
