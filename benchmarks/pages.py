"""Pages of docs/ whose tables are written by programs, between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re


def replace(text: str, name: str, content: str) -> str:
    """The page with `content` in the place called `name`. Raises ValueError if it has no such place."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"--page: has no place for the table {name}")
    return place.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)
