"""Files without images that readers of the other formats need: copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.data.pixels import Size

if TYPE_CHECKING:
    from blockenc.data.formats import Change

# By name, the pattern of a neighbour without which a file is not what its name suggests.
NEIGHBOURS = {
    "batches.meta": "data_batch_*",  # CIFAR-10
    "meta": "train",  # CIFAR-100
    "state.json": "*.arrow",  # datasets.save_to_disk
    "dataset_info.json": "*.arrow",
    "dataset_dict.json": "*/state.json",
}


class Metadata:
    name = "metadata"

    def names(self, file: str) -> bool:
        return file in NEIGHBOURS

    def claims(self, path: Path) -> bool:
        return any(path.parent.glob(NEIGHBOURS[path.name]))

    def target(self, name: str) -> str:
        return name

    def sizes(self, path: Path) -> list[tuple[Size, int]]:
        return []

    def images(self, path: Path) -> Iterator[np.ndarray]:
        return iter(())

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, target)
