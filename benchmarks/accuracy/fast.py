"""CIFAR-10 at the papers' level in minutes: python -m benchmarks.accuracy.fast --data DIR --out RUN [options]

The ideas of the public speed records in plain torch, on a CPU or a GPU: a first layer that whitens what the
network sees, a start near the identity, Nesterov SGD with a triangular schedule, label smoothing, flips
that alternate, crops, and an average of the weights that the network is set back to (lookahead). Images
are augmented as uint8 and then encrypted, a batch in one call, with the normalisation in the same pass.

RUN gets checkpoint.pt every few minutes, and result.json at the end. The same command goes on where it was
stopped, at whichever step, and ends as if it had not been: to the bit on one machine with one number of
threads (on a GPU, cuDNN may add in another order). SIGINT and SIGTERM stop it with a checkpoint.

    python -m benchmarks.accuracy.fast --data DIR --out runs/plain
    python -m benchmarks.accuracy.fast --data DIR --out runs/a --steps shuffle,np,ffx --block-size 4
    python -m benchmarks.accuracy.fast --data DIR --out runs/le --preset LE
    python -m benchmarks.accuracy.fast --data DIR --out runs/vit --preset VIT --model vit
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import io
import json
import math
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.accuracy import data, fast_models, models
from benchmarks.accuracy.operations import operations
from benchmarks.accuracy.train import MEAN, STD, key_set
from blockenc.attacks.ciphertext_only import ciphertext_only
from blockenc.files import atomic_write
from blockenc.nn.embedding import ramp
from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES
from blockenc.schemes import PRESETS, named

ATTACKED_IMAGES = 5000
WHITENED_IMAGES = 5000  # the covariance of so many images is well known
VIEWS = ("one_view", "mirrored", "six_views")  # names of what Run.right counts
AVERAGES = 10  # moves of the average in an epoch, whatever the batch
# Where reduced images are no whole blocks, or have another key: fewer epochs, of as many operations in all.
WHOLE_SIZE: dict[str, Any] = {"small": 0.0, "epochs": 9.5}
# How networks other than FastNet are trained: longer, and on images of whole size.
LONGER: dict[str, Any] = {"stem": "block", "optimizer": "adamw", "momentum": 0.9, "smoothing": 0.1,
                          "epochs": 30.0, "small": 0.0}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "fastnet": {},
    "convmixer": {**LONGER, "model": "convmixer", "width": 256, "depth": 8, "lr": 0.02, "weight_decay": 0.02},
    "vit": {**LONGER, "model": "vit", "width": 192, "depth": 4, "lr": 0.002, "weight_decay": 0.1},
}
# Fields that are newer than the first results: results name them only where they say something.
LATER = ("preset", "model", "depth", "optimizer", "distilled", "curriculum")


@dataclass
class Config:
    """Everything a run depends on, but the data and the machine."""

    stem: str = "conv"
    block_size: int = 4
    steps: str = ""  # comma-separated; empty: plain images, unless there is a preset
    profile: str = "byte"
    # "protected": the key is folded into the stem before training. "recovered": so is what an attack finds,
    # without the key, from the encrypted training images (blockenc.attacks.ciphertext_only).
    start: str = "plain"
    learn_stem: bool = True  # stems "block" and "embedding"; the weights of "conv" are always frozen
    rank: int = 2
    init: str = "ramp"
    width: int = 64
    epochs: float = 12.0
    batch: int = 512
    lr: float = 1.5  # of batches of 1024; in proportion for others
    momentum: float = 0.85
    weight_decay: float = 1.33e-3
    bias_lr: float = 64.0  # times lr, for the biases of norms
    smoothing: float = 0.2
    distilled: float = 0.0  # share of the loss that a teacher gives, who sees the plain images
    curriculum: float = 0.0  # in this part of the training, the first, images are under ever more of `steps`
    pad: int = 2  # pixels; crops of the padded image are as large as it is
    stem_epochs: float = 3.0  # the bias of the stem "conv" learns so long
    small: float = 0.5  # in this part of all steps, the first, images are reduced to small_size
    small_size: int = 24  # pixels
    seed: int = 0
    preset: str = ""  # a name of blockenc.schemes, in the place of steps; its blocks are of block_size
    model: str = "fastnet"
    depth: int = 0  # layers of a model of patches; 0: its own
    optimizer: str = "sgd"  # "adamw": momentum is its beta_1

    def __post_init__(self) -> None:
        if self.preset:
            named(self.preset)  # raises where there is none
            for name in ("steps", "profile", "curriculum"):
                if getattr(self, name) != getattr(Config, name):
                    raise ValueError(f"--{name}: expected none beside --preset, got {getattr(self, name)!r}")
        if self.model in fast_models.OF_PATCHES and self.stem != "block":
            raise ValueError(f"--stem: expected block for the model {self.model}, got {self.stem}")
        if self.model in fast_models.OF_PATCHES and self.start not in ("plain", "protected"):
            wanted = f"plain or protected for the model {self.model}"
            raise ValueError(f"--start: expected {wanted}, got {self.start}")
        if self.model == "vit" and self.small:
            raise ValueError(f"--small: expected 0 for a vit, whose places are counted, got {self.small:g}")

    @property
    def step_list(self) -> tuple[str, ...]:
        return tuple(self.steps.split(",")) if self.steps else ()

    def scheme(self, channels: int = 3) -> blockenc.Scheme | None:
        """What is done to the images; None for plain ones."""
        if self.preset:
            # Of pixels, whatever the blocks of the stem are.
            block_size = None if self.preset == "PE" else self.block_size
            return named(self.preset, block_size, channels)
        if self.steps:
            return blockenc.Scheme(self.block_size, self.step_list, channels, self.profile)  # type: ignore[arg-type]
        return None

    def key(self, number: int = 0) -> blockenc.KeySet:
        """Key set of that number, with a member for each kind of step that there is."""
        scheme = self.scheme()
        return key_set(number, scheme.kinds) if scheme is not None and self.preset else key_set(number)

    def cipher(self, key: blockenc.KeySet | None = None, channels: int = 3) -> blockenc.Cipher | None:
        """What encrypts, under key set 0 unless told; None for plain images."""
        scheme = self.scheme(channels)
        return None if scheme is None else blockenc.Cipher(key or self.key(), scheme)

    def recorded(self) -> dict[str, Any]:
        """The fields as results keep them; `Config(**recorded)` is the same again."""
        fields = dataclasses.asdict(self)
        return {
            name: value
            for name, value in fields.items()
            if name not in LATER or value != getattr(Config, name)
        }

    def ciphers(self, channels: int = 3) -> list[blockenc.Cipher | None]:
        """Of a curriculum: none, then under the first step alone, the first two, and so on to all."""
        prefixes = [",".join(self.step_list[:n]) for n in range(len(self.step_list) + 1)]
        return [dataclasses.replace(self, steps=steps).cipher(channels=channels) for steps in prefixes]

    def prepare(self, x: torch.Tensor, cipher: blockenc.Cipher | None) -> torch.Tensor:
        """A uint8 batch as the network takes it: encrypted under a cipher; normalised unless looked up."""
        channels = x.shape[1]
        if self.stem == "embedding":
            decimal = cipher is not None and self.values == DECIMAL_VALUES
            return x if cipher is None else cipher.encrypt(x, dtype=torch.uint16 if decimal else torch.uint8)
        if cipher is None:
            return (x.to(torch.float32) / 255 - MEAN) / STD
        return cipher.encrypt(x, dtype=torch.float32, mean=(MEAN,) * channels, std=(STD,) * channels)

    @property
    def values(self) -> int:
        """How many values encrypted images have."""
        return DECIMAL_VALUES if self.profile == "decimal" and "ffx" in self.step_list else BYTE_VALUES

    def lr_at(self, part: float) -> float:
        """The learning rate of a batch after this part of the run: up from a fifth, and down again."""
        low, peak, last = 0.2, 0.23, 0.07
        height = low + (1 - low) * part / peak if part < peak else 1 - (1 - last) * (part - peak) / (1 - peak)
        return self.lr * self.batch / 1024 * height


class Augmented:
    """Training batches by number: crops of the padded images, each flipped in every second epoch.

    What is drawn depends on the seed and the epoch alone, so that a run can go on at any step.
    """

    def __init__(self, part: data.Part, config: Config, device: torch.device) -> None:
        self.x, self.y = part.x.to(device), part.y.to(device)
        self.config = config
        self.steps = len(part) // config.batch
        if not self.steps:
            raise ValueError(f"--batch: expected at most the {len(part)} training images, got {config.batch}")
        flips = torch.Generator().manual_seed(config.seed)
        self.first_flip = torch.randint(0, 2, (len(part),), generator=flips).bool()
        self.epoch = -1

    def _draw(self, epoch: int) -> None:
        n, pad = len(self.y), self.config.pad
        g = torch.Generator().manual_seed(1_000_003 * (self.config.seed + 1) + epoch)
        # Drawn by the CPU, so that a seed means the same everywhere, and moved once an epoch: a copy for each
        # batch would wait for a GPU.
        self.order = torch.randperm(n, generator=g).to(self.x.device)
        self.shift = torch.randint(-pad, pad + 1, (n, 2), generator=g).to(self.x.device)
        self.flip = (self.first_flip ^ bool(epoch % 2)).to(self.x.device)
        self.epoch = epoch

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, C, H, W] channels_last, and labels [B]."""
        epoch, n = divmod(step, self.steps)
        if epoch != self.epoch:
            self._draw(epoch)
        size = self.config.batch
        some = self.order[n * size : (n + 1) * size]
        _, h, w, _ = self.x.shape
        device = self.x.device
        rows = reflect(torch.arange(h, device=device) + self.shift[some, :1], h)
        columns = torch.arange(w, device=device).expand(size, w)
        columns = torch.where(self.flip[some, None], w - 1 - columns, columns)
        columns = reflect(columns + self.shift[some, 1:], w)
        x = self.x[some[:, None, None], rows[:, :, None], columns[:, None, :]]
        return x.permute(0, 3, 1, 2), self.y[some]


def reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Places beyond 0..size-1 as a mirror at the edge pixel shows them."""
    index = index.abs()
    return size - 1 - (size - 1 - index).abs()


def resized(x: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images [N, C, H, W] reduced to size x size pixels, uint8 again."""
    small = functional.interpolate(x.float(), (size, size), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 here; elsewhere it is emulated, ten times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has and has())


def of_patches(config: Config, found: data.Data) -> nn.Module:
    """The initial network of a run whose model is one of patches, which are the blocks."""
    model = models.make(
        config.model,
        config.stem,
        block_size=config.block_size,
        classes=found.classes,
        channels=found.channels,
        image_size=found.image_size,
        width=config.width,
        depth=config.depth,
    )
    cipher = config.cipher(channels=found.channels)
    if config.start == "protected" and cipher is not None:
        model = blockenc.protect(
            model,
            cipher,
            mean=(MEAN,) * found.channels,
            std=(STD,) * found.channels,
            positions="place" if config.model == "vit" else None,
            example=found.train.x[:2].permute(0, 3, 1, 2),  # type: ignore[union-attr]
        )
    if not config.learn_stem:
        model.stem.requires_grad_(False)
    return model


def build(config: Config, found: data.Data) -> nn.Module:
    """The initial network of a run."""
    torch.manual_seed(config.seed)
    if config.model in fast_models.OF_PATCHES:
        return of_patches(config, found)
    cipher = config.cipher(channels=found.channels)
    protected = config.start in ("protected", "recovered") and cipher is not None
    # `protect` makes of a table of bytes the one that decimal images need.
    values = BYTE_VALUES if protected else config.values
    stem = fast_models.make_stem(
        config.stem, config.block_size, found.channels, config.rank, config.init, values
    )
    model = fast_models.FastNet(
        stem, fast_models.whitening_width(found.channels), config.width, found.classes
    )
    if config.stem != "embedding" or config.init == "ramp":
        x = found.train.x[:WHITENED_IMAGES].permute(0, 3, 1, 2)  # type: ignore[union-attr]
        x = config.prepare(x, None if protected else cipher)
        if config.stem == "embedding":  # the first column of its table
            x = ramp(values, 1).squeeze(1)[x.long()]
        fast_models.whiten_(stem, fast_models.whitening(x))
    if protected and cipher is not None:
        if config.start == "recovered":
            cipher = recovered(cipher, found)
        norm = {"mean": (MEAN,) * found.channels, "std": (STD,) * found.channels}
        model = blockenc.protect(model, cipher, **({} if config.stem == "embedding" else norm))
    if not config.learn_stem:
        model.stem.requires_grad_(False)
    return model


def recovered(cipher: blockenc.Cipher, found: data.Data) -> blockenc.Cipher:
    """What an attacker without the key takes for the transform.

    The attacker has encrypted training images, and two photos that have nothing to do with them: those of
    scikit-learn, at half their size.
    """
    from sklearn.datasets import load_sample_images

    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    b = cipher.scheme.block_size
    h, w = (size // 2 // b * b for size in photos.shape[2:])
    photos = functional.interpolate(photos.float(), (h, w), mode="bilinear", antialias=True)
    encrypted = cipher.encrypt(found.train.x[:ATTACKED_IMAGES].permute(0, 3, 1, 2))  # type: ignore[union-attr]
    attack = ciphertext_only(cipher.scheme, encrypted, photos.round().to(torch.uint8))
    assert isinstance(attack.recovered, blockenc.Cipher)
    return attack.recovered


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop; what was done is on disk, and the same call goes on."""


def optimizer_of(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Groups of parameters have a scale: their learning rate is so many times the one of a step."""
    biases = [m.bias for m in model.modules() if isinstance(m, fast_models.Norm)]
    tables = [p for name, p in model.named_parameters() if name.endswith("table")]
    special = {id(p) for p in biases + tables}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in special]
    as_they_are = [p for p in tables if p.requires_grad]
    if config.model in fast_models.OF_PATCHES:  # whose norms have gains: neither those nor biases decay
        as_they_are += [p for p in rest if p.dim() < 2]
        rest = [p for p in rest if p.dim() > 1]
    decay = config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": rest, "weight_decay": decay, "scale": 1.0},
        # Biases learn fast, and are pulled to 0 no faster than weights are.
        {"params": biases, "weight_decay": decay / config.bias_lr, "scale": config.bias_lr},
        {"params": as_they_are, "weight_decay": 0.0, "scale": 1.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, (config.momentum, 0.999))
    return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=True)


class Run:
    """A network in training; `step` steps of `total` are done.

    model: what to train instead of the initial network of the configuration; not copied.
    teacher: a network for plain images, where the configuration's `distilled` is not 0. Its operations are
    not counted among those of the training.
    """

    def __init__(
        self,
        config: Config,
        found: data.Data,
        device: torch.device,
        bf16: bool,
        model: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        if config.small and config.small_size % config.block_size:
            wanted = f"a multiple of the block size {config.block_size}"
            raise ValueError(f"--small-size: expected {wanted}, got {config.small_size}")
        scheme = config.scheme(found.channels)
        if config.small and scheme is not None and scheme.depends_on_size:
            wanted = f"0, since {config.preset} has another key for each size of images"
            raise ValueError(f"--small: expected {wanted}, got {config.small:g}")
        self.config, self.found, self.device, self.bf16 = config, found, device, bf16
        self.cipher = config.cipher(channels=found.channels)
        self.ciphers = config.ciphers(found.channels) if config.curriculum else [self.cipher]
        self.teacher = (
            None if teacher is None else teacher.eval().to(device, memory_format=torch.channels_last)
        )
        model = build(config, found) if model is None else model
        self.model = model.to(device, memory_format=torch.channels_last)
        self.stream = Augmented(found.train, config, device)  # type: ignore[arg-type]
        self.total = max(round(config.epochs * self.stream.steps), 1)
        self.step = 0
        self.average_steps = max(round(self.stream.steps / AVERAGES), 1)
        self.optimizer = optimizer_of(self.model, config)
        self.slow = [t.clone() for t in self.averaged()]
        self.losses: list[torch.Tensor] = []
        self.record: dict[str, Any] = {
            "config": config.recorded(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "flops": self.flops(),
            "precision": "bfloat16" if bf16 else "float32",
            "losses": [],  # means of ten steps
            "epochs": [],
            "seconds": 0.0,
            "cpu_seconds": 0.0,
            "sessions": 0,
        }

    def averaged(self) -> list[torch.Tensor]:
        """What the lookahead averages: the weights and the running statistics."""
        return [t for t in self.model.state_dict().values() if t.is_floating_point()]

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def size_at(self, step: int) -> int:
        """Pixels along the sides of the images of a step."""
        return self.config.small_size if step < self.config.small * self.total else self.found.image_size

    def cipher_at(self, step: int) -> blockenc.Cipher | None:
        """What encrypts the images of a step of training."""
        stages = len(self.ciphers) - 1
        part = step / self.total
        if part >= self.config.curriculum:
            return self.ciphers[-1]
        return self.ciphers[int(stages * part / self.config.curriculum)]

    def stem_learns_at(self, step: int) -> bool:
        return self.config.stem != "conv" or step < self.config.stem_epochs * self.stream.steps

    def flops(self) -> int:
        """Floating-point operations of the whole training: products and sums of layers, forward and backward.

        Counted by torch on two images for each kind of step. Norms, activations, the optimizer and the
        encryption, which multiplies nothing, are not counted.
        """
        kinds: dict[tuple[int, bool], int] = {}
        for step in range(self.total):
            kind = (self.size_at(step), self.stem_learns_at(step))
            kinds[kind] = kinds.get(kind, 0) + 1
        saved = {name: t.clone() for name, t in self.model.state_dict().items()}
        count = 0
        for (size, learns), steps in kinds.items():
            self._let_stem_learn(learns)
            x = torch.zeros(2, self.found.channels, size, size, dtype=torch.uint8, device=self.device)
            found = operations(self.model.train(), self.config.prepare(x, None))
            count += steps * found * self.config.batch // 2
        self._let_stem_learn(True)
        self.optimizer.zero_grad()
        self.model.load_state_dict(saved)
        return count

    def _let_stem_learn(self, learns: bool) -> None:
        if self.config.stem == "conv":
            self.model.stem.bias.requires_grad_(learns)

    def train_step(self) -> None:
        part = self.step / self.total
        for g in self.optimizer.param_groups:
            g["lr"] = self.config.lr_at(part) * g["scale"]
        self._let_stem_learn(self.stem_learns_at(self.step))
        if bool(self.config.distilled) != (self.teacher is not None):
            raise ValueError(
                "--teacher: expected one where --distilled is not 0, and else none, got "
                f"{'none' if self.teacher is None else 'one'} with {self.config.distilled:g}"
            )
        x, y = self.stream.batch(self.step)
        if self.size_at(self.step) != x.shape[-1]:
            x = resized(x, self.size_at(self.step))
        taught = self.taught(x)
        x = self.config.prepare(x, self.cipher_at(self.step))
        self.model.train()
        with self.autocast():
            z = self.model(x).float()
        loss = self.loss(z, y)
        if taught is not None:
            share = self.config.distilled
            loss = (1 - share) * loss + share * functional.cross_entropy(z, taught)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.step += 1
        if self.step % self.average_steps == 0 or self.step == self.total:
            self._look_ahead()
        if self.step % 10 == 0 or self.step == self.total:
            self.record["losses"].append(round(float(torch.stack(self.losses).mean()), 5))
            self.losses = []

    @torch.no_grad()
    def taught(self, x: torch.Tensor) -> torch.Tensor | None:
        """The teacher's probabilities for plain uint8 images."""
        if self.teacher is None:
            return None
        with self.autocast():
            z = self.teacher((x.to(torch.float32) / 255 - MEAN) / STD)
        return z.float().softmax(1)

    def loss(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of logits and labels."""
        return functional.cross_entropy(z, y, label_smoothing=self.config.smoothing)

    @torch.no_grad()
    def _look_ahead(self) -> None:
        """Move the average to the weights, less and less so, and the weights back to the average."""
        last = self.step == self.total
        keep = 1.0 if last else 0.95**5 * (self.step / self.total) ** 3
        fast = self.averaged()
        torch._foreach_lerp_(self.slow, fast, 1 - keep)
        torch._foreach_copy_(fast, self.slow)

    @torch.no_grad()
    def views(self, x: torch.Tensor, cipher: blockenc.Cipher | None, number: int) -> Iterator[torch.Tensor]:
        """Logits of 1, 2 or 6 views of uint8 images: as they are; mirrored; both moved by a pixel each way.

        Views are made of the plain images and then encrypted, as only those can who hold the key.
        """
        self.model.eval()
        h, w = x.shape[2:]
        for move in (0, -1, 1)[: 1 if number <= 2 else 3]:
            rows, columns = (reflect(torch.arange(n, device=x.device) + move, n) for n in (h, w))
            for order in (columns, columns.flip(0))[:number]:
                view = x[:, :, rows][:, :, :, order].contiguous(memory_format=torch.channels_last)
                with self.autocast():
                    yield self.model(self.config.prepare(view, cipher)).float()

    def right(self, test: data.Part, cipher: blockenc.Cipher | None, views: int = 1) -> list[int]:
        """How many test images are classified rightly, seen in 1, 2 and 6 views, as far as `views` goes."""
        found = [0] * {1: 1, 2: 2, 6: 3}[views]
        for x, y in test.batches(500, None):
            z = list(self.views(x.to(self.device), cipher, views))
            means = [z[0], sum(z[:2]), sum(z[:2]) / 2 + sum(z[2:]) / 4][: len(found)]
            for n, mean in enumerate(means):
                found[n] += int((mean.argmax(1).cpu() == y).sum())  # type: ignore[union-attr]
        return found

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "slow": self.slow,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "record": self.record,
        }
        file = io.BytesIO()
        torch.save(state, file)
        atomic_write(path, file.getvalue())

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, in its precision. Raises ValueError if it is of another configuration."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name in ("config", "flops"):  # flops: of other data, or another network
            if state["record"][name] != self.record[name]:
                raise ValueError(f"--out: {path} is of another {name}; choose another folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.slow, self.losses, self.record = state["slow"], state["losses"], state["record"]
        self.step = state["step"]
        self.bf16 = self.record["precision"] == "bfloat16"


def environment(found: data.Data, device: torch.device) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((row.split(":", 1)[1].strip() for row in info.read_text().splitlines()
                      if row.startswith("model name")), model)  # fmt: skip
    return {
        "blockenc": blockenc.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "data": found.note,
        "train_images": len(found.train),
        "test_images": len(found.test),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def train(
    config: Config,
    folder: Path,
    found: data.Data,
    *,
    device: torch.device | None = None,
    precision: str = "auto",
    model: nn.Module | None = None,
    teacher: nn.Module | None = None,
    kind: type[Run] = Run,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 180,
    say: Callable[[str], None] = print,
) -> Run:
    """Train, or go on training; result.json is written when it is done.

    precision: "float32", "bfloat16" or "auto": bfloat16 where the device has it. A checkpoint keeps its own.
    model: trained instead of the initial network of the configuration. teacher: see `Run`.
    kind: what trains it, for another loss.
    stop: asked after every step; raises Stopped, with a checkpoint, once it says so.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = native_bf16(device) if precision == "auto" else precision == "bfloat16"
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    run = kind(config, found, device, bf16, model, teacher)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    if path.exists():
        run.load(path)
    r = run.record
    if run.step == run.total:
        return run
    r["sessions"] += 1
    began = run.step
    start = last_save = last_word = time.monotonic()
    wall, cpu = r["seconds"] - start, r["cpu_seconds"] - time.process_time()
    say(f"{r['flops']:.3g} floating-point operations, {r['parameters']} parameters, {r['precision']}, "
        f"step {run.step} of {run.total}")  # fmt: skip
    while run.step < run.total:
        run.train_step()
        now = time.monotonic()
        if run.step % run.stream.steps == 0 or run.step == run.total:
            some = found.test.some(1000)
            right = run.right(some, run.cipher)[0] / len(some)  # type: ignore[arg-type]
            r["epochs"].append({"step": run.step, "accuracy_some_images": right})
            say(f"step {run.step}: accuracy {100 * right:.1f} % of {len(some)} test images")
        r["seconds"], r["cpu_seconds"] = wall + now, cpu + time.process_time()
        stopping = run.step < run.total and stop()
        if stopping or run.step == run.total or now - last_save > checkpoint_seconds:
            run.save(path)
            last_save = now
        if stopping:
            say(f"stopped at step {run.step} of {run.total}")
            raise Stopped
        if now - last_word > 60:
            last_word = now
            left = (now - start) / (run.step - began) * (run.total - run.step)
            loss = r["losses"][-1] if r["losses"] else math.nan
            say(f"step {run.step} of {run.total}, loss {loss:.3f}, {left / 60:.0f} minutes left")
    result = {**r, "environment": environment(found, device)}
    atomic_write(folder / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    return run


def stop_on_signals() -> Callable[[], bool]:
    """Whether SIGINT or SIGTERM came, from now on; a second one ends the process at once."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return lambda: bool(came)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fast",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    found.add_argument("--out", type=Path, required=True, metavar="RUN")
    found.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    found.add_argument("--teacher", type=Path, metavar="RUN", help="a run on plain images, for --distilled")
    found.add_argument("--train-images", type=int, metavar="N", help="only the first N, for a trial")
    found.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    found.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    choices = {
        "stem": fast_models.STEMS,
        "start": ("plain", "protected", "recovered"),
        "profile": ("byte", "decimal"),
        "init": ("ramp", "random"),
        "preset": ("", *PRESETS),
        "model": fast_models.MODELS,
        "optimizer": ("sgd", "adamw"),
    }
    for f in dataclasses.fields(Config):
        name = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            found.add_argument(name, action=argparse.BooleanOptionalAction, default=f.default)
        else:
            found.add_argument(name, type=type(f.default), default=f.default, choices=choices.get(f.name))
    return found


def main() -> None:
    options = parser()
    options.set_defaults(**RECIPES[options.parse_known_args()[0].model])
    o = vars(options.parse_args())
    config = Config(**{f.name: o.pop(f.name) for f in dataclasses.fields(Config)})
    found = data.load("cifar10", o["data"])
    found.train = found.train.some(o["train_images"] or len(found.train))
    teacher = None
    if o["teacher"]:
        from benchmarks.accuracy.fast_evaluate import load  # which knows of runs, and so imports this file

        teacher = load(o["teacher"], found, torch.device("cpu")).model
    try:
        run = train(config, o["out"], found, device=o["device"], precision=o["precision"], teacher=teacher,
                    stop=stop_on_signals(), say=lambda said: print(said, flush=True))  # fmt: skip
    except Stopped:
        return
    one, two, six = (n / len(found.test) for n in run.right(found.test, run.cipher, 6))  # type: ignore[arg-type]
    print(f"test accuracy {100 * one:.2f} %, mirrored {100 * two:.2f} %, six views {100 * six:.2f} %")


if __name__ == "__main__":
    main()
