"""Bits that change in a sealed file; the time and the memory that sealing and verifying take."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import blockenc
from benchmarks.memory import peak
from blockenc.sealing.api import CHUNK_BYTES
from blockenc.sealing.weights import SafetensorsFile

KEY = blockenc.Key(bytes(range(32)))
SIZES = (100, 1000)  # of weights, in MB
SIDE = 1000  # of the square float32 tensors that they are made of, 4 MB each
FORMS = ("file", "state_dict", "state_dict, transposed")


# --- what is found ---


def located(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Changes one bit after the other in the values of a ResNet-18, each of a random place, and counts those
    that are located: as the only difference, in the right tensor and the right chunk."""
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    path = folder / "resnet18.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), path)
    at = blockenc.seal(path, KEY, folder / "resnet18.seal")
    with SafetensorsFile(path) as file:
        entries, starts = file.entries, dict(file.starts)
    first = min(starts.values())
    draw = random.Random(seed)
    found, in_header = Counter[bool](), Counter[str]()
    seconds = []
    for bit in draw.sample(range(8 * first, 8 * path.stat().st_size), count):
        entry = next(e for e in entries if starts[e.name] <= bit // 8 < starts[e.name] + e.size)
        chunk = (bit // 8 - starts[entry.name]) // CHUNK_BYTES
        with _changed(path, bit):
            start = time.process_time()
            differences = blockenc.verify(path, KEY, at, report=True).differences
            seconds.append(time.process_time() - start)
        told = [(d.kind, d.tensor, d.chunks) for d in differences]
        found[told == [("changed", entry.name, (chunk, chunk + 1))]] += 1
    for bit in draw.sample(range(8 * first), count):
        with _changed(path, bit):
            in_header[_outcome(path, at)] += 1
    intact = blockenc.verify(path, KEY, at).intact  # all bits are back in their places
    return {
        "seed": seed, "bits": count, "located": found[True], "bytes": path.stat().st_size - first,
        "tensors": len(entries), "chunks": sum(entry.count(CHUNK_BYTES) for entry in entries),
        "chunk bytes": CHUNK_BYTES, "median seconds": statistics.median(seconds), "header bytes": first,
        "header": dict(in_header), "intact again": intact,
    }  # fmt: skip


def _outcome(path: Path, at: Path) -> str:
    """What becomes of a file whose header has changed."""
    try:
        report = blockenc.verify(path, KEY, at, report=True)
    except blockenc.SealError:
        return "no safetensors file any more"
    return "not found" if report.intact else "named in the report"


class _changed:  # noqa: N801 - used like a function
    """One bit of a file, changed within a `with` statement."""

    def __init__(self, path: Path, bit: int) -> None:
        self._path, self._bit = path, bit

    def _flip(self) -> None:
        with open(self._path, "r+b") as file:
            file.seek(self._bit // 8)
            byte = file.read(1)[0]
            file.seek(self._bit // 8)
            file.write(bytes([byte ^ 1 << self._bit % 8]))

    def __enter__(self) -> None:
        self._flip()

    def __exit__(self, *_: object) -> None:
        self._flip()


# --- what it costs ---


def make_file(path: Path, megabytes: int) -> None:
    """Random float32 tensors of 4 MB each, written one at a time."""
    size, count = 4 * SIDE * SIDE, megabytes // 4
    header = json.dumps(
        {
            f"layer{n}.weight": {
                "dtype": "F32", "shape": [SIDE, SIDE], "data_offsets": [n * size, (n + 1) * size],
            }
            for n in range(count)
        }
    ).encode()  # fmt: skip
    draw = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            file.write(draw.bytes(size))


def cost(path: Path, form: str, repeats: int) -> dict[str, Any]:
    """Medians, of a process of its own, which reads the file or holds its tensors."""
    command = [sys.executable, "-m", "benchmarks.sealing.study", str(path), form, str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure(path: Path, form: str, repeats: int) -> dict[str, Any]:
    """What `cost` has done elsewhere: seconds of the processor, which tell more than those of a clock where
    other programs run beside; those of the clock; and bytes of memory beyond what was resident before."""
    weights = path if form == "file" else _state(path, transposed="transposed" in form)
    at = path.with_suffix(".seal")
    calls: dict[str, Callable[[], Any]] = {
        "seal": lambda: blockenc.seal(weights, KEY, at, overwrite=True),
        "verify": lambda: blockenc.verify(weights, KEY, at),
    }
    if form == "file":
        calls["SHA-256 alone"] = lambda: _digest(path)
    small = {"a": torch.zeros(3, 3).t()}  # so that what is imported and made once is there
    blockenc.seal(small, KEY, at, overwrite=True)
    blockenc.verify(small, KEY, at)
    seconds: dict[str, float] = {}
    elapsed: dict[str, float] = {}
    memory: dict[str, int] = {}
    for name, call in calls.items():
        (seconds[name], elapsed[name]), memory[name] = peak(functools.partial(_medians, call, repeats))
    return {
        "form": form, "seconds": seconds, "elapsed": elapsed, "memory": memory,
        "seal bytes": at.stat().st_size,
    }  # fmt: skip


def _medians(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    times, clock = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        call()
        times.append(time.process_time() - start[0])
        clock.append(time.perf_counter() - start[1])
    return statistics.median(times), statistics.median(clock)


def _state(path: Path, transposed: bool) -> dict[str, torch.Tensor]:
    with SafetensorsFile(path) as file:
        state = {}
        for entry in file.entries:
            data = bytearray().join(bytes(chunk) for chunk in file.chunks(entry, CHUNK_BYTES))
            state[entry.name] = torch.frombuffer(data, dtype=torch.float32).view(entry.shape)
    return {name: tensor.t() for name, tensor in state.items()} if transposed else state


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def run(folder: Path, bits: int, seed: int, repeats: int, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """All of it; what it writes is in `folder`."""
    rows = []
    for megabytes in sizes:
        path = folder / f"{megabytes}.safetensors"
        make_file(path, megabytes)
        for form in FORMS:
            print(f"{form}, {megabytes} MB", file=sys.stderr, flush=True)
            rows.append({"megabytes": megabytes, **cost(path, form, repeats)})
        os.unlink(path)
    print(f"{bits} bits", file=sys.stderr, flush=True)
    return {"located": located(folder, bits, seed), "rows": rows}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
