"""The table of docs/passports.md out of the recorded results: python -m benchmarks.passports.page

Between `<!-- cost -->` and `<!-- end -->` the page is written anew; the text around is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import pages

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "passports.md"


def table(results: dict[str, Any]) -> str:
    plain = results["rows"][0]

    def time(row: dict[str, Any], what: str) -> str:
        taken = row.get(f"{what}_ms")
        return "–" if taken is None else f"{taken:.0f} ms, {taken / plain[f'{what}_ms']:.3f} x"

    rows = [
        [
            row["form"],
            f"{row['parameters']:,}",
            f"{row['passports']:,}",
            time(row, "training"),
            time(row, "inference"),
        ]
        for row in results["rows"]
    ]
    said = (
        f"`{results['command']}`, {results['date'][:10]}: {results['cpu']}, {results['threads']} threads, "
        f"batches of {results['batch']} images, float32, medians of {results['rounds']} or more; "
        f"torch {results['versions']['torch']}."
    )
    head = "form|parameters|numbers in passports|training step, of plain|inference, of plain"
    return f"{said}\n\n{pages.table(head, rows)}"


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with the table of these results."""
    return pages.replace(text, "cost", table(results))


def main() -> None:
    pages.write("benchmarks.passports.page", __doc__, RESULTS, PAGE, fill)


if __name__ == "__main__":
    main()
