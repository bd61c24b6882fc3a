"""A thief trains a stolen network on: to plain images, which need no key, or to a key of the thief's own.

The thief has the weights and a few labelled plain images, the first training images. What training from
scratch on as many images gives stands beside it: the stolen weights are worth the difference.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

from benchmarks.accuracy import data, fast, fast_models
from benchmarks.accuracy.train import key_set
from benchmarks.attacks_models.target import Target
from blockenc import Cipher, KeySet

GOALS = ("plain images", "new key")
NEW_KEY = 1  # the number of the thief's key set; the owner's is 0
AVERAGES_APART = 5  # steps
SCRATCH_RATE = fast.Config.lr


@dataclasses.dataclass
class ThiefConfig(fast.Config):
    """A configuration whose key, unless told, is the thief's own."""

    def cipher(self, key: KeySet | None = None, channels: int = 3) -> Cipher | None:
        return super().cipher(key or key_set(NEW_KEY), channels)


def tuned(target: Target, goal: str, rate: float) -> dict[str, Any]:
    """The stolen network, trained on, by how many images the thief has; "0 images": as it was stolen."""
    network = target.network
    whole: dict[str, Any] = {"goal": goal, "rate": rate, "steps": target.sizes.tune_steps}
    found = {"0 images": _accuracies(target, network.run)}
    for count in _counts(target):
        run = _run(target, network.config, goal, rate, count, copy.deepcopy(network.model))
        found[f"{count} images"] = _trained(target, run)
    return {**whole, "accuracies": found}


def scratch(target: Target, goal: str) -> dict[str, Any]:
    """The initial network, trained by as many steps on as many images."""
    found = {}
    for count in _counts(target):
        run = _run(target, target.network.config, goal, SCRATCH_RATE, count, None)
        found[f"{count} images"] = _trained(target, run)
    return {"goal": goal, "rate": SCRATCH_RATE, "steps": target.sizes.tune_steps, "accuracies": found}


def _counts(target: Target) -> list[int]:
    return [count for count in target.sizes.tune_images if count <= len(target.found.train)]


def _run(
    target: Target,
    stolen: fast.Config,
    goal: str,
    rate: float,
    count: int,
    model: torch.nn.Module | None,
) -> fast.Run:
    assert isinstance(target.found.train, data.Part)
    found = dataclasses.replace(target.found, train=target.found.train.some(count))
    batch = min(target.sizes.tune_batch, count)
    config = ThiefConfig(
        **{
            **dataclasses.asdict(stolen),
            "steps": "" if goal == "plain images" else stolen.steps,
            "lr": rate,
            "batch": batch,
            "epochs": target.sizes.tune_steps / (count // batch),
            "small": 0.0,
        }
    )
    if model is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_learns(name, model))
    run = fast.Run(config, found, target.device, target.network.run.bf16, model)
    # An epoch of few images is a step or two: an average at each would hold the weights where they are.
    run.average_steps = AVERAGES_APART
    return run


def _learns(name: str, model: torch.nn.Module) -> bool:
    """What the recipe trains: all but the gains of norms, and filters that whiten."""
    module = model.get_submodule(name.rpartition(".")[0])
    fixed = isinstance(module, (fast_models.Norm, fast_models.WhiteningConv))
    return not (fixed and name.endswith("weight"))


def _trained(target: Target, run: fast.Run) -> dict[str, float]:
    while run.step < run.total:
        if target.stop():
            raise fast.Stopped
        run.train_step()
    return _accuracies(target, run)


def _accuracies(target: Target, run: fast.Run) -> dict[str, float]:
    """On all test images: plain, under the thief's key, and under the owner's."""
    test = target.found.test
    assert isinstance(test, data.Part)
    ways: dict[str, Cipher | None] = {"plain images": None}
    if target.network.config.steps:
        for name, key in (("new key", key_set(NEW_KEY)), ("right key", target.key)):
            ways[name] = Cipher(key, target.scheme)
    return {name: run.right(test, cipher)[0] / len(test) for name, cipher in ways.items()}
