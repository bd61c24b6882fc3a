"""What encryption adds to a training step: python -m benchmarks.accuracy.overhead

One model is trained on a plain batch and on the same batch encrypted, in turn, so that the machine's drift
meets both alike; the difference is the median over pairs of steps, of CPU time, with its standard error.
Beside them stands what preparing a batch takes alone: normalising it, or encrypting with the normalisation
fused (integers for an embedding). The images are noise; neither costs less on others.

--recipes: instead, CPU seconds of an epoch of every recipe of the study, by which equal training time is set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.accuracy import data
from benchmarks.accuracy.models import STEMS
from benchmarks.accuracy.study import ALL, CPU, CPU_STEMS, recipe
from benchmarks.accuracy.train import Config, Place, Run, environment
from blockenc.files import atomic_write


class Step:
    """One training step of a run, again and again on the same batch, plain or encrypted."""

    def __init__(self, config: Config, found: data.Data, place: Place) -> None:
        self.run = Run(config, found, place)
        self.run.model.train()
        x, y = next(iter(found.train.batches(config.batch, 0)))
        self.x, self.y = x.to(place.device), y.to(place.device)
        self.cipher = Config(**{**vars(config), "steps": ALL}).cipher()
        kinds = ("prepare", "cpu", "wall")
        self.times: dict[bool, dict[str, list[float]]] = {e: {k: [] for k in kinds} for e in (False, True)}

    def __call__(self, encrypted: bool) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        x = self.run.config.prepare(self.x, self.cipher if encrypted else None)
        prepared = time.perf_counter()
        with self.run.autocast():
            z = self.run.step_model(x).float()
        self.run.optimizer.zero_grad()
        functional.cross_entropy(z, self.y).backward()
        self.run.optimizer.step()
        if self.run.place.device.type == "cuda":
            torch.cuda.synchronize()
        times = self.times[encrypted]
        times["cpu"].append(time.process_time() - cpu)
        times["wall"].append(time.perf_counter() - wall)
        times["prepare"].append(prepared - wall)

    def medians(self, encrypted: bool) -> dict[str, float]:
        """Milliseconds; the first two of each warm up."""
        return {name: 1e3 * statistics.median(values[2:]) for name, values in self.times[encrypted].items()}


def compare(config: Config, found: data.Data, place: Place, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step with and without encryption, and the ratios."""
    step = Step(config, found, place)
    for n in range(rounds + 2):
        for encrypted in (False, True) if n % 2 else (True, False):
            step(encrypted)
    p, e = step.medians(False), step.medians(True)
    pairs = list(zip(step.times[False]["cpu"], step.times[True]["cpu"]))[2:]
    low, middle, high = statistics.quantiles([1e3 * (b - a) for a, b in pairs], n=4)
    return {
        "stem": config.stem,
        "block_size": config.block_size,
        "batch": config.batch,
        "steps": rounds,
        "plain_ms": p,
        "encrypted_ms": e,
        "overhead_cpu": middle / p["cpu"],
        # Of a median: 1.25 sd/sqrt(n), with the sd that a normal distribution of these quartiles has.
        "standard_error": 1.253 * (high - low) / 1.349 / rounds**0.5 / p["cpu"],
        # What encryption itself adds, apart from the noise of a step's other 99 %.
        "overhead_prepare": (e["prepare"] - p["prepare"]) / p["wall"],
    }


def noise() -> data.Data:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1024, 32, 32, 3), dtype=torch.uint8, generator=g)
    part = data.Part(x, torch.randint(0, 10, (1024,), generator=g), pad=4, flip=True)
    return data.Data(part, part, 10, 3, 32, "noise")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.overhead",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="steps of each (default 20)")
    parser.add_argument("--only", default="", metavar="STEM", help="only this one")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--recipes", action="store_true")
    parser.add_argument("--json", type=Path, help="write here, too; rows of other stems are kept")
    o = parser.parse_args()
    place, found = Place.here(o.device), noise()
    result: dict[str, Any] = {"environment": environment(found, place)}
    if o.recipes:
        result["recipes"] = []
        for stem, block_size in CPU_STEMS:
            config = Config(**recipe(CPU, stem, block_size))
            step = Step(config, found, place)
            for _ in range(o.rounds + 2):
                step(False)
            epoch = min(step.times[False]["cpu"]) * (50_000 // config.batch)
            said = {"stem": stem, "block_size": block_size, "epochs": config.epochs}
            result["recipes"].append({**said, "cpu_epoch": epoch, "cpu_all": epoch * config.epochs})
            print(
                f"{stem} M = {block_size}: {epoch:.1f} CPU s an epoch, {epoch * config.epochs:.0f} in all",
                flush=True,
            )
    else:
        rows = []
        for stem, block_size in (("conv", 4), ("block", 4), ("embedding", 2), ("embedding", 4)):
            if o.only not in stem:
                continue
            config = Config(**{**recipe(CPU, stem, block_size), "batch": o.batch})
            row = compare(config, found, place, o.rounds)
            rows.append(row)
            print(
                f"{stem} M = {block_size}: a step {row['plain_ms']['cpu']:.1f} ms plain, "
                f"{row['encrypted_ms']['cpu']:.1f} encrypted: {100 * row['overhead_cpu']:+.2f} "
                f"± {100 * row['standard_error']:.2f} %; preparing {row['plain_ms']['prepare']:.2f} and "
                f"{row['encrypted_ms']['prepare']:.2f} ms: {100 * row['overhead_prepare']:+.2f} %",
                flush=True,
            )
        if o.json and o.json.exists():
            rows += [r for r in json.loads(o.json.read_text())["overhead"] if o.only not in r["stem"]]
        result["overhead"] = sorted(rows, key=lambda r: (STEMS.index(r["stem"]), r["block_size"]))
    if o.json:
        o.json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(o.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
