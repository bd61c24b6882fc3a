"""The table and the picture of docs/schemes.md, of the published schemes: python -m benchmarks.presets

The table is made of the docstrings of `blockenc.schemes` and of what the schemes say of themselves. The
picture shows the first photo that scikit-learn bundles, encrypted with the demo's key by each.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks import pages
from blockenc import Scheme, demo
from blockenc.schemes import PRESETS
from blockenc.steps import KINDS, Step

PAGE = Path(__file__).parents[1] / "docs" / "schemes.md"
PICTURE = "schemes.jpg"
SIDE = 224  # of the images whose key spaces are compared
PANEL = 160  # the side of each picture, which is shown at its own scale
COLUMNS, LABEL, GAP = 5, 18, 6


def said(name: str, part: str) -> str:
    """What the docstring of a preset says in the paragraph that starts with `part`."""
    paragraphs = (inspect.getdoc(PRESETS[name]) or "").split("\n\n")
    (found,) = (text for text in paragraphs if text.startswith(f"{part}: "))
    sentence = " ".join(found.split()).removeprefix(f"{part}: ")
    return sentence[0].upper() + sentence[1:]


def shown(step: Step) -> str:
    """A bound step as `np (unit block, b 16, P image)`, without defaults of its kind, and P where it is b."""
    default = KINDS[step.kind]()
    values = {name: getattr(step, name) for name in step.parameters()}
    parts = [f"{name} {value}" for name, value in values.items() if value != getattr(default, name)]
    parts.append(f"b {step.block_size}")
    if step.period != step.block_size:
        parts.append(f"P {step.period}")
    return f"{step.kind} ({', '.join(parts)})"


def bits(scheme: Scheme) -> str:
    return f"{scheme.key_space_bits(SIDE, SIDE):,.0f}"


def table() -> str:
    lines = [
        f"| preset | source | steps | key space, bits at {SIDE} x {SIDE} | does not withstand |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for name, preset in PRESETS.items():
        scheme = preset()
        steps = ", ".join(map(shown, scheme.bound_steps))
        columns = (name, said(name, "Source"), steps, bits(scheme), said(name, "Does not withstand"))
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def panels() -> dict[str, np.ndarray]:
    """The photo, uint8 [PANEL, PANEL, 3], as it is and under each preset."""
    photo = next(iter(demo.photos().values()))
    height, width = photo.shape[:2]
    left = (width - height) // 2
    square = Image.fromarray(photo[:, left : left + height]).resize((PANEL, PANEL), Image.Resampling.LANCZOS)
    plain = np.asarray(square)
    return {"as it is": plain, **dict(demo.presets(plain))}


def place(n: int) -> tuple[int, int]:
    """Left and top of the n-th panel in the picture; its label is above it."""
    row, column = divmod(n, COLUMNS)
    return GAP + column * (PANEL + GAP), LABEL + row * (PANEL + LABEL + GAP)


def sheet(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    right, bottom = place(COLUMNS - 1)[0], place(len(pictures) - 1)[1]
    image = Image.new("RGB", (right + PANEL + GAP, bottom + PANEL + GAP), "white")
    draw = ImageDraw.Draw(image)
    for n, (name, pixels) in enumerate(pictures.items()):
        left, top = place(n)
        draw.text((left, top - LABEL + 2), name, fill="black", font=ImageFont.load_default(13))
        image.paste(Image.fromarray(pixels), (left, top))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.presets",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    options.page.write_text(pages.replace(options.page.read_text(), "presets", table()))
    # Noise does not compress: as PNG the picture would be four times as large.
    sheet(panels()).save(options.page.with_name(PICTURE), quality=80, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
