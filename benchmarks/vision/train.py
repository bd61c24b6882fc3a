"""Training of one model, exactly resumable: a checkpoint after each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.vision.models import KEYED, MEAN, STD, Detector, Segmenter, with_backbone
from benchmarks.vision.scenes import Scenes

TASKS: dict[str, Callable[[], nn.Module]] = {
    "segmentation": Segmenter,
    "detection": Detector,
}
# What has a key while a model is trained: nothing, the images, or the feature maps.
TRAININGS = ("plain", "images", "features")
SCHEME = blockenc.Scheme(block_size=4)  # shuffle, np, ffx
BATCH, PEAK = 64, 3e-3


class Run(NamedTuple):
    """Everything that a trained model depends on, but the machine."""

    task: str
    training: str
    seed: int
    scenes: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.training}-seed{self.seed}"


def key(number: int) -> blockenc.Key:
    """Number 0 is the right one of every experiment. Public, so that results can be repeated."""
    return blockenc.Key(bytes([number]) + bytes(range(31)))


def cipher(number: int) -> blockenc.Cipher:
    """What encrypts images with the key of a number."""
    return blockenc.Cipher(key(number), SCHEME)


def encrypted(x: torch.Tensor, by: blockenc.Cipher | None) -> torch.Tensor:
    """uint8 images, encrypted (None: plain), as models take them."""
    if by is None:
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
        return (x / 255 - mean) / std
    return by.encrypt(x, dtype=torch.float32, mean=MEAN, std=STD)


def build(run: Run) -> nn.Module:
    """The model before it is trained."""
    torch.manual_seed(run.seed)
    model = TASKS[run.task]()
    if run.training == "features":
        model = with_backbone(model, lambda part: blockenc.protect_features(part, key(0), KEYED))
    return model


def trained(run: Run, data: Scenes, work: Path, log: Callable[[str], None]) -> nn.Module:
    """The model of a run, in evaluation; from the checkpoint on that an earlier call left in `work`."""
    model = build(run)
    optimiser = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=1e-3)
    batches = len(data.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, total_steps=run.epochs * batches)
    path = work / f"{run.name}.pt"
    epoch = 0
    if path.exists():
        kept = torch.load(path)
        if kept["run"] == run._asdict():
            epoch = kept["epoch"]
            model.load_state_dict(kept["model"])
            optimiser.load_state_dict(kept["optimiser"])
            schedule.load_state_dict(kept["schedule"])
    model.train()
    while epoch < run.epochs:
        start, losses = time.perf_counter(), []
        order = torch.randperm(
            len(data.images), generator=torch.Generator().manual_seed(1000 * run.seed + epoch)
        )
        for chosen in order[: batches * BATCH].split(BATCH):
            loss = _loss(model, run, data, chosen)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        epoch += 1
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        part = path.with_suffix(".part")
        torch.save({"run": run._asdict(), "epoch": epoch, "schedule": schedule.state_dict(), **state}, part)
        part.replace(path)
        mean = sum(losses) / len(losses)
        log(
            f"{run.name}: epoch {epoch} of {run.epochs}, loss {mean:.3f}, {time.perf_counter() - start:.0f} s"
        )
    return model.eval()


def _loss(model: nn.Module, run: Run, data: Scenes, chosen: torch.Tensor) -> torch.Tensor:
    x = encrypted(data.images[chosen], cipher(0) if run.training == "images" else None)
    if run.task == "segmentation":
        return functional.cross_entropy(model(x), data.masks[chosen])
    targets = [{"boxes": data.boxes[n], "labels": data.labels[n]} for n in chosen.tolist()]
    losses: dict[str, torch.Tensor] = model(x, targets)
    return sum(losses.values(), torch.zeros(()))
