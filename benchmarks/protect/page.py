"""The table of docs/protect.md out of the recorded results: python -m benchmarks.protect.page

Between `<!-- cost -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "protect.md"


def table(results: dict[str, Any]) -> str:
    versions = results["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm"))
    lines = [
        f"Measured by `{results['command']}` on {results['date'][:10]}: {results['cpu']}, "
        f"{results['threads']} threads, {results['batch']} images at once in float32, medians of "
        f"{results['repeats']}; {packages}.",
        "",
        "| model | side | scheme | largest difference | first layer becomes | million multiply-adds an "
        "image | first layer, MB | plain, ms | folded | decrypting layer | whole model, MB | "
        "peak of protect, MB | peak of a batch, MB |",
        "| --- |" + " ---: |" + " --- |" + " ---: |" + " --- |" + " ---: |" * 8,
    ]
    for row in results["rows"]:
        plain, folded = row["first layer"]["plain"], row["first layer"]["folded"]
        work = " → ".join(f"{layer['multiply-adds'] / 1e6:.1f}" for layer in (plain, folded))
        size = " → ".join(f"{layer['bytes'] / 1e6:.2f}" for layer in (plain, folded))
        lines.append(
            f"| {row['model']} | {row['side']} | {row['name']} | {row['largest difference']:.0e} | "
            f"{folded['type']} | {work} | {size} | {_times(row['seconds'])} | {_memory(row['memory'])} |"
        )
    return "\n".join(lines)


def _times(seconds: dict[str, float]) -> str:
    ratios = (f"{seconds[form] / seconds['plain']:.2f} x" for form in ("folded", "decrypting"))
    return " | ".join([f"{1000 * seconds['plain']:.0f}", *ratios])


def _memory(found: dict[str, int]) -> str:
    model, protect, plain, folded = (
        f"{found[name] / 1e6:.0f}" for name in ("model", "protect", "plain", "folded")
    )
    return f"{model} | {protect} | {plain} → {folded}"


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with the table of these results."""
    return pages.replace(text, "cost", table(results))


def main() -> None:
    pages.write("benchmarks.protect.page", __doc__, RESULTS, PAGE, fill)


if __name__ == "__main__":
    main()
