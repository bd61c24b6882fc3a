"""IDX files, as MNIST comes: pictures uint8 [N, H, W] (idx3) and labels uint8 [N] (idx1), also gzipped."""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from blockenc.datasets.formats import suspicion
from blockenc.datasets.pictures import Encoded, too_large
from blockenc.datasets.pixels import ImageFileError, RefusedError, Size
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

CHUNK_BYTES = 1 << 22
_NAME = re.compile(r".+[-.]idx[13]-ubyte(\.gz)?")
_UBYTE = 8


class IdxFiles:
    name = "idx"

    def names(self, file: str) -> bool:
        return _NAME.fullmatch(file) is not None

    def claims(self, path: Path) -> bool:
        # torchvision keeps the packed file beside the one that it has unpacked.
        return path.suffix != ".gz" or not path.with_suffix("").is_file()

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name.removesuffix(".gz")  # noise does not shrink

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        with _opened(path, reading) as (file, shape):
            if len(shape) == 1:
                for _ in _labels(path, file, shape, reading):
                    pass
                return []
        if reading.resize is not None or reading.crop is not None:
            raise RefusedError(f"{path}: arrays; resize and crop are for picture files")
        return [((shape[2], shape[1]), (1,))]

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        with _opened(path, reading) as (file, shape):
            if len(shape) == 3:
                yield from _chunks(path, file, shape)

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        with _opened(source, change.reading) as (file, shape):
            if len(shape) == 1:
                parts = _labels(source, file, shape, change.reading)
                target.write(_header(shape))
                for part in parts:
                    target.write(part.data)
                return
            start = target.tell()
            target.write(_header(shape))
            for chunk in _chunks(source, file, shape):
                changed = change(chunk)
                shape = (shape[0], *changed.shape[1:3])  # padding and cropping change it
                target.write(np.ascontiguousarray(changed).data)
            target.seek(start)
            target.write(_header(shape))
            target.seek(0, 2)


@contextlib.contextmanager
def _opened(path: Path, reading: Reading) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """A file behind its header, and the shape that this has. Raises ImageFileError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != bytes([0, 0, _UBYTE]) or head[3] not in (1, 3):
                raise ImageFileError(f"{path}: not an IDX file of bytes with 1 or 3 axes, or a damaged one")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            if math.prod(shape[1:]) > reading.max_bytes:
                raise too_large(path, f"a picture of shape {list(shape[1:])}", reading)
            if 0 in shape[1:]:
                raise RefusedError(f"{path}: pictures without pixels (shape {list(shape)})")
            yield file, shape  # type: ignore[misc]
    except (EOFError, struct.error, gzip.BadGzipFile, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise ImageFileError(f"{path}: a damaged IDX file ({error})") from None


def _chunks(path: Path, file: BinaryIO, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The pictures [N, H, W, 1], or the labels [N], as many at once as CHUNK_BYTES hold."""
    row = math.prod(shape[1:])
    rows = max(1, CHUNK_BYTES // row)
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        data = file.read(count * row)
        if len(data) != count * row:
            raise ImageFileError(f"{path}: a damaged IDX file (it ends too early)")
        yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:], *([1] if len(shape) == 3 else []))
    if file.read(1):
        raise ImageFileError(f"{path}: a damaged IDX file (there is other data behind it)")


def _labels(path: Path, file: BinaryIO, shape: tuple[int, ...], reading: Reading) -> Iterator[np.ndarray]:
    """Labels, which are as many as the pictures of a file beside them. Raises ImageFileError for others."""
    if not reading.trusted and shape[0] >= suspicion.SMALLEST and shape[0] not in _counts(path.parent):
        suspicion.refuse(
            path, f"{shape[0]} bytes, not one for each picture of a file beside it", reading.file
        )
    yield from _chunks(path, file, shape)


def _counts(folder: Path) -> set[int]:
    found = set()
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            with contextlib.suppress(ImageFileError, OSError), _opened(path, DEFAULT) as (_, shape):
                if len(shape) == 3:
                    found.add(shape[0])
    return found


def _header(shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, _UBYTE, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
