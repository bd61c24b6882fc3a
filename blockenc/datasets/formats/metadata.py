"""Small files without pictures that readers of the other formats need. What they hold is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.datasets.formats import cifar, suspicion
from blockenc.datasets.pictures import Encoded, too_large
from blockenc.datasets.pixels import Size
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

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

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        _checked(path, reading)
        return []

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        return iter(())

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        target.write(_checked(source, change.reading))


def _checked(path: Path, reading: Reading) -> bytes:
    """The contents of a file, which are known to be no picture. Raises ImageFileError."""
    if path.stat().st_size > reading.max_bytes:
        raise too_large(path, "the file", reading)
    data = path.read_bytes()
    if not reading.trusted:
        if path.suffix == ".json":
            suspicion.refuse(path, suspicion.data(data), reading.file)
        else:
            cifar.check_meta(path, data, reading)
    return data
