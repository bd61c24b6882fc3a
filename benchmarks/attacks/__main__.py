"""Attacks on images of a scheme: python -m benchmarks.attacks --scheme ETC --data PHOTOS

Runs every attack on images that applies to the scheme, and writes benchmarks/attacks/results/NAME.json after
each one. What is in that file already is not run again. With --pictures, the first image that is attacked is
written as each attack recovered it. `python -m benchmarks.attacks.page` makes docs/attacks.md of all that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.attacks import data
from benchmarks.speed.report import about
from blockenc import Key, Scheme
from blockenc.attacks import Result, Situation, judge
from blockenc.files import atomic_write
from blockenc.schemes import PRESETS, named

HERE = Path(__file__).parent
RESULTS = HERE / "results"
KEY = Key(bytes(range(32)))  # public, so that a run can be repeated


def scheme_of(text: str) -> tuple[str, Scheme]:
    """A preset by its name, or the scheme in a JSON file, called by the file's name."""
    if text in PRESETS:
        return text, named(text)
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"--scheme: expected one of {', '.join(PRESETS)}, or a JSON file, got {text!r}")
    return path.stem, Scheme.from_json(path.read_text())


def run(options: argparse.Namespace) -> Path:
    """The whole run; returns where its results are."""
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
        save(folder, result.attack, picture_of(result, situation))
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
        done=kept,
        after_each=record,
        key=KEY,
    )
    write(judged.left_out)
    return file


def picture_of(result: Result, situation: Situation) -> torch.Tensor | None:
    """The images that an attack recovered, if it did: as they are, or by the transform that it recovered."""
    recovered = result.recovered
    if hasattr(recovered, "decrypt"):
        recovered = recovered.decrypt(situation.encrypted[:1])
    return recovered if isinstance(recovered, torch.Tensor) else None


def save(folder: Path | None, name: str, images: torch.Tensor | None) -> None:
    if folder is None or images is None or images.dtype != torch.uint8:
        return
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--scheme", required=True, metavar="NAME|FILE", help="a preset, or a scheme's JSON file"
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
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="default: none are written")
    print(run(parser.parse_args()))


if __name__ == "__main__":
    main()
