"""Accuracy without loss against what a model betrays of its key: table and plot of docs/accuracy.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import pages
from benchmarks.accuracy import fast_study

ANSWERS = Path(__file__).parents[1] / "attacks_models" / "results"
ROWS = {
    "conv-m4-all": "conv stem, no key",
    "embedding-m4-all": "embedding, no key",
    "embedding-m4-all-distilled0.5": "embedding, no key, taught by a plain model",
    "embedding-m4-all-curriculum0.5": "embedding, no key, step after step",
    "embedding-m4-all-recovered": "embedding, no key, start recovered by an attack",
    "embedding-m4-all-protected": "embedding, start protected with the key",
}


class Row(NamedTuple):
    """What a model loses and betrays; None where it was not measured.

    below: points below the stem's plain row. table, logits: rank correlations of ffx's table with what is
    read of the weights and of the logits. places: the share of the positions that are read of the weights.
    masks: the shares of ffx's mask, and of np's where ffx is not, that are read of the logits.
    """

    said: str
    below: float | None
    table: float | None
    logits: float | None
    places: float | None
    masks: tuple[float, float] | None


def rows(results: Path) -> list[Row]:
    groups = fast_study.grouped(results)
    leaks = {found["run"]: found for found in json.loads((results / "leak.json").read_text())["leak"]}
    found = []
    for name, said in ROWS.items():
        if name not in groups:
            continue
        leak: dict[str, Any] | None = leaks.get(f"{name}-seed0")
        seriation, slopes = (_answers(name, attack) for attack in ("seriation", "slopes"))
        logits = seriation and seriation["several positions"]["scores"]["rank correlation"]
        masks = slopes and tuple(slopes["trained"]["scores"][share] for share in ("ffx share", "np share"))
        found.append(
            Row(
                said,
                fast_study.below_plain(name, groups),
                leak and leak["values"]["rank_correlation"],
                logits,
                leak and leak["places"]["part_of_the_block"],
                masks,
            )
        )
    return found


def _answers(name: str, attack: str) -> Any:
    """What an attack on the answers of a row's first model came to; None where it was not run."""
    path = ANSWERS / f"{name}-seed0.{attack}.json"
    return json.loads(path.read_text())["result"] if path.exists() else None


def table(found: list[Row]) -> str:
    def cells(row: Row) -> list[str]:
        numbers = [f"{n:.2f}" if n is not None else "not measured" for n in row[1:4]]
        places = f"{100 * row.places:.0f}" if row.places is not None else "not measured"
        masks = " and ".join(f"{100 * n:.0f}" for n in row.masks) if row.masks else "not measured"
        return [row.said, *numbers, places, masks]

    head = (
        "all three steps, M = 4 | below plain, points | table of ffx, read of weights: rank correlation | "
        "read of logits | positions read of weights, % | masks of ffx and np read of logits, %"
    )
    return pages.table(head, map(cells, found))


def draw(found: list[Row], path: Path) -> None:
    """Points below plain against the rank correlation of the table that logits give away."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    shown = [row for row in found if row.below is not None and row.logits is not None]
    for n, row in enumerate(shown):
        axes.plot(row.logits, row.below, "o", color=f"C{n}", label=row.said, markersize=9)
    axes.set_xlabel("ffx's table read of logits: rank correlation")
    axes.set_ylabel("points below the plain model")
    axes.set_xlim(-0.05, 1.05)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.legend(fontsize=8, loc="upper right")
    axes.set_title("What a model loses, and what it betrays (all three steps, M = 4)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
