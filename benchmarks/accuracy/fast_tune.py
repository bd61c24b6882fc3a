"""Fine-tuning to encrypted images, by start, number of training images and epochs.

plain: from a model that was trained on plain images (transfer learning, arXiv 2103.03525).
folded: from the same, with the key folded into it (as domain adaptation does, arXiv 2401.05126): it is right
    from the start, and can lose that only.
scratch: the initial network, for comparison.
The plain model has seen all 50,000 training images, of the same classes, in the plain.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import data
from benchmarks.accuracy.fast import Config, Run, train
from benchmarks.accuracy.fast_evaluate import evaluate
from benchmarks.accuracy.fast_folded import protected
from benchmarks.accuracy.study import ALL

STARTS = ("scratch", "plain", "folded")
IMAGES = (500, 2000, 10_000, 50_000)
EPOCHS = (1, 3, 10)
# The highest learning rates, of batches of 1024; the first is tried first, and the other where time is left.
RATES = {"scratch": (1.5,), "plain": (1.5, 0.5), "folded": (0.1, 0.5)}
BATCHES = 4  # at least so many an epoch, however few images there are


@dataclass(frozen=True)
class Tuning:
    """One way to a model for encrypted images. images: how many of the training images, the first ones."""

    start: str
    images: int
    epochs: float
    lr: float
    steps: str = ALL
    block_size: int = 4
    seed: int = 0

    @property
    def name(self) -> str:
        return (f"tune-m{self.block_size}-{self.start}-lr{self.lr:g}-images{self.images}-"
                f"epochs{self.epochs:g}-seed{self.seed}")  # fmt: skip

    def config(self, width: int) -> Config:
        """Images are of whole size throughout, for all starts alike."""
        batch = min(Config.batch, self.images // BATCHES)
        return Config(block_size=self.block_size, steps=self.steps, epochs=float(self.epochs), lr=self.lr,
                      batch=batch, width=width, small=0.0, seed=self.seed)  # fmt: skip


def tunings(second_rates: bool) -> list[Tuning]:
    """The second learning rates, or the first ones; the most images and epochs first."""
    return [
        Tuning(start, images, epochs, lr)
        for epochs in reversed(EPOCHS)
        for images in reversed(IMAGES)
        for start in STARTS
        for lr in (RATES[start][1:] if second_rates else RATES[start][:1])
    ]


def tune(
    tuning: Tuning,
    plain: Run,
    folder: Path,
    *,
    keys: int = 100,
    images: int = 1000,
    stop: Callable[[], bool] = lambda: False,
    **training: Any,
) -> dict[str, Any]:
    """Train from a start and evaluate; what `fast.train` records, and an evaluation. Raises Stopped."""
    assert isinstance(plain.found.train, data.Part)
    found = dataclasses.replace(plain.found, train=plain.found.train.some(tuning.images))
    config = tuning.config(plain.config.width)
    model: torch.nn.Module | None = None
    if tuning.start == "plain":
        model = copy.deepcopy(plain.model)
    elif tuning.start == "folded":
        model = protected(plain.model, config, found.channels)
    run = train(config, folder, found, model=model, stop=stop, **training)
    evaluation = evaluate(run, folder, keys=keys, images=images, stop=stop)
    return {"tuning": dataclasses.asdict(tuning), **run.record, "evaluation": evaluation}
