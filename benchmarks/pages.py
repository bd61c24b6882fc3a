"""Pages of docs/ whose tables are written by programs, between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def replace(text: str, name: str, content: str) -> str:
    """The page with `content` in the place called `name`. Raises ValueError if it has no such place."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"--page: has no place for the table {name}")
    return place.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown. head: the names of the columns, with | between them."""
    columns = head.split("|")
    lines = [head.strip(), "|".join([" --- "] * len(columns)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line.strip()} |" for line in lines)


def options(program: str, doc: str | None, results: Path, page: Path) -> argparse.Namespace:
    """What such a program is told: --results, a JSON file or a folder of them, and --page."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=results, metavar="PATH")
    parser.add_argument("--page", type=Path, default=page)
    return parser.parse_args()


def load_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write(
    program: str,
    doc: str | None,
    results: Path,
    page: Path,
    fill: Callable[[str, Any], str],
    load: Callable[[Path], Any] = load_json,
) -> tuple[Path, Any]:
    """What such a program does: `fill` makes the new page of the old one and of what `load` reads of the
    results. Returns the page that was written, and the results, for plots beside it."""
    chosen = options(program, doc, results, page)
    found = load(chosen.results)
    chosen.page.write_text(fill(chosen.page.read_text(), found))
    return chosen.page, found
