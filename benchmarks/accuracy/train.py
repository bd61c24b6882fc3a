"""Train a classifier on plain or encrypted images: python -m benchmarks.accuracy.train --out DIR [options]

Encryption runs inside the loop, on the augmented uint8 batch, with the normalisation fused into it. DIR gets
result.json (the configuration, what was measured, versions) and checkpoint.pt, written after every epoch; the
same command goes on where it stopped, and ends as if it had not been stopped. Under torchrun, every
process takes its share of each batch.

    python -m benchmarks.accuracy.train --dataset digits --out runs/digits
    python -m benchmarks.accuracy.train --dataset cifar10 --data DIR --steps shuffle,np,ffx --out runs/a
    torchrun --nproc-per-node 8 -m benchmarks.accuracy.train --dataset folder --data DIR --model resnet50 ...
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.accuracy import data, models
from blockenc.files import atomic_write

# Symmetric: 255 - v is then -z, as the negative of an image should be.
MEAN, STD = 0.5, 0.25
# Fixed and public, so that results can be repeated.
KEY_SEEDS = {"shuffle": 1, "np": 2, "ffx": 3, "scramble": 4, "rotate": 5, "colour": 6}
STARTS = ("plain", "protected")


@dataclass
class Config:
    """Everything a run depends on, but the machine."""

    dataset: str = "cifar10"
    model: str = "resnet-small"
    stem: str = "conv"
    width: int = 0
    depth: int = 0
    rank: int = 2
    learn_table: bool = True
    unfold: int = 1  # tokens a block, along each side
    init: str = "ramp"
    block_size: int = 4
    steps: str = ""  # comma-separated; empty: plain images
    profile: str = "byte"
    start: str = "plain"  # "protected": the initial model goes through blockenc.nn.protect
    epochs: int = 8
    batch: int = 256
    lr: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    warmup: float = 0.25  # of all steps
    amp: bool = False
    compile: bool = False
    image_size: int = 224  # of dataset "folder"
    seed: int = 0

    def cipher(self, key: blockenc.KeySet | None = None) -> blockenc.Cipher | None:
        """What encrypts, or None for plain images; under `key_set()` unless told."""
        if not self.steps:
            return None
        scheme = blockenc.Scheme(self.block_size, self.step_list, self.channels, self.profile)  # type: ignore[arg-type]
        return blockenc.Cipher(key or key_set(0), scheme)

    @property
    def step_list(self) -> tuple[str, ...]:
        return tuple(self.steps.split(",")) if self.steps else ()

    @property
    def channels(self) -> int:
        return 1 if self.dataset == "digits" else 3

    @property
    def decimal(self) -> bool:
        """Whether encrypted values go beyond a byte."""
        return self.profile == "decimal" and "ffx" in self.steps

    @property
    def has_table(self) -> bool:
        """Whether the model is given integers."""
        return self.stem == "embedding" or self.stem.startswith("lookup-")

    def prepare(self, x: torch.Tensor, cipher: blockenc.Cipher | None) -> torch.Tensor:
        """A uint8 batch as the model takes it: encrypted under a cipher, normalised unless looked up."""
        if self.has_table:
            if cipher is None:
                return x
            return cipher.encrypt(x, dtype=torch.uint16 if self.decimal else torch.uint8)
        mean, std = (MEAN,) * self.channels, (STD,) * self.channels
        if cipher is None:
            return (x.to(torch.float32) / 255 - MEAN) / STD
        return cipher.encrypt(x, dtype=torch.float32, mean=mean, std=std)


def key_set(seed: int, kinds: Iterable[str] = ("shuffle", "np", "ffx")) -> blockenc.KeySet:
    """Key set number `seed`: 0 is the right one of every experiment. kinds: of steps; each has a member."""
    ends = bytes([*seed.to_bytes(4, "big"), *range(27)])
    return blockenc.KeySet(**{kind: bytes([KEY_SEEDS[kind]]) + ends for kind in kinds})


def build(config: Config, found: data.Data) -> nn.Module:
    """The initial model of a run."""
    torch.manual_seed(config.seed)
    embedding: dict[str, Any] = {}
    if config.stem == "embedding":
        embedding = {"rank": config.rank or None, "init": config.init}
    elif config.has_table:
        embedding = {"rank": config.rank}
    if config.has_table and config.decimal and config.start == "plain":
        embedding["values"] = 1000
    model = models.make(
        config.model,
        config.stem,
        block_size=config.block_size,
        classes=found.classes,
        channels=found.channels,
        image_size=found.image_size,
        width=config.width,
        depth=config.depth,
        unfold=config.unfold,
        **embedding,
    )
    if config.stem == "embedding" and not config.learn_table:
        for module in model.modules():
            if isinstance(module, blockenc.nn.BlockEmbedding):
                module.table.requires_grad_(False)
    cipher = config.cipher()
    if config.start == "protected" and cipher is not None:
        norm = {"mean": (MEAN,) * found.channels, "std": (STD,) * found.channels}
        model = blockenc.nn.protect(model, cipher, **({} if config.has_table else norm))
    return model


@dataclass
class Place:
    """Where this process computes, and which of how many it is."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls, device: str | None) -> Place:
        """Joins the process group if torchrun started this process."""
        local = int(os.environ.get("LOCAL_RANK", 0))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        place = cls(torch.device(kind, local) if kind == "cuda" else torch.device(kind))
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
            place.rank, place.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return place

    def total(self, *numbers: float) -> list[float]:
        """The numbers summed over all processes."""
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        return sums.tolist()


@dataclass
class Run:
    """A model in training."""

    config: Config
    found: data.Data
    place: Place
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        c = self.config
        self.cipher = c.cipher()
        self.model = build(c, self.found).to(self.place.device, memory_format=torch.channels_last)
        self.step_model: nn.Module = self.model
        if self.place.world > 1:
            model = (
                nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
                if self.place.device.type == "cuda"
                else self.model
            )
            self.model = model
            self.step_model = nn.parallel.DistributedDataParallel(model)
        if c.compile:
            self.step_model = torch.compile(self.step_model)  # type: ignore[assignment]
        self.per_process = c.batch // self.place.world
        # Neither norms nor biases nor tables decay: pulling those to 0 means nothing.
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        decay = [p for name, p in named if p.dim() > 1 and not name.endswith("table")]
        rest = [p for name, p in named if p.dim() <= 1 or name.endswith("table")]
        groups = [{"params": decay, "weight_decay": c.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, c.lr, c.momentum, nesterov=True)
        self.steps = self.found.train.steps(self.per_process, self.place.world)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, c.lr, total_steps=c.epochs * self.steps, pct_start=c.warmup, cycle_momentum=False
        )
        self.epoch = 0
        self.record = {"config": dataclasses.asdict(c), "epochs": []}

    def autocast(self) -> Any:
        on = self.config.amp
        return torch.autocast(self.place.device.type, torch.bfloat16) if on else nullcontext()

    def train_epoch(self, advance: Any) -> None:
        """One epoch; appends its record. Times are this process's: wall and CPU seconds."""
        c, device = self.config, self.place.device
        self.model.train()
        losses: list[torch.Tensor] = []
        wall, cpu = time.perf_counter(), time.process_time()
        batches = self.found.train.batches(
            self.per_process, 1000 * c.seed + self.epoch, self.place.rank, self.place.world
        )
        for x, y in batches:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            x = c.prepare(x, self.cipher)
            with self.autocast():
                z = self.step_model(x).float()
            loss = functional.cross_entropy(z, y, label_smoothing=c.smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
            advance()
        means = [float(some.mean()) for some in torch.stack(losses).split(20)]  # waits for the device
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        total, number, wall, cpu = self.place.total(float(torch.stack(losses).sum()), len(losses), wall, cpu)
        self.record["epochs"].append(
            {
                "loss": total / number,
                "losses": [round(mean, 5) for mean in means],  # of every 20 steps, this process's
                "wall_seconds": wall / self.place.world,
                "cpu_seconds": cpu,
            }
        )
        self.epoch += 1

    def accuracy(self, cipher: blockenc.Cipher | None) -> float:
        return accuracy(self.model, self.config, self.found.test, cipher, self.place)

    def save(self, folder: Path) -> None:
        """checkpoint.pt and result.json, each replaced as a whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "record": self.record,
        }
        torch.save(state, folder / "checkpoint.new")
        os.replace(folder / "checkpoint.new", folder / "checkpoint.pt")
        atomic_write(folder / "result.json", (json.dumps(self.record, indent=1) + "\n").encode())

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint. Raises ValueError if it is of another configuration."""
        state = torch.load(path, map_location=self.place.device, weights_only=True)
        if state["record"]["config"] != self.record["config"]:
            raise ValueError(f"--out: {path} is of another configuration; choose another folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.record = state["epoch"], state["record"]


@torch.no_grad()
def accuracy(
    model: nn.Module,
    config: Config,
    test: data.Part | data.Folder,
    cipher: blockenc.Cipher | None,
    place: Place | None = None,
) -> float:
    """The share of test images classified rightly when `cipher` encrypts them."""
    place = place or Place(next(model.parameters()).device)
    model.eval()
    right = number = 0
    for x, y in test.batches(500, None, place.rank, place.world):
        x = config.prepare(x.to(place.device), cipher)
        with torch.autocast(place.device.type, torch.bfloat16, enabled=config.amp):
            z = model(x)
        right += int((z.argmax(1).cpu() == y).sum())
        number += len(y)
    right, number = (int(n) for n in place.total(right, number))
    return right / number


def environment(found: data.Data, place: Place) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    gpu = place.device.type == "cuda"
    return {
        "blockenc": blockenc.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "processes": place.world,
        "data": found.note,
        "train_images": len(found.train),
        "test_images": len(found.test),
    }


def train(
    config: Config,
    folder: Path,
    data_folder: Path | None = None,
    *,
    device: str | None = None,
    quiet: bool = False,
    download: bool = False,
    tensorboard: bool = False,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train, or go on training; returns what result.json holds. stop_after: leave after that epoch."""
    place = Place.here(device)
    found = data.load(config.dataset, data_folder, image_size=config.image_size, download=download)
    run = Run(config, found, place)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "checkpoint.pt").exists():
        run.load(folder / "checkpoint.pt")
    run.record["environment"] = environment(found, place)
    run.record["parameters"] = sum(p.numel() for p in run.model.parameters())
    writer = None
    if tensorboard and place.rank == 0:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet or place.rank > 0) as bar:
        task = bar.add_task("", total=config.epochs * run.steps, completed=run.epoch * run.steps)
        while run.epoch < min(config.epochs, stop_after or config.epochs):
            run.train_epoch(lambda: bar.advance(task))
            now = run.record["epochs"][-1]
            now["accuracy"] = run.accuracy(run.cipher)
            said = f"epoch {run.epoch}: loss {now['loss']:.3f}, accuracy {100 * now['accuracy']:.2f} %"
            bar.update(task, description=said)
            if place.rank == 0:
                if not bar.console.is_terminal and not quiet:
                    print(f"{said}, {now['cpu_seconds']:.0f} CPU s, {now['wall_seconds']:.0f} s", flush=True)
                run.save(folder)
            if writer:
                writer.add_scalar("loss", now["loss"], run.epoch)
                writer.add_scalar("accuracy", now["accuracy"], run.epoch)
    record = run.record
    if place.world > 1:
        del run  # the wrapped model uses the group's threads
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return record


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.train",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    found.add_argument("--out", type=Path, required=True, metavar="DIR")
    found.add_argument("--data", type=Path, metavar="DIR", help="where the data set is")
    found.add_argument("--download", action="store_true", help="let torchvision download CIFAR into --data")
    found.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    found.add_argument("--quiet", action="store_true", help="no progress bar")
    found.add_argument("--tensorboard", action="store_true")
    found.add_argument("--stop-after", type=int, metavar="EPOCHS", help="leave then; go on another time")
    choices = {
        "dataset": data.DATASETS,
        "model": models.MODELS,
        "stem": models.STEMS,
        "start": STARTS,
        "profile": ("byte", "decimal"),
        "init": ("ramp", "random"),
    }
    for f in dataclasses.fields(Config):
        name, default = "--" + f.name.replace("_", "-"), f.default
        if isinstance(default, bool):
            found.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
        else:
            found.add_argument(name, type=type(default), default=default, choices=choices.get(f.name))
    return found


def main() -> None:
    options = vars(parser().parse_args())
    config = Config(**{f.name: options.pop(f.name) for f in dataclasses.fields(Config)})
    train(config, options.pop("out"), options.pop("data"), **options)


if __name__ == "__main__":
    main()
