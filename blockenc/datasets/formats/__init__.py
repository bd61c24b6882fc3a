"""The formats of data sets: one module each, all behind one small interface.

A file of SRC becomes one file of DST, whatever its format, and a format knows nothing of keys: it finds
the pictures in a file, and copies the file with every one replaced by what `change` makes of it. The same
`rewrite` therefore encrypts and decrypts. What is known to hold no picture is copied; what might be one and
is not understood is an error (blockenc.datasets.formats.suspicion), unless the user lets it through by name.

Adding a format is adding its module and its line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from blockenc.datasets.formats.arrays import Arrays
from blockenc.datasets.formats.arrow import ArrowTables
from blockenc.datasets.formats.cifar import CifarBatches
from blockenc.datasets.formats.copied import CopiedFiles
from blockenc.datasets.formats.idx import IdxFiles
from blockenc.datasets.formats.image import ImageFiles
from blockenc.datasets.formats.metadata import Metadata
from blockenc.datasets.formats.tar import TarShards
from blockenc.datasets.pictures import Encoded
from blockenc.datasets.pixels import Size, Source
from blockenc.datasets.reading import DEFAULT, Reading


class Change(Protocol):
    """What becomes of pictures, called in the order of `images`."""

    @property
    def reading(self) -> Reading: ...

    def __call__(self, images: np.ndarray, /) -> np.ndarray:
        """Of images [N, H, W, C] uint8."""

    def picture(self, source: Source, name: object, /) -> bytes:
        """Of a picture file; the contents of the one that takes its place."""

    def copies(self, member: str, /) -> bool:
        """Whether something in the file is to be copied as it is, whatever it is; this is noted."""


class Format(Protocol):
    """How one kind of file holds pictures."""

    @property
    def name(self) -> str:
        """As manifests have it."""

    def names(self, file: str) -> bool:
        """Whether a file of this name may be of this format."""

    def claims(self, path: Path) -> bool:
        """Whether a file is of this format; may look at its first bytes and its neighbours' names."""

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        """The name of the output for a file of this name; for an output of that reading, its own name."""

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        """Size of the pictures, and channels of the ciphers they need, as far as headers tell cheaply.

        Raises ImageFileError for all that can be refused before the file is read through.
        """

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        """All pictures in order: batches uint8 [N, H, W, C], or picture files."""

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        """Copy the file with its pictures changed, in memory that does not grow with the file."""


IMAGE = ImageFiles()
COPIED = CopiedFiles()
FORMATS: tuple[Format, ...] = (
    IMAGE,
    CifarBatches(),
    TarShards(),
    Arrays(),
    ArrowTables(),
    IdxFiles(),
    Metadata(),
)
BY_NAME: dict[str, Format] = {kind.name: kind for kind in (*FORMATS, COPIED)}


def format_of(path: Path, reading: Reading = DEFAULT) -> Format | None:
    """The format that a file is of, if any. reading: of this file (Reading.at)."""
    if reading.copies():
        return COPIED
    return next((kind for kind in FORMATS if kind.names(path.name) and kind.claims(path)), None)
