"""The study behind docs/accuracy.md: python -m benchmarks.accuracy.study --data DIR

Trains and evaluates one row after the other, the most telling first, and keeps a JSON of each in --results.
Rows that have one are left out, and a row that was interrupted goes on from its last epoch, so the same
command can be given again and again, also several times at once (each takes rows that no other has):

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.study --data DIR      once a core
    python -m benchmarks.accuracy.study --data DIR --setting gpu          the papers' full setting, on a GPU
    python -m benchmarks.accuracy.study --list                            the rows and what is done
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.evaluate import evaluate
from benchmarks.accuracy.train import Config, train
from blockenc.files import atomic_write

HERE = Path(__file__).parent
ALL, LINEAR = "shuffle,np,ffx", "shuffle,np"
CPU, GPU, TINY = "cpu", "gpu", "tiny"

# Epochs that take as much CPU time as the convolutional model's: see benchmarks.accuracy.overhead --recipes.
CPU_STEMS: dict[tuple[str, int], dict[str, Any]] = {
    ("conv", 2): {"width": 16, "epochs": 7},
    ("conv", 4): {"width": 16, "epochs": 7},
    ("conv", 8): {"width": 16, "epochs": 7},
    ("block", 2): {"width": 16, "unfold": 2, "epochs": 6},
    ("block", 4): {"width": 16, "unfold": 4, "epochs": 6},
    ("embedding", 2): {"width": 16, "unfold": 2, "epochs": 6},
    ("embedding", 4): {"width": 16, "unfold": 4, "epochs": 6},
    ("embedding", 8): {"width": 16, "unfold": 8, "epochs": 5},
    ("lookup-conv", 2): {"width": 16, "epochs": 6},
    ("lookup-conv", 4): {"width": 16, "epochs": 6},
    ("lookup-block", 2): {"width": 16, "unfold": 2, "epochs": 5},
    ("lookup-block", 4): {"width": 16, "unfold": 4, "epochs": 5},
}

# Models whose patch is the block, with one token a block: no fewer layers than the others, in as much time.
PATCHES: dict[str, dict[str, Any]] = {
    "convmixer": {"width": 96, "depth": 4, "epochs": 6, "lr": 0.1},
    "vit": {"width": 96, "depth": 4, "epochs": 6, "lr": 0.05},
}
GPU_TRAINING = {"epochs": 200, "batch": 128, "lr": 0.2}


def recipe(setting: str, stem: str, block_size: int, model: str = "") -> dict[str, Any]:
    """What a setting says about the models of one stem; model: another one than the setting's."""
    common = {"stem": stem, "block_size": block_size, "amp": setting != TINY}
    if setting == GPU:  # the papers' network, 200 epochs
        unfold = 1 if stem.endswith("conv") or model in PATCHES else block_size
        model = model or "resnet18"
        width = 0 if model in PATCHES else 64
        return common | {"model": model, "width": width, "unfold": unfold} | GPU_TRAINING
    if setting == TINY:
        return common | {"dataset": "digits", "epochs": 8, "width": 16, "lr": 0.1, "batch": 100}
    return common | (PATCHES[model] | {"model": model} if model else CPU_STEMS[stem, block_size])


def rows(setting: str = CPU) -> dict[str, Config]:
    """Names and configurations, the most telling rows first."""
    found: dict[str, Config] = {}

    def add(stem: str, block_size: int, steps: str, seed: int = 0, **more: Any) -> None:
        said = {"": "plain", ALL: "all"}.get(steps, steps.replace(",", "+"))
        model = more.get("model", "")
        name = [model or stem, said if stem == "conv" and not steps else f"m{block_size}-{said}"]
        if "epochs" in more:
            name.append(f"epochs{more['epochs']}")
        name += [str(more[field]) for field in ("init", "profile", "start") if field in more]
        fields = {**recipe(setting, stem, block_size, model), "steps": steps, "seed": seed, **more}
        found.setdefault("-".join([*name, f"seed{seed}"]), Config(**fields))

    def main_rows(seed: int) -> None:
        add("conv", 4, "", seed)
        add("conv", 2, ALL, seed)
        for m in (4, 2):
            add("embedding", m, "", seed)
            add("embedding", m, ALL, seed, start="protected")
        for m in (4, 2):
            add("block", m, "", seed)
            add("block", m, LINEAR, seed, start="protected")
        add("conv", 4, ALL, seed)

    if setting == TINY:
        for m in (4, 2):
            add("embedding", m, "")
            add("embedding", m, ALL, start="protected")
        for stem, steps in (("conv", ALL), ("block", LINEAR)):
            add(stem, 4, "")
            add(stem, 4, steps)
        add("embedding", 4, ALL, init="random")
        add("lookup-block", 4, ALL)
        return found
    add("conv", 4, "")
    for m in (4, 2):
        add("block", m, LINEAR, start="protected")
    for step in ("shuffle", "np", "ffx"):
        add("conv", 4, step)

    def longer_rows(seed: int) -> None:  # does the gap close with more training?
        add("conv", 2, ALL, seed, epochs=20)
        add("conv", 4, "", seed, epochs=20)

    if setting == CPU:
        longer_rows(0)
    main_rows(0)
    for m in (4, 2):
        add("block", m, LINEAR)
    add("embedding", 4, ALL, init="random")  # what a trainer without the key can do
    main_rows(1)
    add("lookup-conv", 2, ALL)
    add("lookup-block", 4, ALL)
    add("conv", 8, ALL)
    add("embedding", 8, "")
    add("embedding", 8, ALL, start="protected")
    add("conv", 4, ALL, profile="decimal")
    add("embedding", 4, ALL, profile="decimal", start="protected")
    for step in ("ffx", "shuffle", "np"):
        add("conv", 2, step)
    for model in PATCHES:  # stems that start at random: to them every shuffle and np is alike
        add("block", 4, "", model=model)
        add("block", 4, LINEAR, model=model)
    for m in (4, 2):
        add("block", m, LINEAR, 1)
    add("embedding", 4, ALL)
    for step in ("shuffle", "np", "ffx"):
        add("conv", 4, step, 1)
    add("lookup-conv", 4, ALL)
    add("lookup-block", 2, ALL)
    add("embedding", 2, ALL, init="random")
    add("embedding", 2, ALL)
    if setting == CPU:
        longer_rows(1)
    main_rows(2)
    return found


@contextlib.contextmanager
def claimed(runs: Path, results: Path, name: str) -> Iterator[Path | None]:
    """The folder of a row, held until it is done; None if it is done, or another process holds it."""
    folder = runs / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield None if (results / f"{name}.json").exists() else folder


def run_row(
    name: str,
    config: Config,
    runs: Path,
    results: Path,
    data: Path | None,
    *,
    keys: int,
    images: int,
    quiet: bool,
) -> bool:
    """Train and evaluate a row, if no other process does; says whether it did."""
    with claimed(runs, results, name) as folder:
        if folder is None:
            return False
        print(name, flush=True)
        record = train(config, folder, data, quiet=quiet)
        evaluation = evaluate(folder, data, keys=keys, images=images)
        whole = {"name": name, **record, "evaluation": evaluation}
        atomic_write(results / f"{name}.json", (json.dumps(whole, indent=1) + "\n").encode())
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.study",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--setting", choices=(CPU, GPU, TINY), default=CPU)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="checkpoints (default runs)"
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: beside this file")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after that many")
    parser.add_argument("--keys", type=int, default=100, help="wrong key sets of an evaluation (default 100)")
    parser.add_argument(
        "--images", type=int, default=1000, help="test images for each wrong key (default 1000)"
    )
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--list", action="store_true")
    o = parser.parse_args()
    results = o.results or HERE / ("results" if o.setting == CPU else f"results_{o.setting}")
    results.mkdir(parents=True, exist_ok=True)
    chosen = {name: config for name, config in rows(o.setting).items() if o.only in name}
    start = time.monotonic()
    for name, config in chosen.items():
        done = (results / f"{name}.json").exists()
        if o.list:
            changed = {
                f.name: value
                for f in dataclasses.fields(config)
                if (value := getattr(config, f.name)) != f.default and f.name != "amp"
            }
            print("done" if done else "    ", name, *(f"{k}={v}" for k, v in changed.items()))
        elif not done and time.monotonic() - start < 60 * o.minutes:
            run_row(
                name, config, o.runs / o.setting, results, o.data, keys=o.keys, images=o.images, quiet=o.quiet
            )


if __name__ == "__main__":
    main()
