"""Files that the user named to be copied as they are, whatever they hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.datasets.pictures import Encoded
from blockenc.datasets.pixels import Size
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change


class CopiedFiles:
    name = "copied"

    def names(self, file: str) -> bool:
        return True

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        return []

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        return iter(())

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, target)
