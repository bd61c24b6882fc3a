"""Attacks on images of a scheme: python -m benchmarks.attacks --scheme ETC --data PHOTOS

Runs every attack on images that applies to the scheme, and writes benchmarks/attacks/results/NAME.json after
each one; --model RUN adds attacks on a model that was trained under the scheme, and takes scheme and images
from it. What is in that file already is not run again. With --pictures, the first image that is attacked is
written as each attack recovered it. `python -m benchmarks.attacks.page` makes docs/attacks.md of all that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import fast_evaluate
from benchmarks.accuracy.fast_models import FastNet
from benchmarks.accuracy.train import MEAN, STD
from benchmarks.attacks import data
from benchmarks.attacks_models.target import Network
from benchmarks.speed.report import about
from blockenc import Key, Scheme
from blockenc.attacks import ATTACKS, Result, Situation, judge
from blockenc.attacks.harness import recovered_images
from blockenc.attacks.measures import perceptual
from blockenc.attacks.on_models import MODEL_ATTACKS, Model
from blockenc.files import atomic_write
from blockenc.schemes import PRESETS, named

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LABELLED, TESTED = 128, 1000  # images of an attacker of models, and those it is scored on
KEY = Key(bytes(range(32)))  # public, so that a run can be repeated


def scheme_of(text: str) -> tuple[str, Scheme]:
    """A preset by its name, or the scheme in a JSON file, called by the file's name."""
    if text in PRESETS:
        return text, named(text)
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"--scheme: expected one of {', '.join(PRESETS)}, or a JSON file, got {text!r}")
    return path.stem, Scheme.from_json(path.read_text())


def model_of(folder: Path, data_folder: Path) -> tuple[str, Scheme, Model]:
    """A run of benchmarks.accuracy.fast on CIFAR-10: its name, its scheme, and what is attacked of it."""
    found = accuracy_data.load("cifar10", data_folder)
    network = Network(fast_evaluate.load(folder, found, torch.device("cpu")))
    cipher = network.config.cipher()
    if cipher is None:
        raise ValueError(f"--model: expected a model that was trained on encrypted images, got {folder}")
    test = found.test
    assert isinstance(test, accuracy_data.Part)
    x, y = test.x.permute(0, 3, 1, 2).contiguous(), test.y
    last = LABELLED + TESTED
    labelled, tested = (x[:LABELLED], y[:LABELLED]), (x[LABELLED:last], y[LABELLED:last])
    return folder.name, cipher.scheme, Model(network, labelled, tested, network.config.key(0))


def features_of(folder: Path, data_folder: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """The maps of a plain run of benchmarks.accuracy.fast: after its stem, and after each of its groups."""
    found = accuracy_data.load("cifar10", data_folder)
    trained = fast_evaluate.load(folder, found, torch.device("cpu"))
    model = trained.model.eval()
    if trained.config.steps or trained.config.preset or not isinstance(model, FastNet):
        raise ValueError(f"--features: expected a fastnet that was trained on plain images, got {folder}")

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        of_layers = [functional.gelu(model.stem((images.float() / 255 - MEAN) / STD))]
        for layer in model.body:
            of_layers.append(layer(of_layers[-1]))
        return of_layers

    return maps


def run(options: argparse.Namespace) -> Path:
    """The whole run; returns where its results are."""
    more: dict[str, Any] = {}
    if options.model:
        name, scheme, more["model"] = model_of(options.model, options.data)
    else:
        name, scheme = scheme_of(options.scheme)
    if options.per_image:
        name += "-per-image"
    file = options.results / f"{name}.json"
    images, note = data.load(options.data, options.size, options.images)
    if options.free_photo:
        images, note = data.with_free_photo(images), f"{note}, one of them of scikit-learn"
    head = {
        "scheme": scheme.to_dict(),
        "per image": options.per_image,
        "images": note,
        "size": options.size,
        "attacked": len(images) - len(images) // 2,
        "key space bits": round(scheme.key_space_bits(options.size, options.size), 1),
    }
    features = None
    if options.features:
        features = features_of(options.features, options.data)
        others = images.roll(1, 0)
        head["distance of another image"] = round(perceptual(others, images, features), 4)
    before = json.loads(file.read_text()) if file.exists() else {}
    if {field: before.get(field) for field in head} != head:
        before = {}
    done: dict[str, Any] = dict(before.get("attacks", {}))

    def record(result: Result, situation: Situation) -> None:
        done[result.attack] = result.to_dict()
        folder = options.pictures and options.pictures / name
        if result.attack == "none":
            save(folder, "plain", situation.original)
            save(folder, "encrypted", situation.encrypted)
        else:
            save(folder, result.attack, recovered_images(result, situation))
        write({})
        print(name, result.attack, {score: round(value, 4) for score, value in result.scores.items()})

    def write(left_out: dict[str, str]) -> None:
        fields = {
            **about("python -m benchmarks.attacks", threads=torch.get_num_threads()),
            **head,
            "name": name,
            "attacks": done,
            "left out": left_out,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, (json.dumps(fields, indent=1) + "\n").encode())

    kept = {attack: Result(attack, found["scores"], found["used"]) for attack, found in done.items()}
    judged = judge(
        scheme,
        images,
        per_image=options.per_image,
        minutes=options.minutes,
        attacks=(*MODEL_ATTACKS, *ATTACKS) if more else ATTACKS,
        more=more,
        done=kept,
        after_each=record,
        key=KEY,
        features=features,
    )
    write(judged.left_out)
    return file


def save(folder: Path | None, name: str, images: torch.Tensor | None) -> None:
    if folder is None or images is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--scheme", metavar="NAME|FILE", help="a preset, or a scheme's JSON file")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="RUN",
        help="a run of benchmarks.accuracy.fast, in the place of --scheme; --data is CIFAR-10, --size 32",
    )
    parser.add_argument("--per-image", action="store_true", help="a key for each image")
    parser.add_argument("--minutes", type=float, metavar="B", help="of all attacks; default: no limit")
    parser.add_argument("--data", type=Path, metavar="DIR", help="photos; default: those of scikit-learn")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels (default: 224)")
    parser.add_argument(
        "--images", type=int, default=96, help="at most; half of them are attacked (default: 96)"
    )
    parser.add_argument(
        "--free-photo", action="store_true", help="attack a photo of scikit-learn first, which may be shown"
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="RUN",
        help="a run of benchmarks.accuracy.fast on plain images, which also judges the images recovered; "
        "--data is CIFAR-10",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="default: none are written")
    options = parser.parse_args()
    if bool(options.scheme) == bool(options.model) or (
        (options.model or options.features) and not options.data
    ):
        parser.error("expected --scheme or --model, and --data with --model and --features")
    print(run(options))


if __name__ == "__main__":
    main()
