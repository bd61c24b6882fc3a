"""Tables of the fast recipe in docs/accuracy.md, of recorded runs: python -m benchmarks.accuracy.fast_page

One JSON a job in benchmarks/accuracy/results/fast, as `benchmarks.accuracy.grid` or `fast_study` writes it;
leak.json, of `benchmarks.accuracy.leak`; jpeg*.json, of `benchmarks.accuracy.fast_jpeg`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.accuracy import fast_family, fast_jpeg, fast_study, fast_trade_off
from benchmarks.accuracy.fast_tune import EPOCHS, IMAGES, RATES, STARTS

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
Results = list[dict[str, Any]]


def recorded(folder: Path, prefix: str) -> Results:
    """The runs whose names begin so, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{prefix}-*.json"))]


def percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f}"


def spread(found: dict[str, Any]) -> str:
    """The mean of accuracies, and their range."""
    return f"{percent(found['mean'], 1)} ({percent(found['min'], 1)} to {percent(found['max'], 1)})"


def beside_guessing(found: dict[str, float], share: str) -> str:
    return f"{percent(found[share], 1)} ({percent(found[f'{share}_guessing'], 1)})"


def folded_table(results: Results) -> str:
    """Plain models with a key folded into them."""

    def cells(found: dict[str, Any]) -> Iterable[str]:
        exact = found["exact"]
        preset = f", {found['preset']}" if "preset" in found else ""
        yield f"{found['of']}{preset}, M = {found['block_size']}"
        yield percent(exact["plain_accuracy"])
        yield percent(exact["folded_accuracy"])
        yield str(exact["other_predictions"])
        yield f"{exact['largest_difference']:.0e}"
        yield spread(found["wrong_keys"])
        yield percent(found["plain_images"], 1)

    head = (
        "plain model | accuracy, % | with the key folded in, right key, % | other predictions of 10,000 | "
        "largest difference of an output | 100 wrong keys, %: mean (range) | plain images, %"
    )
    return pages.table(head, map(cells, results))


def tuning_table(results: Results) -> str:
    """Accuracy by start, learning rate, epochs and number of training images."""
    right = {
        tuple(found["tuning"][part] for part in ("start", "lr", "epochs", "images")): found["evaluation"]
        for found in results
    }

    def cells(*way: Any) -> Iterable[str]:
        start, rate, epochs = way
        yield from (start, f"{rate:g}", str(epochs))
        for images in IMAGES:
            found = right.get((*way, images))
            yield percent(found["right_key"]["one_view"], 1) if found else "not run"

    ways = ((start, rate, epochs) for start in STARTS for rate in RATES[start] for epochs in EPOCHS)
    head = " | ".join(["start", "learning rate", "epochs", *(f"{images:,} images" for images in IMAGES)])
    return pages.table(head, (cells(*way) for way in ways))


def leak_table(measures: Results) -> str:
    """What weights tell of the key."""

    def cells(found: dict[str, Any]) -> Iterable[str]:
        values, places = found["values"], found["places"]
        yield found["run"]
        yield beside_guessing(values, "rows_within_8")
        yield f"{values['rank_correlation']:.2f}"
        yield beside_guessing(places, "part_of_the_block")
        yield beside_guessing(places, "neighbour")

    head = (
        "model | values of the table read to 8 of 255, % (guessing) | rank correlation | "
        "pixel read rightly, % (guessing) | most similar position beside it, % (guessing)"
    )
    return pages.table(head, map(cells, measures))


def fill(text: str, folder: Path) -> str:
    """The page with the tables of the runs in this folder."""
    text = pages.replace(text, "fast rows", "\n" + fast_study.table(folder) + "\n")
    folded = recorded(folder, "folded")
    of_presets = [found for found in folded if "preset" in found]
    of_steps = [found for found in folded if "preset" not in found]
    text = pages.replace(text, "fast folded", "\n" + folded_table(of_steps) + "\n")
    said = folded_table(of_presets) if of_presets else "Not run."
    text = pages.replace(text, "fast family folded", "\n" + said + "\n")
    text = pages.replace(text, "fast family", "\n" + fast_family.table(folder) + "\n")
    text = pages.replace(text, "fast jpeg", "\n" + fast_jpeg.table(folder) + "\n")
    trade_off = fast_trade_off.table(fast_trade_off.rows(folder))
    text = pages.replace(text, "fast trade-off", "\n" + trade_off + "\n")
    measures = json.loads((folder / "leak.json").read_text())["leak"]
    text = pages.replace(text, "fast leak", "\n" + leak_table(measures) + "\n")
    return pages.replace(text, "fast tuning", "\n" + tuning_table(recorded(folder, "tune")) + "\n")


def main() -> None:
    options = pages.options("benchmarks.accuracy.fast_page", __doc__, fast_study.RESULTS, PAGE)
    options.page.write_text(fill(options.page.read_text(), options.results))
    fast_trade_off.draw(fast_trade_off.rows(options.results), options.page.parent / "accuracy-trade-off.png")


if __name__ == "__main__":
    main()
