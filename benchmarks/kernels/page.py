"""The table of docs/kernels.md out of the recorded results: python -m benchmarks.kernels.page

Between `<!-- digits -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "kernels.md"


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    lines = [
        f"`{results['command']}`, {results['date'][:10]}, scikit-learn "
        f"{results['versions']['scikit-learn']}: the 1,797 digits in halves (seed {results['seed']}), "
        f"{len(rows[0]['wrong'])} wrong keys. Accuracies in %; chance is 10.",
        "",
        "| scheme | kernel | plain | right key | predictions as plain | wrong keys: mean (from, to) "
        "| no key |",
        "| --- | --- |" + " ---: |" * 5,
    ]
    for row in rows:
        wrong = [100 * accuracy for accuracy in row["wrong"]]
        spread = f"{statistics.mean(wrong):.1f} ({min(wrong):.1f}, {max(wrong):.1f})"
        right = " | ".join(f"{100 * row[name]:.1f}" for name in ("plain", "right", "as plain"))
        lines.append(f"| {row['name']} | {row['machine']} | {right} | {spread} | {100 * row['none']:.1f} |")
    return "\n".join(lines)


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with the table of these results."""
    return pages.replace(text, "digits", table(results))


def main() -> None:
    pages.write("benchmarks.kernels.page", __doc__, RESULTS, PAGE, fill)


if __name__ == "__main__":
    main()
