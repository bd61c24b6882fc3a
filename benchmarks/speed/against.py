"""This checkout and another one, say that of the commit before a change, in turn on the same rows:

python -m benchmarks.speed.against CHECKOUT              every row of benchmarks.speed that both have
python -m benchmarks.speed.against CHECKOUT --rows CIFAR --backend native/avx2

CHECKOUT: a folder with the repository and its extension built in place (git worktree add; python setup.py
build_ext --inplace). Each checkout works in a process of its own; one works while the other waits, since
machines drift, and the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
ROUNDS = 40


def work(backend: str | None) -> None:
    """The process of one checkout. Reads "rows", "row NAME" or "turn" a line, answers with a line of JSON."""
    from benchmarks.speed import measure
    from benchmarks.speed.rows import report_rows

    rows = {row.name: row for row in report_rows()}
    call: Callable[[], Any] = list
    repeats, count = 1, None
    for line in sys.stdin:
        request, _, name = line.strip().partition(" ")
        answer: Any = None
        if request == "rows":
            answer = list(rows)
        elif request == "row":
            case = measure.make_case(rows[name])
            call, count = case.encrypt(case.cipher(backend)), rows[name].threads
            with measure.threads(count):
                call()
                repeats = max(1, int(measure.TURN / seconds(call)))
        else:
            with measure.threads(count):
                time.sleep(measure.SETTLE)
                for _ in range(repeats - 1):  # a sleep leaves caches and clocks cold for short calls
                    call()
                answer = [seconds(call) for _ in range(repeats)]
        print(json.dumps(answer), flush=True)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Checkout:
    """A process that works with the code of one folder."""

    def __init__(self, folder: Path, backend: str | None) -> None:
        command = [sys.executable, __file__, "--work", *([backend] if backend else [])]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, request: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(self._process.wait() or 1)  # it printed why
        return json.loads(answer)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.against",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="the folder to compare with")
    parser.add_argument("--rows", default="", help="only the rows with this in their name (default all)")
    parser.add_argument("--backend", help="as for blockenc.Cipher (default: the fastest)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each (default {ROUNDS})")
    parser.add_argument("--json", type=Path, help="write the medians here, too")
    options = parser.parse_args()
    if not (options.checkout / "benchmarks" / "speed").is_dir():
        parser.error(f"checkout: expected a folder with this repository in it, got {options.checkout}")
    this, other = (Checkout(path, options.backend) for path in (HERE, options.checkout.resolve()))
    theirs = other.ask("rows")
    rows = [name for name in this.ask("rows") if name in theirs and options.rows in name]
    if not rows:
        parser.error(f"rows: none that both have has {options.rows!r} in its name")
    print("| row | other, ms | this, ms | time against the other |\n|---|---|---|---|")
    results = {}
    for name in rows:
        taken: dict[Checkout, list[float]] = {this: [], other: []}
        for each in taken:
            each.ask(f"row {name}")
        for turn in range(options.rounds):
            for each in (this, other) if turn % 2 else (other, this):
                taken[each] += each.ask("turn")
        new, old = (statistics.median(taken[each]) for each in (this, other))
        results[name] = {"this": new, "other": old}
        print(f"| {name} | {old * 1e3:.4g} | {new * 1e3:.4g} | {new / old:.3f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        sys.path[0] = os.getcwd()  # the folder of the checkout, not that of this file
        work(sys.argv[2] if len(sys.argv) > 2 else None)
    else:
        main()
