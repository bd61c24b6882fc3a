"""What `make docs` adds to the pages here: those of the repository's root, and docstrings' fields as lists.

mkdocs.yml names this file twice: as a hook of MkDocs, and as an extension of Griffe, which reads docstrings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}


def on_files(files: Any, config: Any) -> Any:
    """MkDocs's hook: the root's pages join those of docs/, and links between them follow."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = re.sub(r"\]\(([^)#]+)", lambda link: f"]({there(link[1])}", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "LICENSE", content=(ROOT / "LICENSE").read_text()))
    return files


def there(link: str) -> str:
    """Where a link of a page in the root leads on the site."""
    return PAGES.get(link, link.removeprefix("docs/"))


class FieldsAsList(griffe.Extension):
    """Shows the fields of our docstrings, `name: what it is` at the start of a line, as a list."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            field = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (?=\S)", re.MULTILINE)
            obj.docstring.value = field.sub(r"- `\1`: ", obj.docstring.value)
