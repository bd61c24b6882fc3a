"""What a run of the fast recipe is worth: python -m benchmarks.accuracy.fast_evaluate RUN --data DIR

RUN is the --out of benchmarks.accuracy.fast, done; the answer goes to RUN/evaluation.json. What was measured
is kept in RUN/scores.json, so that an evaluation that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.accuracy import data
from benchmarks.accuracy.evaluate import summary
from benchmarks.accuracy.fast import VIEWS, Config, Run, Stopped, environment, stop_on_signals
from benchmarks.accuracy.train import key_set
from blockenc.files import atomic_write

T = TypeVar("T")

# What a model trained on plain images meets: steps and block size.
MET = [("shuffle,np,ffx", 4), ("shuffle,np,ffx", 2), ("shuffle", 4), ("np", 4), ("ffx", 4)]


class Scores:
    """What was measured, as JSON has it, by name, in a file: an evaluation that was stopped goes on there."""

    def __init__(self, path: Path, stop: Callable[[], bool]) -> None:
        self.path, self.stop = path, stop
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, name: str, measure: Callable[[], T]) -> T:
        if name not in self.known:
            if self.stop():
                raise Stopped
            self.known[name] = measure()
            atomic_write(self.path, (json.dumps(self.known, indent=1) + "\n").encode())
        return self.known[name]  # type: ignore[no-any-return]


def evaluate(
    run: Run, folder: Path, *, keys: int = 100, images: int = 1000, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What a trained network is worth with the right key, wrong ones, one wrong member, and no encryption.

    keys: wrong key sets; a tenth of them for each wrong member, and for each scheme that a plain model
    meets. images: test images with each of those; the right key has all. Everything but the right key is seen
    in one view. Raises Stopped once `stop` says so; what was measured is kept in `folder`.
    """
    config, channels = run.config, run.found.channels
    scores = Scores(folder / "scores.json", stop)
    few = range(1, max(1, keys // 10) + 1)
    whole = run.found.test
    some = whole.some(images)

    def accuracy(name: str, config: Config, key: Any) -> float:
        cipher = None if key is None else config.cipher(key, channels)
        return scores.of(f"{name}, {images} images", lambda: [run.right(some, cipher)[0] / len(some)])[0]  # type: ignore[arg-type]

    right = scores.of(
        "right",
        lambda: [n / len(whole) for n in run.right(whole, run.cipher, 6)],  # type: ignore[arg-type]
    )
    views = dict(zip(VIEWS, right))
    result: dict[str, Any] = {"keys": keys, "images": images}
    scheme = config.scheme(channels)
    if scheme is None:
        result["plain"] = views
        met = [dataclasses.replace(config, steps=steps, block_size=m) for steps, m in MET]
        met = [c for c in met if run.found.image_size % c.block_size == 0]
        result["on_encrypted_images"] = [
            {
                "steps": c.steps,
                "block_size": c.block_size,
                **summary(accuracy(f"{c.steps} {c.block_size} {n}", c, key_set(n)) for n in few),
            }
            for c in met
        ]
        return result
    result["right_key"] = views
    wrong = [accuracy(f"wrong {n}", config, config.key(n)) for n in range(1, keys + 1)]
    result["wrong_keys"] = {**summary(wrong), "accuracies": wrong}
    result["one_wrong_member"] = {
        kind: summary(
            accuracy(f"wrong {kind} {n}", config, config.key().replace(**{kind: config.key(n)})) for n in few
        )
        for kind in dict.fromkeys(scheme.kinds)
    }
    result["plain_images"] = accuracy("plain images", config, None)
    return result


def load(folder: Path, found: data.Data, device: torch.device) -> Run:
    """A run that is done. Raises ValueError if it is not."""
    result = json.loads((folder / "result.json").read_text())
    run = Run(Config(**result["config"]), found, device, bf16=False)
    # A trial's training images were fewer; the test images are the same.
    run.record["flops"] = result["flops"]
    run.load(folder / "checkpoint.pt")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fast_evaluate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--keys", type=int, default=100, help="wrong key sets (default 100)")
    parser.add_argument("--images", type=int, default=1000, help="test images for each (default 1000)")
    o = parser.parse_args()
    device = o.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = load(o.run, data.load("cifar10", o.data), device)
    try:
        found = evaluate(run, o.run, keys=o.keys, images=o.images, stop=stop_on_signals())
    except Stopped:
        print("stopped; the same command goes on")
        return
    whole = {**run.record, "evaluation": found, "environment": environment(run.found, device)}
    atomic_write(o.run / "evaluation.json", (json.dumps(whole, indent=1) + "\n").encode())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
