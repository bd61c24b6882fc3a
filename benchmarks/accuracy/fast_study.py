"""The fast recipe's rows in turn: python -m benchmarks.accuracy.fast_study --data DIR --minutes N

Trains and evaluates the rows, the most telling first, and keeps a JSON of each in --results. Rows that have
one are left out. After N minutes, or on SIGINT or SIGTERM, it stops with a checkpoint, in the middle of a row
where it must; the same command goes on there, as if it had not been stopped (fast.py says how exactly).
Several may run at once: each takes rows that no other has.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.fast_study --data DIR      once a core
    python -m benchmarks.accuracy.fast_study --data DIR                        on a GPU, if there is one
    python -m benchmarks.accuracy.fast_study --list                            the rows, and what is done
    python -m benchmarks.accuracy.fast_study --table                           what is done, beside the papers
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.accuracy import data, fast_family
from benchmarks.accuracy.fast import VIEWS, WHOLE_SIZE, Config, Stopped, environment, stop_on_signals, train
from benchmarks.accuracy.fast_evaluate import evaluate, load
from benchmarks.accuracy.study import ALL, LINEAR, claimed
from blockenc.files import atomic_write

RESULTS = Path(__file__).parent / "results" / "fast"
SINGLE = ("shuffle", "np", "ffx")
# Named in the names of rows that differ in them; and those of them that plain rows have, too.
NAMED = ("epochs", "width", "distilled", "curriculum")
LONGER = NAMED[:2]

# IEEE TIFS 2021 (arXiv 2010.00801), ResNet-18 of 200 epochs, %: accuracy by step and block size.
PAPER_PLAIN = 95.45
PAPER = {
    "shuffle": {2: 94.45, 4: 91.84, 8: 85.12, 16: 76.22},
    "np": {2: 95.32, 4: 93.41, 8: 91.54, 16: 92.68},
    "ffx": {2: 93.67, 4: 92.30, 8: 91.99, 16: 91.38},
}


def rows() -> dict[str, Config]:
    """Names and configurations, the most telling rows first; those of published schemes at the end."""
    return {**of_steps(), **fast_family.rows()}


def of_steps() -> dict[str, Config]:
    """The rows of the three steps of scheme version 1."""
    found: dict[str, Config] = {}

    def add(stem: str, block_size: int, steps: str, seed: int = 0, **more: Any) -> None:
        said = {"": "plain", ALL: "all"}.get(steps, steps.replace(",", "+"))
        name = [stem, said if stem == "conv" and not steps else f"m{block_size}-{said}"]
        name += [f"{field}{value:g}" if field in NAMED else value for field, value in more.items()]
        training = WHOLE_SIZE if Config.small_size % block_size else {}
        config = Config(stem=stem, block_size=block_size, steps=steps, seed=seed, **more, **training)
        found.setdefault("-".join([*name, f"seed{seed}"]), config)

    def main_rows(seed: int) -> None:
        add("conv", 4, "", seed)
        for m in (4, 2):
            add("conv", m, ALL, seed)
        for step in SINGLE:
            add("conv", 4, step, seed)

    def absorbing_rows(seed: int) -> None:
        for stem, steps in (("embedding", ALL), ("block", LINEAR)):
            add(stem, 4, "", seed)
            add(stem, 4, steps, seed, start="protected")
            add(stem, 4, steps, seed)

    main_rows(0)
    for m in (8, 16):
        add("conv", m, ALL)
    add("conv", 4, ALL, profile="decimal")
    add("conv", 4, "ffx", profile="decimal")
    main_rows(1)
    absorbing_rows(0)
    add("embedding", 4, ALL, init="random")
    for m in (2, 8, 16):
        for step in SINGLE:
            add("conv", m, step)
    absorbing_rows(1)
    for seed in (1, 2):
        main_rows(seed)
        for m in (8, 16):
            add("conv", m, ALL, seed)
    absorbing_rows(2)
    # Does the recipe limit the accuracy, or do the data?
    for steps, m in (("", 4), (ALL, 4), (ALL, 2)):
        add("conv", m, steps, epochs=60.0)
    add("conv", 4, "", epochs=20.0, width=128)
    add("conv", 4, ALL, epochs=20.0, width=128)
    # Without the key: what closes the gap?
    for seed in range(3):
        add("embedding", 4, ALL, seed, start="recovered")
    add("embedding", 4, ALL, distilled=0.5)
    add("embedding", 4, ALL, curriculum=0.5)
    add("conv", 4, ALL, distilled=0.5)
    add("conv", 4, ALL, curriculum=0.5)
    add("embedding", 4, ALL, distilled=0.5, curriculum=0.5)
    add("block", 4, LINEAR, start="recovered")
    add("embedding", 2, "")
    add("embedding", 2, ALL)
    add("embedding", 2, ALL, start="recovered")
    for longer in ({"epochs": 60.0}, {"epochs": 20.0, "width": 128}):
        add("embedding", 4, "", **longer)
        add("embedding", 4, ALL, **longer)
        add("embedding", 4, ALL, start="recovered", **longer)
    add("embedding", 4, ALL, distilled=0.5, epochs=60.0)
    add("embedding", 4, ALL, 1, distilled=0.5)
    add("embedding", 4, ALL, 1, curriculum=0.5)
    return found


def teacher_of(config: Config) -> str:
    """The row whose model teaches a row, "" for none."""
    return f"conv-plain-seed{config.seed}" if config.distilled else ""


def run_row(
    name: str,
    config: Config,
    runs: Path,
    results: Path,
    found: data.Data,
    *,
    keys: int = 100,
    images: int = 1000,
    stop: Callable[[], bool] = lambda: False,
    **training: Any,
) -> bool:
    """Train and evaluate a row, if no other process does; says whether it did. Raises Stopped.

    A row with a teacher needs that row's run among `runs`.
    """
    with claimed(runs, results, name) as folder:
        if folder is None:
            return False
        say = training.pop("say", print)
        if teacher := teacher_of(config):
            training["teacher"] = load(runs / teacher, found, torch.device("cpu")).model
        run = train(config, folder, found, stop=stop, say=lambda said: say(f"{name}: {said}"), **training)
        evaluation = evaluate(run, folder, keys=keys, images=images, stop=stop)
        whole = {
            "name": name,
            "command": f"python -m benchmarks.accuracy.fast_study --data DIR --only {name}",
            **run.record,
            "evaluation": evaluation,
            "environment": environment(found, run.device),
        }
        atomic_write(results / f"{name}.json", (json.dumps(whole, indent=1) + "\n").encode())
        views = evaluation.get("right_key") or evaluation["plain"]
        say(f"{name}: done, {100 * views['one_view']:.2f} % ({100 * views['six_views']:.2f} % in six views)")
    return True


def run_rows(
    chosen: dict[str, Config],
    runs: Path,
    results: Path,
    found: data.Data,
    *,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> bool:
    """Run the rows that have no result; says whether all were run, rather than stopped."""
    results.mkdir(parents=True, exist_ok=True)
    try:
        for name, config in chosen.items():
            if (results / f"{name}.json").exists():
                continue
            if stop():
                return False
            run_row(name, config, runs, results, found, stop=stop, **options)
    except Stopped:
        return False
    return True


Groups = dict[str, list[dict[str, Any]]]


def grouped(results: Path) -> Groups:
    """What is recorded of the rows of the three steps: by name without the seed, one of each seed."""
    groups: Groups = {}
    for name in of_steps():
        path = results / f"{name}.json"
        if path.exists():
            groups.setdefault(name.rsplit("-seed", 1)[0], []).append(json.loads(path.read_text()))
    return groups


def mean(found: list[dict[str, Any]], view: str) -> float:
    """The accuracy in percent, of all seeds."""
    of = [f["evaluation"].get("right_key") or f["evaluation"]["plain"] for f in found]
    return 100 * statistics.fmean(views[view] for views in of)


def below_plain(name: str, groups: Groups) -> float | None:
    """How many points a row is below the plain row of its stem, trained as long, in one view.

    None where there is no such row.
    """
    config = Config(**groups[name][0]["config"])
    plain = "conv-plain" if config.stem == "conv" else f"{config.stem}-m{config.block_size}-plain"
    plain = "-".join([plain, *(part for part in name.split("-") if part.startswith(LONGER))])
    if plain not in groups:
        return None
    return mean(groups[plain], "one_view") - mean(groups[name], "one_view")


def table(results: Path) -> str:
    """The rows of the three steps that are done, in Markdown; of several seeds the mean."""
    groups = grouped(results)
    head = (
        "row | seeds | right key, % | mirrored | six views | below plain, points | the paper's | "
        "wrong keys, %: mean (range) | plain images, %"
    )
    lines = []
    for name, found in groups.items():
        config = Config(**found[0]["config"])
        cells = [name, str(len(found))]
        cells += [f"{mean(found, view):.2f}" for view in VIEWS]
        rest = [""] * 4
        if config.steps:
            below = below_plain(name, groups)
            if below is not None:
                rest[0] = f"{below:.2f}"
            if config.stem == "conv" and config.profile == "byte" and config.steps in PAPER:
                rest[1] = f"{PAPER_PLAIN - PAPER[config.steps][config.block_size]:.2f}"
            wrong = [100 * a for f in found for a in f["evaluation"]["wrong_keys"]["accuracies"]]
            rest[2] = f"{statistics.fmean(wrong):.1f} ({min(wrong):.1f} to {max(wrong):.1f})"
            rest[3] = f"{100 * statistics.fmean(f['evaluation']['plain_images'] for f in found):.1f}"
        lines.append(cells + rest)
    return pages.table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fast_study",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/fast"), metavar="DIR", help="checkpoints")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="default: beside this file"
    )
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--keys", type=int, default=100, help="wrong key sets of an evaluation (default 100)")
    parser.add_argument("--images", type=int, default=1000, help="test images for each (default 1000)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    o = parser.parse_args()
    chosen = {name: config for name, config in rows().items() if o.only in name}
    if o.list:
        for name in chosen:
            print("done" if (o.results / f"{name}.json").exists() else "    ", name)
        return
    if o.table:
        print(table(o.results))
        return
    end = time.monotonic() + 60 * o.minutes
    signalled = stop_on_signals()
    complete = run_rows(
        chosen,
        o.runs,
        o.results,
        data.load("cifar10", o.data),
        keys=o.keys,
        images=o.images,
        device=o.device,
        precision=o.precision,
        stop=lambda: signalled() or time.monotonic() > end,
        say=lambda said: print(time.strftime("%H:%M:%S"), said, flush=True),
    )
    print("all rows are done" if complete else "stopped; the same command goes on", flush=True)


if __name__ == "__main__":
    main()
