"""The tables of docs/cuda.md out of the recorded runs: python -m benchmarks.speed.cuda_page

One JSON a device in benchmarks/speed/results/cuda, as `python -m benchmarks.speed.cuda --json` writes it; its
name is the heading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cuda"
PAGE = HERE.parents[1] / "docs" / "cuda.md"


def device_table(run: dict[str, Any]) -> str:
    """Milliseconds of each call, and blockenc's speed as a part of a copy's."""
    names = list(dict.fromkeys(name for row in run["rows"] for name in row["milliseconds"]))
    others = [name for name in names if name not in ("copy_", "blockenc")]
    head = " | ".join(["row", "`copy_`, ms", "blockenc, ms", "copy_/blockenc", *(f"{n}, ms" for n in others)])

    def cells(row: dict[str, Any]) -> list[str]:
        times = row["milliseconds"]
        return [
            row["name"],
            f"{times['copy_']:.4f}",
            f"{times['blockenc']:.4f}",
            f"{times['copy_'] / times['blockenc']:.2f}",
            *(f"{times[name]:.4f}" if name in times else "" for name in others),
        ]

    return pages.table(head, map(cells, run["rows"]))


def fill(text: str, folder: Path) -> str:
    """The page with the tables of these runs. Raises ValueError for one at tiny size."""
    tables = []
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        if run["tiny"]:
            raise ValueError(f"{path.name}: expected a measurement, got a run with --tiny")
        said = f"{run['device']}, CUDA {run['cuda']}, torch {run['torch']}, {run['date']}"
        tables.append(
            f"### {path.stem}\n\n{said}; medians of {run['rounds']} rounds:\n\n{device_table(run)}\n"
        )
    return pages.replace(text, "cuda", "\n" + "\n".join(tables))


def main() -> None:
    options = pages.options("benchmarks.speed.cuda_page", __doc__, RESULTS, PAGE)
    options.page.write_text(fill(options.page.read_text(), options.results))


if __name__ == "__main__":
    main()
