"""The table and the plot of docs/blinding.md out of the recorded results: python -m benchmarks.blinding.page

Between `<!-- blinding -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from benchmarks import pages
from blockenc.files import atomic_write

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "blinding.md"
PLOT = PAGE.with_name("blinding.png")
PARTS = ("rows_within_8", "part_of_the_block", "neighbour")  # of a key, as a reader finds them
READERS = ("weights", "behaviour", "logits")
GOAL_LEAK, GOAL_LOSS = 10, 1  # points

Row = dict[str, Any]


def leak(found: dict[str, float]) -> float:
    """The most that a reader finds above guessing of any part of the key, in points."""
    return max(100 * (found[part] - found[f"{part}_guessing"]) for part in PARTS if part in found)


def lost(rows: list[Row], row: Row) -> float:
    """Points of accuracy below the plain model, whose folded form is the first row."""
    return 100 * (rows[0]["accuracy"] - row["accuracy"])


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    config = results["plain"]["config"]
    weights = rows[0]["weights"]
    guesses = ", ".join(f"{100 * weights[f'{part}_guessing']:.1f}" for part in PARTS)
    lines = [
        f"Measured by `{results['command']}` on {results['date'][:10]}: {results['cpu']}, torch "
        f"{results['versions']['torch']}. The plain model: `fast --stem embedding --block-size 4 --epochs "
        f"{config['epochs']:g}`, one seed, {100 * rows[0]['accuracy']:.2f} % of the 10,000 test images; "
        f"one key, all three steps. Cells of readers: values read to 8 of 255, the right pixel, most similar "
        f"position beside it (guessing: {guesses}), all in %.",
        "",
        pages.table(
            "blinding | strength | accuracy lost, points | weight reader | behaviour reader | logit reader | "
            "most read above guessing, points: weights, behaviour, logits",
            (
                [row["kind"], f"{row['strength']:g}", f"{lost(rows, row):.2f}", *_readers(row), _leaks(row)]
                for row in rows
            ),
        ),
    ]
    for kind, found in results.get("noise alone", {}).items():
        lines += [
            "",
            f"{kind.capitalize()} of strength 1 alone, without the stem, varies {found['variance']:.1f} "
            f"times as much over natural blocks as the stem's outputs do; by it the weight reader finds "
            f"{100 * found['neighbour']:.0f} % of the neighbours.",
        ]
    return "\n".join(lines)


def _readers(row: Row) -> list[str]:
    return [
        " / ".join(f"{100 * row[reader][part]:.0f}" if part in row[reader] else "–" for part in PARTS)
        if reader in row
        else ""
        for reader in READERS
    ]


def _leaks(row: Row) -> str:
    return ", ".join(f"{leak(row[reader]):.0f}" if reader in row else "–" for reader in READERS)


def plot(results: dict[str, Any]) -> bytes:
    """PNG: what readers find against the accuracy that is lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    rows = results["rows"]
    for ax, reader in zip(axes, READERS):
        ax.axvspan(-1, GOAL_LOSS, 0, (GOAL_LEAK + 5) / 105, color="tab:green", alpha=0.15, label="the goal")
        for kind in dict.fromkeys(row["kind"] for row in rows):
            of_kind = [row for row in rows if row["kind"] == kind]
            x = [lost(rows, row) for row in of_kind]
            ax.plot(x, [leak(row[reader]) for row in of_kind], "o-", markersize=4, label=kind)
        ax.set(xscale="symlog", xlim=(-1, 100), ylim=(-5, 100), title=f"the reader of {reader}")
        ax.set_xlabel("accuracy lost, points")
    axes[0].set_ylabel("most read above guessing, points")
    axes[1].legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with the table of these results."""
    return pages.replace(text, "blinding", table(results))


def main() -> None:
    page, results = pages.write("benchmarks.blinding.page", __doc__, RESULTS, PAGE, fill)
    atomic_write(page.with_suffix(".png"), plot(results))


if __name__ == "__main__":
    main()
