"""The table and the plot of docs/jpeg.md out of the recorded results: python -m benchmarks.jpeg.page

Between `<!-- jpeg -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.jpeg.study import PLAIN, QUALITIES, SHUFFLE
from blockenc.datasets.coding import SUBSAMPLINGS

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "jpeg.md"
PLOT = "jpeg-rate.png"
TICKS = (1, 2, 4, 8)  # bits a pixel

Results = dict[str, Any]
Case = tuple[str, int | None, str]  # name, block size, subsampling


def cases(results: Results) -> dict[Case, list[dict[str, Any]]]:
    """The rows of each case, in the order of their qualities."""
    found: dict[Case, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        found.setdefault((row["name"], row["block_size"], row["subsampling"]), []).append(row)
    return found


def bits_at(rows: list[dict[str, Any]], psnr: float) -> float | None:
    """Bits a pixel for a PSNR, between the qualities measured; None beyond them."""
    for low, high in itertools.pairwise(rows):
        if low["psnr"] <= psnr <= high["psnr"]:
            share = (psnr - low["psnr"]) / (high["psnr"] - low["psnr"])
            return float(low["bits"] + share * (high["bits"] - low["bits"]))
    return None


def more_bits(rows: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """How many more bits a case takes for the PSNR that plain JPEG has at quality 80; in percent."""
    at_80 = next(row for row in plain if row["quality"] == 80)
    bits = bits_at(rows, at_80["psnr"])
    return "not reached" if bits is None else f"{100 * (bits / at_80['bits'] - 1):+.0f} %"


def table(results: Results) -> str:
    """Bits a pixel / dB, a line a case, a column a quality."""
    found = cases(results)
    packages = ", ".join(
        f"{name} {results['versions'][name]}" for name in ("pillow", "libjpeg-turbo", "blockenc")
    )
    lines = [
        f"Measured by `{results['command']}` on {results['date'][:10]}: {results['photos']} photos, "
        f"{results['megapixels']:.1f} megapixels; {packages}. Each cell: bits a pixel, dB (dB with a usual "
        "decoder, where it is another).",
        "",
        "| scheme | blocks | chroma | " + " | ".join(f"Q = {q}" for q in QUALITIES) + " | bits for the PSNR "
        "of plain Q = 80 |",
        "|---" * (4 + len(QUALITIES)) + "|",
    ]
    for (name, size, subsampling), rows in found.items():
        cells = [f"{row['bits']:.2f}, {row['psnr']:.1f}{_usual(row)}" for row in rows]
        refused = " (refused)" * rows[0]["refused"]
        more = "" if name == PLAIN else more_bits(rows, found[PLAIN, None, subsampling])
        blocks = "" if size is None else f"{size} x {size}"
        lines.append(
            f"| {name}{refused} | {blocks} | {SUBSAMPLINGS[subsampling]} | {' | '.join(cells)} | {more} |"
        )
    return "\n".join(lines) + "\n"


def _usual(row: dict[str, Any]) -> str:
    return "" if row["usual"] == row["psnr"] else f" ({row['usual']:.1f})"


def plot(results: Results, path: Path) -> None:
    """PSNR after decryption against bits a pixel, one panel a subsampling."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    colours = {"plain": "black", "scramble": "C0", "all steps": "C1", SHUFFLE: "C3"}
    for axis, (subsampling, spelled) in zip(axes, SUBSAMPLINGS.items()):
        for (name, size, sampled), rows in cases(results).items():
            if sampled != subsampling:
                continue
            label = name + (f", {size} x {size}" if size else "") + ", refused" * rows[0]["refused"]
            style = {"color": colours[name], "marker": "o", "markersize": 4}
            style |= {"linestyle": "--" if size == 16 else "-", "linewidth": 2.5 if name == PLAIN else 1.5}
            bits = [row["bits"] for row in rows]
            axis.plot(bits, [row["psnr"] for row in rows], label=label, **style)
            if any(_usual(row) for row in rows):
                style |= {"linestyle": ":", "marker": "x"}
                axis.plot(bits, [row["usual"] for row in rows], label=f"{label}, usual decoder", **style)
        axis.set(xlabel="bits a pixel", title=f"chroma {spelled}", xscale="log")
        axis.set_xticks(TICKS, map(str, TICKS))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, loc="upper left", fontsize=8)
    axes[0].set_ylabel("PSNR after decryption, dB")
    qualities = ", ".join(map(str, QUALITIES))
    figure.suptitle(f"JPEG of encrypted photos, Q = {qualities}; means of {results['photos']} photos")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def fill(text: str, results: Results) -> str:
    """The page with the table of these results."""
    return pages.replace(text, "jpeg", f"\n{table(results)}\n![PSNR against bits a pixel]({PLOT})\n")


def main() -> None:
    page, results = pages.write("benchmarks.jpeg.page", __doc__, RESULTS, PAGE, fill)
    plot(results, page.with_name(PLOT))


if __name__ == "__main__":
    main()
