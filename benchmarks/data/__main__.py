"""The data path against the same path without encryption: python -m benchmarks.data [--data DIR]

loader: images a second out of a DataLoader that decodes, resizes and normalises in torchvision, and out of
    one that leaves normalising to EncryptCollate.
command: `blockenc encrypt` on files, and the same run (decode, encode, sync, journal) with a cipher that
    gives back what it is given.
memory: the command on data sets larger than the memory it is allowed, and of very many images and files.

Runs are taken in turn (A B A B ...) after a warm-up, and medians are compared, because machines are shared
and their speed drifts. --data: a folder with cifar-10-batches-py and/or a folder of photos; without it
images are generated (their decoding costs what such noise costs).
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

import blockenc
from benchmarks.data.kill import make_photos
from benchmarks.speed.measure import medians
from blockenc.datasets import engine
from blockenc.datasets.formats import BY_NAME
from blockenc.datasets.pixels import stored_png

KEY = blockenc.Key(bytes(range(32)))  # speed does not depend on the key
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Cifar(torch.utils.data.Dataset):
    """CIFAR as torchvision's own class gives it: a PIL image from memory, then the transform."""

    def __init__(self, folder: Path | None, count: int, transform: Callable[[Any], Any]) -> None:
        self.transform = transform
        if folder is None:
            self.images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
        else:
            files = sorted(folder.glob("data_batch_*"))
            self.images = np.concatenate([next(BY_NAME["cifar"].images(path)) for path in files])[:count]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[n])), n % 10


class Photos(torch.utils.data.Dataset):
    """Photos decoded from their files, so often that an epoch has `count` of them."""

    def __init__(self, folder: Path, count: int, transform: Callable[[Any], Any]) -> None:
        suffixes = (".jpeg", ".jpg", ".png")
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        self.count, self.transform = count, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> tuple[Any, int]:
        with Image.open(self.files[n % len(self.files)]) as image:
            return self.transform(image.convert("RGB")), n


def loaders(
    make: Callable[[Callable[[Any], Any]], Any], resize: list[Any], batch: int, workers: int
) -> dict[str, Any]:
    """The plain loader, which normalises in torchvision; the encrypted one, whose collation does."""
    from torchvision.transforms import v2

    normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    cipher = blockenc.Cipher(KEY)
    common = {"batch_size": batch, "num_workers": workers, "persistent_workers": workers > 0}
    collate = blockenc.EncryptCollate(cipher, dtype=torch.float32, mean=MEAN, std=STD)
    return {
        "plain": torch.utils.data.DataLoader(make(v2.Compose([*resize, *normalise])), **common),
        "encrypted": torch.utils.data.DataLoader(
            make(v2.Compose(resize or [v2.Identity()])), collate_fn=collate, **common
        ),
    }


def drain(loader: Any) -> None:
    for _ in loader:
        pass


def benchmark_loaders(cifar: Path | None, photos: Path, options: argparse.Namespace) -> None:
    from torchvision.transforms import v2

    print("| loader | workers | plain images/s | encrypted images/s | encrypted / plain |")
    print("|---|---|---|---|---|")
    resize = [v2.Resize(256), v2.CenterCrop(224)]
    kinds: list[tuple[str, Callable[[Callable[[Any], Any]], Any], list[Any], int, int]] = [
        ("CIFAR, batch 128", lambda t: Cifar(cifar, options.cifar, t), [], 128, options.cifar),
        (
            "photos to 224, batch 32",
            lambda t: Photos(photos, options.photos, t),
            resize,
            32,
            options.photos,
        ),
    ]
    for name, make, steps, batch, count in kinds:
        for workers in options.workers:
            pair = loaders(make, steps, batch, workers)
            calls = {kind: (lambda loader=loader: drain(loader)) for kind, loader in pair.items()}
            seconds = medians(calls, 0, options.rounds)
            plain, encrypted = (count / seconds[kind] for kind in ("plain", "encrypted"))
            ratio = encrypted / plain
            print(f"| {name} | {workers} | {plain:.0f} | {encrypted:.0f} | {ratio:.3f} |", flush=True)


class Plain:
    """In the place of a cipher: the same run without encryption."""

    per_image = False

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def encrypt(self, images: np.ndarray, ids: None = None) -> np.ndarray:
        return images


def benchmark_command(sources: dict[str, Path], rounds: int) -> None:
    print("| blockenc encrypt | files | plain s | encrypted s | plain / encrypted |\n|---|---|---|---|---|")
    for name, src in sources.items():
        with tempfile.TemporaryDirectory() as folder:

            def run(cipher: Any = blockenc.Cipher, src: Path = src, out: Path = Path(folder) / "out") -> None:
                with mock.patch.object(engine, "Cipher", cipher):
                    engine.encrypt_files(src, out, KEY, blockenc.Scheme(channels=1), fit="crop")
                shutil.rmtree(out)

            seconds = medians({"plain": lambda run=run: run(Plain), "encrypted": run}, 0, rounds)  # type: ignore[misc]
        plain, encrypted = seconds["plain"], seconds["encrypted"]
        files = sum(path.is_file() for path in src.rglob("*"))
        print(f"| {name} | {files} | {plain:.3f} | {encrypted:.3f} | {plain / encrypted:.3f} |", flush=True)


MEMORY_PROGRAM = """
import resource, sys, threading, time
from pathlib import Path
import torch
import blockenc
from blockenc.datasets.engine import encrypt_files
def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) // 1024
blockenc.Cipher(bytes(32)).encrypt(torch.zeros(64, 3, 64, 64, dtype=torch.uint8))
before = memory("RssAnon")
limit = memory("VmData") + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit << 20, limit << 20))
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, memory("RssAnon"))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
encrypt_files(Path(sys.argv[1]), Path(sys.argv[2]), blockenc.Key(bytes(32)), blockenc.Scheme(channels=1))
print(peak - before)
"""


def benchmark_memory(megabytes: int, allowed: int, files: int) -> None:
    """Data sets in a process that may allocate `allowed` more MB once it has begun (Linux): files of
    `megabytes` of large images each; one of an eighth of that, of images of 8 x 8; `files` small files."""
    print(
        "| data | MB | files | images | allowed more MB | used more MB at most |\n|---|---|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 256, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=0)
    for name in ("npy", "npz", "tar", "parquet", "npy of 8 x 8", "files of 8 x 8"):
        with tempfile.TemporaryDirectory() as folder:
            src = Path(folder) / "src"
            src.mkdir()
            path = src / f"data.{name.split()[0]}"
            count = (megabytes << 20) // image.nbytes
            if name == "npy":
                out = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *image.shape))
                for n in range(count):
                    out[n] = image
                del out
            elif name == "npz":
                np.savez(path, x=np.broadcast_to(image, (count, *image.shape)))
            elif name == "tar":
                with tarfile.open(path, "w") as tar:
                    for n in range(count):
                        info = tarfile.TarInfo(f"{n:06d}.png")
                        info.size = len(data.getvalue())
                        tar.addfile(info, io.BytesIO(data.getvalue()))
            elif name == "npy of 8 x 8":
                count = (megabytes << 17) // 192
                np.save(path, rng.integers(0, 256, (count, 8, 8, 3), np.uint8))
            elif name == "files of 8 x 8":
                count = files
                small = stored_png(image[:8, :8])
                for n in range(files):
                    (src / f"{n // 1000}").mkdir(exist_ok=True)
                    (src / f"{n // 1000}/{n}.png").write_bytes(small)
            else:
                import pyarrow as pa
                from pyarrow import parquet

                kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
                rows = pa.table({"image": pa.array([{"bytes": data.getvalue(), "path": ""}] * 64, kind)})
                with parquet.ParquetWriter(
                    path, rows.schema, use_dictionary=False, compression="none"
                ) as writer:
                    count = max(1, count // 64) * 64
                    for _ in range(count // 64):
                        writer.write_table(rows)
            command = [sys.executable, "-c", MEMORY_PROGRAM, str(src), f"{folder}/out", str(allowed)]
            # Arrow's own allocators reserve memory ahead of use, which the limit counts.
            environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            used = done.stdout.strip() or f"FAILED: {done.stderr.strip().splitlines()[-1]}"
            sizes = [path.stat().st_size for path in src.rglob("*") if path.is_file()]
            row = (name, sum(sizes) >> 20, len(sizes), count, allowed, used)
            print(f"| {' | '.join(map(str, row))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", help="loader, command, memory (default: all)")
    parser.add_argument("--data", type=Path, help="folder of real data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cifar", type=int, default=20_000, help="CIFAR images an epoch")
    parser.add_argument("--photos", type=int, default=192, help="photos an epoch")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--memory", type=int, default=1024, help="MB a file in the memory benchmark")
    parser.add_argument("--allowed", type=int, default=256, help="MB it may allocate")
    parser.add_argument("--files", type=int, default=20_000, help="small files in the memory benchmark")
    options = parser.parse_args()
    what = options.what or ["loader", "command", "memory"]
    if unknown := set(what) - {"loader", "command", "memory"}:
        parser.error(f"unknown: {', '.join(unknown)}")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as name:
        cifar = photos = None
        if options.data is not None:
            cifar = next((path.parent for path in options.data.rglob("data_batch_1")), None)
            found = next((p for p in options.data.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg")), None)
            photos = found and (found.parent.parent if found.parent != options.data else found.parent)
        if photos is None:
            photos = Path(name) / "photos"
            make_photos(photos, min(96, options.photos))
        if "loader" in what:
            benchmark_loaders(cifar, photos, options)
            print()
        if "command" in what:
            sources = {"photos": photos, **({"CIFAR batches": cifar} if cifar else {})}
            benchmark_command(sources, options.rounds)
            print()
        if "memory" in what:
            benchmark_memory(options.memory, options.allowed, options.files)


if __name__ == "__main__":
    main()
