"""What a trained model is worth with keys, wrong keys and no key: python -m benchmarks.accuracy.evaluate RUN

RUN is the --out of benchmarks.accuracy.train; the answer goes to RUN/evaluation.json.

A model trained on encrypted images is tried with the right key set, with wrong ones, with one wrong member
at a time, and with plain images. A model trained on plain images is tried on encrypted ones, and, where its
stem can absorb the key (blockenc.protect), protected without any training and then tried the same way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import blockenc
from benchmarks.accuracy import data
from benchmarks.accuracy.train import MEAN, STD, Config, Place, accuracy, build, key_set
from blockenc.files import atomic_write


def load(folder: Path, found: data.Data, place: Place) -> tuple[Config, nn.Module]:
    """A finished run's configuration and model."""
    state = torch.load(folder / "checkpoint.pt", map_location=place.device, weights_only=True)
    config = Config(**state["record"]["config"])
    model = build(config, found).to(place.device, memory_format=torch.channels_last)
    model.load_state_dict(state["model"])
    return config, model


def protected(model: nn.Module, config: Config, cipher: blockenc.Cipher) -> nn.Module | None:
    """The model with the key in its stem; None for stems with which the study does not measure that."""
    if config.stem not in ("block", "embedding") or (config.stem == "block" and "ffx" in cipher.scheme.steps):
        return None
    if config.stem == "embedding":
        return blockenc.protect(model, cipher)
    return blockenc.protect(model, cipher, mean=(MEAN,) * config.channels, std=(STD,) * config.channels)


def summary(accuracies: Iterable[float]) -> dict[str, Any]:
    values = list(accuracies)
    return {
        "number": len(values),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
    }


class Tests:
    """The test images, all of them or `some`, in front of one model."""

    def __init__(self, model: nn.Module, config: Config, found: data.Data, place: Place, some: int) -> None:
        self.model, self.config, self.place = model, config, place
        self.all, self.some = found.test, found.test.some(some)

    def right(self) -> float:
        return accuracy(self.model, self.config, self.all, self.config.cipher(), self.place)

    def of(self, key: blockenc.KeySet | None) -> float:
        """With this key set; with plain images if None."""
        cipher = None if key is None else self.config.cipher(key)
        return accuracy(self.model, self.config, self.some, cipher, self.place)

    def everything(self, keys: int) -> dict[str, Any]:
        """Of a model for encrypted images. Wrong key sets are number 1 to `keys`."""
        wrong = range(1, keys + 1)
        members = {
            step: summary(
                self.of(key_set(0).replace(**{step: key_set(n)})) for n in wrong[: max(1, keys // 10)]
            )
            for step in dict.fromkeys(self.config.step_list)
        }
        return {
            "right_key": self.right(),
            "right_key_some_images": self.of(key_set(0)),
            "wrong_keys": summary(self.of(key_set(n)) for n in wrong),
            "one_wrong_member": members,
            "plain_images": self.of(None),
        }


def evaluate(
    folder: Path,
    data_folder: Path | None = None,
    *,
    keys: int = 100,
    images: int = 1000,
    steps: str = "shuffle,np,ffx",
    block_size: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """The evaluation of a run, also written beside it.

    keys: wrong key sets; a tenth of them for each wrong member. images: with each. steps, block_size: the
    encryption that a plain model meets (default: the block size it was made for).
    """
    place = Place(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    record = json.loads((folder / "result.json").read_text())
    c = record["config"]
    found = data.load(c["dataset"], data_folder, image_size=c["image_size"])
    config, model = load(folder, found, place)
    result: dict[str, Any] = {"keys": keys, "images": images}
    if config.steps:
        result |= Tests(model, config, found, place, images).everything(keys)
    else:
        result["plain"] = Tests(model, config, found, place, images).right()
        met = dataclasses.replace(config, steps=steps, block_size=block_size or config.block_size)
        result["scheme"] = {"steps": steps, "block_size": met.block_size, "profile": met.profile}
        tests = Tests(model, met, found, place, images)
        result["on_encrypted_images"] = summary(tests.of(key_set(n)) for n in range(max(2, keys // 10)))
        for absorbed in (steps, "shuffle,np"):
            met = dataclasses.replace(met, steps=absorbed)
            if met.block_size == config.block_size and (cipher := met.cipher()) is not None:
                folded = protected(model, met, cipher)
                if folded is not None:
                    scores = Tests(folded, met, found, place, images).everything(keys)
                    result["protected"] = {"steps": absorbed, **scores}
                    break
    atomic_write(folder / "evaluation.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.evaluate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data set is")
    parser.add_argument("--keys", type=int, default=100, help="wrong key sets (default 100)")
    parser.add_argument(
        "--images", type=int, default=1000, help="test images for each wrong key (default 1000)"
    )
    parser.add_argument(
        "--steps", default="shuffle,np,ffx", help="what a plain model's images are encrypted with"
    )
    parser.add_argument("--block-size", type=int, help="... and in which blocks (default: its own)")
    parser.add_argument("--device", help="cpu or cuda")
    options = vars(parser.parse_args())
    print(json.dumps(evaluate(options.pop("run"), options.pop("data"), **options), indent=1))


if __name__ == "__main__":
    main()
