"""The tables of docs/performance.md out of the recorded runs: python -m benchmarks.speed.page

One JSON a machine in benchmarks/speed/results, as `python -m benchmarks.speed --scaling --json` writes it;
its name is the heading. Between `<!-- speed -->` and `<!-- end -->` the page is written anew; the text around
is left alone. The plot beside the page is of the first run, by name, that has the scaling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks import pages
from benchmarks.speed import report

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "performance.md"
NOTHING = "No run has been recorded yet.\n"
PLOT = "performance-scaling.png"


def recorded(folder: Path) -> dict[str, report.Results]:
    """The runs by name. Raises ValueError for one at tiny size, which measures nothing."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for name, results in runs.items():
        if results["tiny"]:
            raise ValueError(f"{name}.json: expected a measurement, got a run with --tiny")
    return runs


def fill(text: str, runs: Mapping[str, report.Results]) -> str:
    """The page with the tables of these runs."""
    tables = [f"### {name}\n\n{report.table(results)}" for name, results in runs.items()]
    if with_scaling(runs):
        tables.append(f"![speed by size and threads]({PLOT})\n")
    return pages.replace(text, "speed", "\n" + ("\n".join(tables) or NOTHING))


def with_scaling(runs: Mapping[str, report.Results]) -> report.Results | None:
    """The run that is plotted."""
    return next((results for results in runs.values() if results["scaling"]), None)


def main() -> None:
    page, runs = pages.write("benchmarks.speed.page", __doc__, RESULTS, PAGE, fill, recorded)
    if plotted := with_scaling(runs):
        report.plot(plotted, page.with_name(PLOT))


if __name__ == "__main__":
    main()
