"""The table of docs/vision.md out of the recorded results: python -m benchmarks.vision.page

Between `<!-- vision -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "vision.md"
METRICS = {"segmentation": "mean IoU", "detection": "mAP"}

Row = dict[str, Any]


def rows(folder: Path) -> list[Row]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def table(found: list[Row]) -> str:
    one, dates = found[0], sorted(row["date"][:10] for row in found)
    packages = ", ".join(
        f"{name} {one['versions'][name]}" for name in ("torch", "torchvision", "torchmetrics")
    )
    threads = "one thread" if one["threads"] == 1 else f"{one['threads']} threads"
    lines = [
        f"Measured by `{one['command']}` until {dates[-1]}: {one['scenes']} scenes, {one['epochs']} epochs, "
        f"{one['test scenes']} test scenes; {one['cpu']}, {threads}; {packages}. In percent, seed by seed: "
        "the mean IoU of the segmenter, and COCO's mAP of the detector; of wrong keys the mean, and the best "
        "in brackets.",
        "",
        "| model | key | right key | wrong keys | no key | deployed |",
        "| --- | --- |" + " ---: |" * 4,
    ]
    for task, form in dict.fromkeys((row["task"], row["form"]) for row in ordered(found)):
        of_form = [row for row in ordered(found) if (row["task"], row["form"]) == (task, form)]
        cells = [
            ", ".join(filter(None, (cell(row, METRICS[task]) for row in of_form)))
            for cell in (_right, _wrong, _none, _deployed)
        ]
        lines.append(f"| {task} | {form} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ordered(found: list[Row]) -> list[Row]:
    """Tasks and forms in the order of the study, seeds ascending."""
    tasks = list(METRICS)
    return sorted(found, key=lambda row: (tasks.index(row["task"]), FORMS.index(row["form"]), row["seed"]))


FORMS = (
    "plain",
    "images, trained so",
    "images, folded afterwards",
    "feature maps, trained so",
    "feature maps, folded afterwards",
)


def _right(row: Row, metric: str) -> str:
    return f"{row['right'][metric]:.1f}"


def _wrong(row: Row, metric: str) -> str:
    scores = [scores[metric] for scores in row.get("wrong", ())]
    return f"{statistics.mean(scores):.1f} ({max(scores):.1f})" if scores else ""


def _none(row: Row, metric: str) -> str:
    return f"{row['none'][metric]:.1f}" if "none" in row else ""


def _deployed(row: Row, metric: str) -> str:
    return f"{row['deployed'][metric]:.1f}" if "deployed" in row else ""


def fill(text: str, found: list[Row]) -> str:
    """The page with the table of these rows."""
    return pages.replace(text, "vision", table(found))


def main() -> None:
    pages.write("benchmarks.vision.page", __doc__, RESULTS, PAGE, fill, rows)


if __name__ == "__main__":
    main()
