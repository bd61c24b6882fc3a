"""The picture of docs/vision.md: python -m benchmarks.vision.picture

Test scenes, what is to be found in them, and what the segmenter and the detector find with the right key, a
wrong one and none: of the models that `python -m benchmarks.vision` left in --work.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.vision import study
from benchmarks.vision.__main__ import WORK
from benchmarks.vision.scenes import CLASSES, Scenes, scenes
from benchmarks.vision.train import Run, cipher, trained

PICTURE = Path(__file__).parents[2] / "docs" / "vision.png"
SHOWN = (5, 9)  # test scenes
SURE = 0.5  # of detections that are drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision.picture",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--scenes", type=int, default=4000, help="as for benchmarks.vision")
    parser.add_argument("--epochs", type=int, default=8, help="as for benchmarks.vision")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    data, test = scenes(options.scenes, False), scenes(max(SHOWN) + 1, True)
    shown = Scenes(
        test.images[list(SHOWN)],
        test.masks[list(SHOWN)],
        [test.boxes[n] for n in SHOWN],
        [test.labels[n] for n in SHOWN],
    )
    draw(shown, columns(shown, data, options), options.picture)


def columns(shown: Scenes, data: Scenes, options: argparse.Namespace) -> list[tuple[str, Any, list[Any]]]:
    """The pictures side by side: their title, the images, and what is drawn on each: a mask, or boxes."""
    truth = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(shown.boxes, shown.labels)]
    encrypted = cipher(0).encrypt(shown.images)
    found: list[tuple[str, Any, list[Any]]] = [
        ("scene", shown.images, [None] * len(SHOWN)),
        ("encrypted, M = 4", encrypted, [None] * len(SHOWN)),
    ]
    for task, target in (("segmentation", list(shown.masks)), ("detection", truth)):
        found.append(("masks" if task == "segmentation" else "boxes", shown.images, target))
        form = "feature maps, trained so"
        run = Run(task, study.FORMS[form].training, 0, options.scenes, options.epochs)
        used = study.models(trained(run, data, options.work, print), study.FORMS[form])
        for title, keyed in (
            ("right key", used.with_key(0)),
            ("wrong key", used.with_key(1)),
            ("no key", used.without),
        ):
            outputs = study.found(keyed, shown.images)
            if task == "segmentation":
                found.append((title, shown.images, list(outputs.argmax(1))))
            else:
                sure = [{name: o[name][o["scores"] > SURE] for name in ("boxes", "labels")} for o in outputs]
                found.append((title, shown.images, sure))
    return found


def draw(shown: Scenes, pictures: list[tuple[str, Any, list[Any]]], path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    colours = matplotlib.colormaps["tab10"]
    rows = len(shown.images)
    figure, axes = pyplot.subplots(
        rows, len(pictures), figsize=(1.3 * len(pictures), 1.35 * rows), squeeze=False
    )
    for column, (title, images, drawn) in enumerate(pictures):
        axes[0][column].set_title(title, fontsize=8)
        for row, (image, over) in enumerate(zip(images, drawn)):
            axis = axes[row][column]
            axis.axis("off")
            if isinstance(over, torch.Tensor):
                mask = colours((over - 1).clamp(0).numpy())
                mask[over.numpy() == 0] = (0, 0, 0, 1)
                axis.imshow(mask)
                continue
            axis.imshow(image.permute(1, 2, 0).numpy())
            for box, label in zip(over["boxes"], over["labels"]) if over else ():
                left, top, right, bottom = box.tolist()
                colour = colours(int(label) - 1)
                frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour)
                axis.add_patch(frame)
                axis.text(
                    left,
                    top,
                    str(int(label) - 1),
                    fontsize=6,
                    color="white",
                    backgroundcolor=colour,
                    bbox={"pad": 0.5, "facecolor": colour, "linewidth": 0},
                )
    assert CLASSES == 11  # as many as the colours, and the background
    figure.tight_layout(pad=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(128).save(path, "PNG", optimize=True)


if __name__ == "__main__":
    main()
