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

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import blockenc
from benchmarks.accuracy import data, fast_models
from benchmarks.accuracy.train import MEAN, STD, key_set
from blockenc.files import atomic_write
from blockenc.nn.embedding import ramp
from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES

WHITENED_IMAGES = 5000  # the covariance of so many images is well known
AVERAGES = 10  # moves of the average in an epoch, whatever the batch


@dataclass
class Config:
    """Everything a run depends on, but the data and the machine."""

    stem: str = "conv"
    block_size: int = 4
    steps: str = ""  # comma-separated; empty: plain images
    profile: str = "byte"
    start: str = "plain"  # "protected": the key is folded into the stem before training
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
    pad: int = 2  # pixels; crops of the padded image are as large as it is
    stem_epochs: float = 3.0  # the bias of the stem "conv" learns so long
    small: float = 0.5  # in this part of all steps, the first, images are reduced to small_size
    small_size: int = 24  # pixels
    seed: int = 0

    @property
    def step_list(self) -> tuple[str, ...]:
        return tuple(self.steps.split(",")) if self.steps else ()

    def cipher(self, key: blockenc.KeySet | None = None, channels: int = 3) -> blockenc.Cipher | None:
        """What encrypts, under key set 0 unless told; None for plain images."""
        if not self.steps:
            return None
        scheme = blockenc.Scheme(self.block_size, self.step_list, channels, self.profile)  # type: ignore[arg-type]
        return blockenc.Cipher(key or key_set(0), scheme)

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


def build(config: Config, found: data.Data) -> nn.Module:
    """The initial network of a run."""
    torch.manual_seed(config.seed)
    cipher = config.cipher(channels=found.channels)
    protected = config.start == "protected" and cipher is not None
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
        norm = {"mean": (MEAN,) * found.channels, "std": (STD,) * found.channels}
        model = blockenc.protect(model, cipher, **({} if config.stem == "embedding" else norm))
    if not config.learn_stem:
        model.stem.requires_grad_(False)
    return model


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop; what was done is on disk, and the same call goes on."""


class Run:
    """A network in training; `step` steps of `total` are done.

    model: what to train instead of the initial network of the configuration; not copied.
    """

    def __init__(
        self,
        config: Config,
        found: data.Data,
        device: torch.device,
        bf16: bool,
        model: nn.Module | None = None,
    ) -> None:
        if config.small and config.small_size % config.block_size:
            wanted = f"a multiple of the block size {config.block_size}"
            raise ValueError(f"--small-size: expected {wanted}, got {config.small_size}")
        self.config, self.found, self.device, self.bf16 = config, found, device, bf16
        self.cipher = config.cipher(channels=found.channels)
        model = build(config, found) if model is None else model
        self.model = model.to(device, memory_format=torch.channels_last)
        self.stream = Augmented(found.train, config, device)  # type: ignore[arg-type]
        self.total = max(round(config.epochs * self.stream.steps), 1)
        self.step = 0
        self.average_steps = max(round(self.stream.steps / AVERAGES), 1)
        biases = [m.bias for m in self.model.modules() if isinstance(m, fast_models.Norm)]
        tables = [p for name, p in self.model.named_parameters() if name.endswith("table")]
        special = {id(p) for p in biases + tables}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in special]
        decay = config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": rest, "weight_decay": decay, "scale": 1.0},
            # Biases learn fast, and are pulled to 0 no faster than weights are.
            {"params": biases, "weight_decay": decay / config.bias_lr, "scale": config.bias_lr},
            {"params": [p for p in tables if p.requires_grad], "weight_decay": 0.0, "scale": 1.0},
        ]
        self.optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]], config.lr, config.momentum, nesterov=True
        )
        self.slow = [t.clone() for t in self.averaged()]
        self.losses: list[torch.Tensor] = []
        self.record: dict[str, Any] = {
            "config": dataclasses.asdict(config),
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
            with FlopCounterMode(display=False) as counter:
                self.model.train()(self.config.prepare(x, None)).sum().backward()
            count += steps * counter.get_total_flops() * self.config.batch // 2
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
        x, y = self.stream.batch(self.step)
        if self.size_at(self.step) != x.shape[-1]:
            x = resized(x, self.size_at(self.step))
        x = self.config.prepare(x, self.cipher)
        self.model.train()
        with self.autocast():
            z = self.model(x).float()
        loss = self.loss(z, y)
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
    kind: type[Run] = Run,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 180,
    say: Callable[[str], None] = print,
) -> Run:
    """Train, or go on training; result.json is written when it is done.

    precision: "float32", "bfloat16" or "auto": bfloat16 where the device has it. A checkpoint keeps its own.
    model: trained instead of the initial network of the configuration.
    kind: what trains it, for another loss.
    stop: asked after every step; raises Stopped, with a checkpoint, once it says so.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = native_bf16(device) if precision == "auto" else precision == "bfloat16"
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    run = kind(config, found, device, bf16, model)
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
    found.add_argument("--train-images", type=int, metavar="N", help="only the first N, for a trial")
    found.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    found.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    choices = {
        "stem": fast_models.STEMS,
        "start": ("plain", "protected"),
        "profile": ("byte", "decimal"),
        "init": ("ramp", "random"),
    }
    for f in dataclasses.fields(Config):
        name = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            found.add_argument(name, action=argparse.BooleanOptionalAction, default=f.default)
        else:
            found.add_argument(name, type=type(f.default), default=f.default, choices=choices.get(f.name))
    return found


def main() -> None:
    o = vars(parser().parse_args())
    config = Config(**{f.name: o.pop(f.name) for f in dataclasses.fields(Config)})
    found = data.load("cifar10", o["data"])
    found.train = found.train.some(o["train_images"] or len(found.train))
    try:
        run = train(config, o["out"], found, device=o["device"], precision=o["precision"],
                    stop=stop_on_signals(), say=lambda said: print(said, flush=True))  # fmt: skip
    except Stopped:
        return
    one, two, six = (n / len(found.test) for n in run.right(found.test, run.cipher, 6))  # type: ignore[arg-type]
    print(f"test accuracy {100 * one:.2f} %, mirrored {100 * two:.2f} %, six views {100 * six:.2f} %")


if __name__ == "__main__":
    main()
