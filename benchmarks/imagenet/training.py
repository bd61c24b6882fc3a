"""One row trained and evaluated, by one process or several, and gone on with where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

import blockenc
from benchmarks.accuracy.fast import Stopped
from benchmarks.accuracy.train import Place, key_set
from benchmarks.imagenet import models
from benchmarks.imagenet.images import Images, seed_of
from benchmarks.imagenet.settings import Config, prepare
from benchmarks.speed.report import about
from blockenc.cipher import AnyKey
from blockenc.files import atomic_write


class Run:
    """A network in training. Checkpoints hold the key's fingerprint, and nothing else of it."""

    def __init__(
        self, config: Config, images: Images, key: AnyKey | None, place: Place, folder: Path
    ) -> None:
        self.config, self.images, self.place = config, images, place
        self.cipher = config.cipher(key)
        self.folder, self.path = folder, folder / "checkpoint.pt"
        self.cuda = place.device.type == "cuda"
        # Of its own, on the CPU, so that asking whether to stop does not wait for the GPU.
        self.asking = dist.new_group(backend="gloo") if place.world > 1 else None
        for batch in config.batches:
            images.steps(batch)
        self.model = models.build(config.arch, len(images.train.classes), config.seed)
        self.record: dict[str, Any] = {
            "config": json.loads(json.dumps(dataclasses.asdict(config))),
            "key": None if self.cipher is None or key is None else key.fingerprint,
            "processes": [],
            "epochs": [],
        }
        self.epoch = self.step = 0
        self.lost = torch.zeros((), dtype=torch.float64, device=place.device)
        goes_on = self.path.exists()
        if not goes_on and place.rank == 0:  # the others get them from here
            self.record["random"] = models.load_weights(self.model, config.arch, config.weights)
        layout = torch.channels_last if self.cuda else torch.contiguous_format
        self.model.to(place.device, memory_format=layout)
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        rest = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [
            {"params": decay, "weight_decay": config.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, config.lr, config.momentum, nesterov=True)
        if goes_on:
            self._load()
        self.record["processes"].append(place.world)
        self.step_model: nn.Module = self.model
        if place.world > 1:
            devices = [place.device.index] if self.cuda else None
            self.step_model = nn.parallel.DistributedDataParallel(self.model, devices)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext()

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag whether it is set in any process."""
        found = torch.tensor(flags, dtype=torch.int32)
        if self.asking is not None:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.asking)
        return [bool(flag) for flag in found.tolist()]

    def train_step(self, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
        c, device = self.config, self.place.device
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr_at(self.epoch + (self.step + 1) / steps)
        # For networks with dropout: a draw of each step and process, the same after an interruption.
        torch.manual_seed(seed_of(c.seed, self.epoch, self.step, self.place.rank))
        x = prepare(x.to(device, non_blocking=True), self.cipher)
        with self.autocast():
            z = self.step_model(x)
        loss = functional.cross_entropy(z.float(), y.to(device, non_blocking=True))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.lost += loss.detach()
        self.step += 1

    def train(
        self,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        checkpoint_seconds: float,
        say_seconds: float,
    ) -> None:
        """All epochs that are left. Raises Stopped, with a checkpoint, once `stop` says so in any process."""
        c = self.config
        last_save = last_word = time.monotonic()
        while self.epoch < c.ends[-1]:
            phase = c.phase(self.epoch)
            batch, size = c.batches[phase], c.sizes[phase]
            steps = self.images.steps(batch)
            self.step_model.train()
            began, first = time.monotonic(), self.step
            for x, y in self.images.batches(batch, size, c.seed, self.epoch, self.step):
                self.train_step(x, y, steps)
                now = time.monotonic()
                stopping, saving = self.any(stop(), now - last_save > checkpoint_seconds)
                if stopping or saving or self.step == steps:
                    self.save()
                    last_save = now
                if stopping:
                    say(f"stopped at step {self.step} of {steps} of epoch {self.epoch + 1}")
                    raise Stopped
                if now - last_word > say_seconds:
                    last_word = now
                    rate = (self.step - first) * batch / (now - began)
                    say(f"epoch {self.epoch + 1}, {size} pixels, step {self.step} of {steps}, "
                        f"{rate:.0f} images a second")  # fmt: skip
            (lost,) = self.place.total(float(self.lost))
            rate = (steps - first) * batch / (time.monotonic() - began)
            right = self.accuracy(self.cipher, size)
            row = {"size": size, "loss": lost / steps / self.place.world, "accuracy": right,
                   "images_a_second": rate}  # fmt: skip
            self.record["epochs"].append(row)
            self.epoch, self.step = self.epoch + 1, 0
            self.lost.zero_()
            say(f"epoch {self.epoch} of {c.ends[-1]}, {size} pixels: loss {row['loss']:.4f}, "
                f"accuracy {100 * right:.2f} %, {rate:.0f} images a second")  # fmt: skip
            self.save()
            last_save = time.monotonic()

    @torch.no_grad()
    def accuracy(self, cipher: blockenc.Cipher | None, size: int, number: int | None = None) -> float:
        """The share of test images classified rightly, top 1, under a cipher or plain."""
        if self.place.world > 1:
            for buffer in self.model.buffers():  # statistics of the first process, as saved
                dist.broadcast(buffer, 0)
        self.model.eval()
        right = count = 0
        for x, y in self.images.tests(size, number):
            with self.autocast():
                z = self.model(prepare(x.to(self.place.device, non_blocking=True), cipher))
            right += int((z.argmax(1).cpu() == y).sum())
            count += len(y)
        right, count = (int(n) for n in self.place.total(right, count))
        return right / count

    def evaluate(self, keys: int, number: int, say: Callable[[str], None]) -> None:
        """What the network is worth with the right key, with wrong ones and on plain images."""
        size = self.config.sizes[-1]
        found: dict[str, Any] = {"size": size, "images": len(self.images.val)}
        if self.cipher is None:
            found["plain"] = self.accuracy(None, size)
        else:
            found["right_key"] = self.accuracy(self.cipher, size)
            found["plain"] = self.accuracy(None, size)
            found["wrong_keys_images"] = min(number, len(self.images.val))
            found["wrong_keys"] = [
                self.accuracy(self.config.cipher(key_set(n)), size, number) for n in range(1, keys + 1)
            ]
        self.record["evaluation"] = found
        self.record["about"] = about("python -m benchmarks.imagenet", torch.get_num_threads())
        self.record["about"]["device"] = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.save()
        say(
            "; ".join(f"{name} {100 * found[name]:.2f} %" for name in ("right_key", "plain") if name in found)
        )

    def save(self) -> None:
        """checkpoint.pt and result.json, each replaced as a whole, by the first process."""
        (lost,) = self.place.total(float(self.lost))
        if self.place.rank == 0:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "lost": lost,
                "record": self.record,
            }
            new = self.path.with_suffix(".new")
            with new.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
            atomic_write(self.folder / "result.json", (json.dumps(self.record, indent=1) + "\n").encode())
        if self.asking is not None:
            dist.barrier(group=self.asking)

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.place.device, weights_only=True)
        for name in ("config", "key"):
            if state["record"][name] != self.record[name]:
                raise ValueError(f"--out: {self.path} is of another {name}; choose another folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.record = state["epoch"], state["step"], state["record"]
        if self.place.rank == 0:
            self.lost += state["lost"]
