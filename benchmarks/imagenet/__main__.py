"""ImageNet, plain and encrypted: torchrun --nproc-per-node 8 -m benchmarks.imagenet --data IMAGENET ...

The published setting (arXiv 2010.00801): a pre-trained ResNet-50, 15 epochs of growing images, M = 4. Trains
and evaluates the rows --steps one after the other, each in a folder of --out: checkpoint.pt and result.json.
After SIGTERM or SIGINT it stops with a checkpoint, in the middle of an epoch where it must. The same command
goes on there, and leaves out rows that are done. In one process: python -m benchmarks.imagenet ...

    blockenc keygen key
    torchrun --nproc-per-node 8 -m benchmarks.imagenet --data IMAGENET --key-file key \\
        --password-file password --out RUN
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.accuracy.fast import Stopped, stop_on_signals
from benchmarks.accuracy.train import Place
from benchmarks.imagenet.images import Images
from benchmarks.imagenet.settings import PLAIN, ROWS, Config
from benchmarks.imagenet.training import Run
from blockenc.keys import load_key


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    found.add_argument("--data", type=Path, required=True, metavar="IMAGENET", help="has train and val")
    found.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="a folder for checkpoints and results"
    )
    found.add_argument("--key-file", type=Path, metavar="FILE", help="a key file of blockenc keygen")
    found.add_argument("--password-file", type=Path, metavar="FILE", help="its password, in the first line")
    found.add_argument("--steps", nargs="+", default=ROWS, metavar="ROW",
                       help=f"{PLAIN}, or steps with commas (default: {' '.join(ROWS)})")  # fmt: skip
    found.add_argument(
        "--weights", default=Config.weights, help="a file, torchvision's name, or none (default %(default)s)"
    )
    found.add_argument("--arch", default=Config.arch, help="a network of torchvision (default %(default)s)")
    for name, what in (
        ("sizes", "pixels"),
        ("epochs", "epochs"),
        ("batches", "images of all processes' batches"),
    ):
        found.add_argument(f"--{name}", nargs="+", type=int, default=getattr(Config, name), metavar="N",
                           help=f"{what}, of each phase (default: %(default)s)")  # fmt: skip
    for name in ("block_size", "lr", "momentum", "weight_decay", "seed"):
        default = getattr(Config, name)
        found.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    found.add_argument(
        "--wrong-keys", type=int, default=10, metavar="N", help="keys of the evaluation (default 10)"
    )
    found.add_argument(
        "--wrong-key-images", type=int, default=5000, metavar="N", help="test images for each (default 5000)"
    )
    found.add_argument("--workers", type=int, default=8, help="reading processes of each process (default 8)")
    found.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    found.add_argument(
        "--checkpoint-seconds", type=float, default=600, help="between checkpoints (default 600)"
    )
    found.add_argument("--progress-seconds", type=float, default=60, help="between lines (default 60)")
    return found


def main() -> None:
    o = parser().parse_args()
    stop = stop_on_signals()
    try:
        rows = [Config(steps=steps, block_size=o.block_size, arch=o.arch, weights=o.weights,
                       sizes=tuple(o.sizes), epochs=tuple(o.epochs), batches=tuple(o.batches), lr=o.lr,
                       momentum=o.momentum, weight_decay=o.weight_decay, seed=o.seed)
                for steps in o.steps]  # fmt: skip
        key = None
        if o.key_file:
            if not o.password_file:
                raise ValueError("--password-file: expected the password of --key-file, in a file")
            key = load_key(o.key_file, o.password_file.read_text().split("\n")[0])
        place = Place.here(o.device)
        if place.device.type == "cuda":
            torch.cuda.set_device(place.device)
            torch.backends.cudnn.deterministic = True
        images = Images(o.data, place.rank, place.world, o.workers)

        for config in rows:
            start = time.monotonic()

            def say(said: str, name: str = config.steps, start: float = start) -> None:
                if place.rank == 0:
                    print(f"{name}: {time.monotonic() - start:.0f} s: {said}", flush=True)

            folder = o.out / config.steps.replace(",", "+")
            folder.mkdir(parents=True, exist_ok=True)
            run = Run(config, images, key, place, folder)
            if "evaluation" in run.record:
                continue
            say(f"{len(images.train)} images, {len(images.train.classes)} classes, {place.world} processes, "
                f"epoch {run.epoch + 1}, step {run.step}")  # fmt: skip
            run.train(stop, say, o.checkpoint_seconds, o.progress_seconds)
            run.evaluate(o.wrong_keys, o.wrong_key_images, say)
    except Stopped:
        pass
    except (ValueError, OSError) as error:
        # Without a traceback, and at once: the other processes may wait for this one.
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
