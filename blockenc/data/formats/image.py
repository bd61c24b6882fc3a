"""One image a file: folder trees of PNG, JPEG and the like, such as torchvision's ImageFolder reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.data import pixels

if TYPE_CHECKING:
    from blockenc.data.formats import Change


class ImageFiles:
    name = "image"

    def names(self, file: str) -> bool:
        return file.lower().endswith(pixels.SUFFIXES)

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str) -> str:
        return PurePosixPath(name).with_suffix(".png").as_posix()

    def sizes(self, path: Path) -> list[tuple[pixels.Size, int]]:
        size, mode = pixels.header(path, path)
        return [(size, pixels.CHANNELS[mode])]

    def images(self, path: Path) -> Iterator[np.ndarray]:
        yield pixels.read(path, path)[None]

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        (image,) = change(pixels.read(source, source)[None])
        target.write(change.png(image))
