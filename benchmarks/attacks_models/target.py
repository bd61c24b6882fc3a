"""What an attack on a network of the grid is given, and how large the attacks are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.accuracy import data, fast, fast_evaluate
from benchmarks.accuracy.fast import Stopped
from benchmarks.accuracy.grid import restored
from benchmarks.accuracy.train import MEAN, STD, key_set
from blockenc import Cipher, KeySet, Scheme
from blockenc.attacks.key_search import Labelled


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the attacks are.

    rounds, batch: of key searches; 10 and 128 are published. large: images of a query of the searches that
        have more. starts: random keys that a search as published starts from, all beside each other.
        loss_starts: of ours.
    relaxed_images, relaxed_steps: of keys found by gradients; labelled training images.
    random_keys, test: how many random keys, and the images that keys are scored on.
    pgd_images, pgd_steps: of adversarial images. eot_keys, eot_steps: 30 and 20 are published.
    tune_steps, tune_batch: of fine-tuning. tune_images: how many labelled images the thief has.
    positions, ordered_images: of seriation. slope_images: whose positions are given two values.
    """

    rounds: int = 10
    batch: int = 128
    large: int = 512
    starts: int = 4
    loss_starts: int = 8
    relaxed_images: int = 2000
    relaxed_steps: int = 150
    random_keys: int = 1000
    test: int = 1000
    pgd_images: int = 1000
    pgd_steps: int = 50
    eot_keys: int = 30
    eot_steps: int = 20
    tune_steps: int = 300
    tune_batch: int = 100
    tune_images: tuple[int, ...] = (100, 500, 1000, 5000)
    positions: int = 12
    ordered_images: int = 2
    slope_images: int = 64


@functools.cache
def archives(runs: Path) -> dict[str, Path]:
    """Which archive in a folder has a network, as `benchmarks.accuracy.grid --bundle` writes them."""
    return {
        name: path
        for path in sorted(runs.glob("weights-*.pt"))
        for name in torch.load(path, map_location="cpu", weights_only=True)
    }


class Network:
    """A trained network as attackers meet it: encrypted images, bytes or floats in [0, 1], to logits.

    Networks that look values up take bytes only.
    """

    def __init__(self, run: fast.Run) -> None:
        self.run, self.config = run, run.config
        self.model = run.model.eval().requires_grad_(False)

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        if self.config.stem != "embedding":
            y = y if y.is_floating_point() else y.float() / 255
            y = ((y - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        with self.run.autocast():
            return self.model(y).float()  # type: ignore[no-any-return]


class Target:
    """A network of the grid, the images that its attacker has, and what the attack is scored by.

    Of the test images the attacker has the first `sizes.large`; the scores are of those behind them.
    bf16: whether networks compute in bfloat16, also where a thief trains them.
    """

    def __init__(
        self,
        name: str,
        runs: Path,
        results: Path,
        found: data.Data,
        sizes: Sizes,
        device: torch.device,
        stop: Callable[[], bool],
        bf16: bool = False,
    ) -> None:
        self.name, self.runs, self.results, self.found = name, runs, results, found
        self.sizes, self.device, self.stop, self.bf16 = sizes, device, stop, bf16
        self.key = key_set(0)

    @functools.cached_property
    def network(self) -> Network:
        return self.other(self.name)

    def asked(self, y: torch.Tensor) -> torch.Tensor:
        """What the network answers. Raises Stopped once time is up."""
        if self.stop():
            raise Stopped
        return self.network(y)

    def other(self, name: str) -> Network:
        """The network of another row."""
        if (self.runs / name / "result.json").exists():
            run = fast_evaluate.load(self.runs / name, self.found, self.device)
        else:
            run = restored(archives(self.runs)[name], self.found, self.device)[name]
        run.bf16 = self.bf16
        return Network(run)

    @functools.cached_property
    def scheme(self) -> Scheme:
        config = self.network.config
        return Scheme(config.block_size, config.step_list)

    def cipher(self, key: KeySet | None = None) -> Cipher:
        return Cipher(key or self.key, self.scheme, gradient="straight-through")

    def images(self, first: int, count: int) -> Labelled:
        """Test images, uint8 [N, C, H, W], and their labels, on the device."""
        test = self.found.test
        assert isinstance(test, data.Part)
        x, y = test.x[first : first + count], test.y[first : first + count]
        return x.permute(0, 3, 1, 2).contiguous().to(self.device), y.to(self.device)

    def encrypted(self, count: int) -> torch.Tensor:
        """The first test images, encrypted by the owner."""
        return Cipher(self.key, self.scheme).encrypt(self.images(0, count)[0])

    @functools.cached_property
    def test(self) -> Labelled:
        """What the attacker has not seen."""
        return self.images(self.sizes.large, self.sizes.test)
