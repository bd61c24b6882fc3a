"""What one more JPEG compression costs: python -m benchmarks.accuracy.fast_jpeg RUN --data DIR

RUN is the --out of benchmarks.accuracy.fast, done; the answer goes to RUN/jpeg.json. The test images are
compressed again at several qualities and classified in one view. They are moved against the grid of JPEG's
blocks first: images that were JPEGs already lose next to nothing when compressed again on the same grid.

With --quality Q, RUN is trained first, on plain training images that were compressed again like that, and the
test images are compressed as they were. It goes on where it was stopped.

    python -m benchmarks.accuracy.fast_jpeg runs/plain --data DIR
    python -m benchmarks.accuracy.fast_jpeg runs/again --data DIR --quality 75
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import pages
from benchmarks.accuracy import data
from benchmarks.accuracy.fast import VIEWS, Config, Run, Stopped, environment, stop_on_signals, train
from benchmarks.accuracy.fast_evaluate import load
from blockenc.files import atomic_write

MOVED = (5, 3)  # pixels down and right: not on the grid of 8, and that of halved colours neither
SAME = (0, 0)
# Quality, pixels moved, how colours are stored: "4:2:0" at half the resolution, as is usual, "4:4:4" in full.
SETTINGS = [
    (75, SAME, "4:2:0"),
    (85, MOVED, "4:2:0"),
    (75, MOVED, "4:4:4"),
    (75, MOVED, "4:2:0"),
    (50, MOVED, "4:2:0"),
]


def compressed(x: torch.Tensor, quality: int, moved: tuple[int, int], colours: str) -> torch.Tensor:
    """uint8 images [N, H, W, C] after JPEG, on a grid that begins so many pixels above and left of them."""
    _, h, w, _ = x.shape
    (up, left), block = moved, 16
    below, right = (-(up + h)) % block, (-(left + w)) % block
    padded = np.pad(x.numpy(), ((0, 0), (up, below), (left, right), (0, 0)), mode="symmetric")
    found = np.empty_like(x.numpy())
    for n, image in enumerate(padded):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=colours)
        found[n] = np.asarray(Image.open(file))[up : up + h, left : left + w]
    return torch.from_numpy(found)


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 images in dB; the mean of the images that differ."""
    errors = (x.double() - y).square().flatten(1).mean(1)
    return float((10 * torch.log10(255**2 / errors[errors > 0])).mean())


def measure(run: Run) -> list[dict[str, Any]]:
    """The accuracy on the test images as they are, and as each setting leaves them."""
    test = run.found.test
    assert isinstance(test, data.Part)
    rows: list[dict[str, Any]] = [{"accuracy": run.right(test, run.cipher)[0] / len(test)}]
    for quality, moved, colours in SETTINGS:
        x = compressed(test.x, quality, moved, colours)
        right = run.right(data.Part(x, test.y), run.cipher)[0]
        rows.append({"quality": quality, "moved": moved, "colours": colours, "psnr": psnr(test.x, x),
                     "accuracy": right / len(test)})  # fmt: skip
    return rows


def again(found: data.Data, quality: int) -> data.Data:
    """The data set with all its images compressed once more, moved, with colours at half the resolution."""
    assert isinstance(found.train, data.Part)
    assert isinstance(found.test, data.Part)
    train, test = (
        dataclasses.replace(part, x=compressed(part.x, quality, MOVED, "4:2:0"))
        for part in (found.train, found.test)
    )
    note = f"{found.note}, compressed again as JPEG of quality {quality}"
    return dataclasses.replace(found, train=train, test=test, note=note)


def trained(folder: Path, found: data.Data, device: torch.device) -> tuple[Run, dict[str, float]]:
    """Train the plain network; its accuracies on the test images, by views. Raises Stopped."""
    run = train(Config(), folder, found, device=device, stop=stop_on_signals())
    assert isinstance(found.test, data.Part)
    views = [n / len(found.test) for n in run.right(found.test, None, 6)]
    return run, dict(zip(VIEWS, views))


def table(folder: Path) -> str:
    """What is recorded in a folder, in Markdown: jpeg.json and jpeg-quality*.json."""

    def percent(share: float) -> str:
        return f"{100 * share:.2f}"

    def images(row: dict[str, Any]) -> str:
        if "quality" not in row:
            return "as they are"
        where = "moved" if any(row["moved"]) else "on the same grid"
        return f"quality {row['quality']}, {where}" + ", colours in full" * (row["colours"] == "4:4:4")

    lines = []
    for row in pages.load_json(folder / "jpeg.json")["rows"]:
        psnr = f"{row['psnr']:.1f}" if "psnr" in row else ""
        lines.append(["as they are", images(row), psnr, percent(row["accuracy"]), ""])
    for path in sorted(folder.glob("jpeg-quality*.json"), reverse=True):
        found = pages.load_json(path)
        both = images(found | {"moved": MOVED, "colours": "4:2:0"})
        lines.append([both, both, "", percent(found["one_view"]), percent(found["six_views"])])
    head = "training images | test images | PSNR to the copy here, dB | one view, % | six views, %"
    return pages.table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fast_jpeg",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10")
    parser.add_argument("--device", type=torch.device, help="default: cuda if there is one, else cpu")
    parser.add_argument("--quality", type=int, metavar="Q", help="train on images of this quality, 1 to 95")
    o = parser.parse_args()
    device = o.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = data.load("cifar10", o.data)
    if o.quality is None:
        run = load(o.run, found, device)
        whole = {"rows": measure(run)}
    else:
        if not 1 <= o.quality <= 95:
            parser.error(f"--quality: expected 1 to 95, got {o.quality}")
        try:
            run, views = trained(o.run, again(found, o.quality), device)
        except Stopped:
            return
        whole = {"quality": o.quality, **views}
    whole |= {"config": run.record["config"], "environment": environment(run.found, device)}
    atomic_write(o.run / "jpeg.json", (json.dumps(whole, indent=1) + "\n").encode())
    print(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
