"""How fast blockenc is, as a ratio to a copy of the same bytes, beside what a user would pick instead.

python -m benchmarks.speed                   the rows that have budgets (docs/performance.md)
python -m benchmarks.speed --grid            every size, layout, block size, number of steps and type
python -m benchmarks.speed --out DIR         also results.json, table.md and roofline.png (with --scaling)
python -m benchmarks.speed --from results.json --out DIR    the same files again, nothing measured
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from benchmarks.speed import measure, report
from benchmarks.speed.peers import PEERS
from benchmarks.speed.rows import grid, report_rows


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--grid", action="store_true", help="everything, not only the rows with budgets")
    parser.add_argument(
        "--scaling", action="store_true", help="also 1 MB to 600 MB, 1 thread to --threads; takes 1.9 GB"
    )
    parser.add_argument("--tiny", action="store_true", help="batches of one, to see that it runs")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row (default 5)")
    parser.add_argument("--rows", default="", help="only the rows with this in their name (default all)")
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="NAME",
        help=f"only these of {', '.join([*measure.contenders(), *PEERS])} (default all)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json, table.md, roofline.png")
    parser.add_argument("--from", type=Path, dest="source", metavar="JSON", help="show this, measure nothing")
    return parser


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> report.Results:
    """Measure what the options ask for."""
    rows = [row for row in (grid() if options.grid else report_rows()) if options.rows in row.name]
    if not rows:
        parser.error(f"--rows: no row has {options.rows!r} in its name")
    everyone = ["copy_", *measure.contenders(), *(name for name in PEERS if name != "copy_")]
    if unknown := set(options.only or []) - set(everyone):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(everyone)}")
    names = [name for name in everyone if options.only is None or name in options.only]
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    results = {**report.about(command, options.threads), "tiny": options.tiny, "rows": []}
    for row in rows:
        print(row.name, file=sys.stderr, flush=True)
        results["rows"].append(measure.measure_row(row, names, options.seconds, options.tiny))
    whole = not options.grid and not options.rows
    results["import_seconds"] = measure.measure_import(options.tiny) if whole else None
    results["budgets"] = [] if options.grid else report.judge(results)
    scaling = options.scaling or options.out is not None
    results["scaling"] = (
        measure.measure_scaling(options.threads, names, options.seconds / 5, options.tiny) if scaling else []
    )
    return results


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    results = json.loads(options.source.read_text()) if options.source else run(options, parser)
    text = report.table(results)
    print(text, end="")
    written = json.dumps(results, indent=1) + "\n"
    if options.json:
        options.json.write_text(written)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(written)
        (options.out / "table.md").write_text(text)
        if results["scaling"]:
            report.plot(results, options.out / "roofline.png")


if __name__ == "__main__":
    main()
