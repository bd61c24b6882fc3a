"""The formats of data sets: one module each, all behind one small interface.

A file of SRC becomes one file of DST, whatever its format, and a format knows nothing of keys: it finds
the images in a file, and copies the file with every image replaced by what `change` makes of it. The same
`rewrite` therefore encrypts and decrypts. What holds no image is copied; what might be an image and is
not understood is an error, for a data set must not leave with pictures that nobody encrypted.

Adding a format is adding its module and its line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from blockenc.data.formats.arrays import Arrays
from blockenc.data.formats.arrow import ArrowTables
from blockenc.data.formats.cifar import CifarBatches
from blockenc.data.formats.image import ImageFiles
from blockenc.data.formats.metadata import Metadata
from blockenc.data.formats.tar import TarShards
from blockenc.data.pixels import Size


class Change(Protocol):
    """What becomes of images [N, H, W, C] uint8, called in the order of `images`."""

    def png(self, pixels: np.ndarray, /) -> bytes:
        """A PNG file of pixels [H, W, C], written as suits what comes out."""

    def __call__(self, images: np.ndarray, /) -> np.ndarray: ...


class Format(Protocol):
    """How one kind of file holds images."""

    @property
    def name(self) -> str:
        """As manifests have it."""

    def names(self, file: str) -> bool:
        """Whether a file of this name may be of this format."""

    def claims(self, path: Path) -> bool:
        """Whether a file is of this format; may look at its first bytes and its neighbours' names."""

    def target(self, name: str) -> str:
        """The name of the output for a file of this name; for an output, its own name."""

    def sizes(self, path: Path) -> list[tuple[Size, int]]:
        """Size and channels of the images, as far as the header of the file tells cheaply."""

    def images(self, path: Path) -> Iterator[np.ndarray]:
        """All images in order, as batches uint8 [N, H, W, C]."""

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        """Copy the file with its images changed, in memory that does not grow with the file."""


IMAGE = ImageFiles()
FORMATS: tuple[Format, ...] = (IMAGE, CifarBatches(), TarShards(), Arrays(), ArrowTables(), Metadata())
BY_NAME = {kind.name: kind for kind in FORMATS}


def format_of(path: Path) -> Format | None:
    """The format that a file is of, if any."""
    return next((kind for kind in FORMATS if kind.names(path.name) and kind.claims(path)), None)
