"""One picture a file: folder trees of PNG, JPEG and the like, such as torchvision's ImageFolder reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.datasets import pictures, pixels
from blockenc.datasets.pictures import Encoded
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change


class ImageFiles:
    name = "image"

    def names(self, file: str) -> bool:
        return file.lower().endswith(pixels.SUFFIXES)

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return PurePosixPath(name).with_suffix(reading.suffix).as_posix()

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[pixels.Size, tuple[int, ...]]]:
        return [pictures.header(path, path, reading)]

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        yield Encoded(path, str(path))

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        target.write(change.picture(source, source))
