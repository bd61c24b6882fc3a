"""The tables of docs/attacks-models.md out of the recorded results: python -m benchmarks.attacks_models.page

Between `<!-- NAME -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.attacks_models import grid_tables
from benchmarks.attacks_models.study import NAMES

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "attacks-models.md"

# arXiv 2010.00801, M = 4, ResNet-18, in %: accuracy; success of PGD (8/255) with another key, and with an
# estimated one.
PAPER = {
    "shuffle": {"accuracy": "91.84", "another key": "3.3", "estimated key": "3.70"},
    "np": {"accuracy": "93.41", "another key": "4.6", "estimated key": "77.76"},
    "ffx": {"accuracy": "92.30", "another key": "2.0", "estimated key": "3.27"},
}
NONE = "–"


def percent(number: float) -> str:
    return f"{100 * number:.1f}"


def networks(results: list[dict[str, Any]]) -> str:
    rows = []
    for found in results:
        training, name = found["training"], found["name"]
        seconds = f"{training['seconds'] / 60:.0f}"
        paper = PAPER.get(name, {}).get("accuracy", NONE)
        rows.append([NAMES[name], percent(training["accuracy"]), paper, seconds, f"`{found['command']}`"])
    head = "steps, M = 4 | accuracy, % | the paper's ResNet-18 | minutes of training | attacked by"
    threads = " or ".join(sorted({str(found["threads"]) for found in results}))
    machine = f"{results[0]['cpu']}, {threads} threads, {results[0]['date'][:10]}"
    return f"{pages.table(head, rows)}\n\n{machine}."


def searches(results: list[dict[str, Any]]) -> str:
    rows = []
    for found in results:
        for name, search in found["attacks"].get("key search", {}).items():
            scores, used = search["scores"], search.get("used", {})
            accuracy = percent(scores["accuracy"])
            if "mean accuracy" in scores:
                accuracy = f"{accuracy} (mean {percent(scores['mean accuracy'])})"
            share = percent(scores["key share"]) if "key share" in scores else NONE
            queries = f"{used['queries']:.0f}" if used else NONE
            rows.append([NAMES[found["name"]], name, accuracy, share, queries])
    return pages.table("steps | search | accuracy, % | share of the key, % | queries", rows)


def changed(results: list[dict[str, Any]]) -> str:
    ways = list(results[0]["attacks"]["PGD"])
    rows = []
    for found in results:
        if "PGD" not in found["attacks"]:
            continue
        paper = PAPER.get(found["name"], {})
        budget = f"{found['budget']['pgd_images']}, {found['budget']['pgd_steps']}"
        successes = [percent(found["attacks"]["PGD"][way]["scores"]["success"]) for way in ways]
        papers = [paper.get(way, NONE) for way in ("another key", "estimated key")]
        rows.append([NAMES[found["name"]], budget, *successes, *papers])
    head = ["steps", "images, steps of PGD", *ways, "the paper's, another key", "the paper's, estimated key"]
    return pages.table(" | ".join(head), rows)


def ordered(results: list[dict[str, Any]]) -> str:
    rows = []
    for found in results:
        for name, result in found["attacks"].get("seriation", {}).items():
            scores = result["scores"]
            correlation, error = f"{scores['rank correlation']:.3f}", f"{scores['rank error']:.1f}"
            rows.append([NAMES[found["name"]], name, correlation, error, f"{result['used']['queries']:.0f}"])
    return pages.table("steps | answers of | rank correlation | rank error, values | images asked", rows)


Found = tuple[list[dict[str, Any]], grid_tables.Records]


def load(folder: Path) -> Found:
    """The results there are, in the order of the tables: of small networks, and of those of the grid."""
    paths = [folder / f"{name}.json" for name in NAMES]
    small = [json.loads(path.read_text()) for path in paths if path.exists()]
    return small, grid_tables.load(folder / "grid")


def fill(text: str, found: Found) -> str:
    """The page with the tables of these results."""
    small, records = found
    for name, table in (
        ("networks", networks),
        ("searches", searches),
        ("changed", changed),
        ("ordered", ordered),
    ):
        text = pages.replace(text, name, table(small))
    return grid_tables.fill(text, records)


def main() -> None:
    pages.write("benchmarks.attacks_models.page", __doc__, RESULTS, PAGE, fill, load)


if __name__ == "__main__":
    main()
