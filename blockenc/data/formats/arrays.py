"""NumPy files: .npy, memory-mapped, and the arrays of .npz, streamed."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from blockenc.data.pixels import ImageFileError, Size

if TYPE_CHECKING:
    from blockenc.data.formats import Change

CHUNK_BYTES = 1 << 22  # of images handled at once
CHANNELS = (1, 3, 4)
# Rows at least this long may be flattened images: 8 x 8 are the smallest anyone trains on.
FLATTENED = 64
# Axes of each layout, to [N, H, W, C] and back.
TO_NHWC: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHWC": lambda a: a,
    "NCHW": lambda a: a.transpose(0, 2, 3, 1),
    "NHW": lambda a: a[..., None],
}
FROM_NHWC: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHWC": lambda a: a,
    "NCHW": lambda a: a.transpose(0, 3, 1, 2),
    "NHW": lambda a: a[..., 0],
}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    def chunk_rows(self) -> int:
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        return max(1, CHUNK_BYTES // max(1, row))


class Arrays:
    name = "numpy"

    def names(self, file: str) -> bool:
        return file.lower().endswith((".npy", ".npz"))

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str) -> str:
        return name

    def sizes(self, path: Path) -> list[tuple[Size, int]]:
        if path.suffix.lower() == ".npz":
            return []
        array = _mapped(path)
        layout = _layout(path, _header(array))
        if layout is None:
            return []
        h, w, c = TO_NHWC[layout](array[:0]).shape[1:]
        return [((w, h), c)]

    def images(self, path: Path) -> Iterator[np.ndarray]:
        for name, header, chunks in _arrays(path):
            if layout := _layout(name, header):
                yield from (TO_NHWC[layout](chunk) for chunk in chunks)

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        if source.suffix.lower() == ".npy":
            for name, header, chunks in _arrays(source):
                _write(target, name, header, chunks, change)
            return
        # The pixels are noise: compression would take time and gain nothing.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
            for name, header, chunks in _arrays(source):
                member = zipfile.ZipInfo(name.partition(", ")[2] + ".npy")
                with out.open(member, "w", force_zip64=True) as file:
                    _write(file, name, header, chunks, change)  # type: ignore[arg-type]


def _layout(name: object, header: _Header) -> str | None:
    """The layout of an array of images, None for one that holds none. Raises ImageFileError if unsure."""
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        raise ImageFileError(f"{name}: an array of objects, which only unpickling could read")
    if len(shape) < 2 or (len(shape) == 2 and shape[1] < FLATTENED):
        return None
    what = f"{name}: {dtype} array of shape {list(shape)}"
    if len(shape) == 2:
        raise ImageFileError(f"{what} may hold flattened images; reshape it to [N, H, W, C]")
    if dtype != np.uint8:
        raise ImageFileError(f"{what}: images are encrypted as uint8; convert it, or keep it elsewhere")
    if len(shape) == 3 and shape[-1] not in CHANNELS and shape[0] not in CHANNELS:
        return "NHW"
    first, last = shape[1] in CHANNELS, shape[-1] in CHANNELS
    if len(shape) != 4 or first == last:
        raise ImageFileError(
            f"{what}: cannot tell the channels; expected [N, H, W, C], [N, C, H, W] or [N, H, W]"
        )
    return "NHWC" if last else "NCHW"


def _mapped(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ImageFileError(f"{path}: not a NumPy array, or a damaged one ({error})") from None
    return array


def _header(array: np.ndarray) -> _Header:
    return _Header(array.shape, False, array.dtype)


def _arrays(path: Path) -> Iterator[tuple[str, _Header, Iterator[np.ndarray]]]:
    """The arrays of a file: name, header, and chunks of whole rows."""
    if path.suffix.lower() == ".npy":
        array = _mapped(path)
        header = _header(array)
        if not array.ndim:
            yield str(path), header, iter((array,))
            return
        rows = header.chunk_rows()
        yield str(path), header, (array[k : k + rows] for k in range(0, len(array), rows))
        return
    try:
        with zipfile.ZipFile(path) as source:
            for member in source.namelist():
                with source.open(member) as file:
                    name = f"{path}, {member.removesuffix('.npy')}"
                    header = _read_header(file, name)  # type: ignore[arg-type]
                    yield name, header, _stream(file, header)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, EOFError) as error:
        raise ImageFileError(f"{path}: not an npz file, or a damaged one ({error})") from None


def _read_header(file: BinaryIO, name: str) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        header = _Header(*read(file))
    except ValueError as error:
        raise ImageFileError(f"{name}: not a NumPy array, or a damaged one ({error})") from None
    if header.fortran_order and len(header.shape) > 1:
        raise ImageFileError(f"{name}: in Fortran order, which cannot be streamed; save it in C order")
    return header


def _stream(file: BinaryIO, header: _Header) -> Iterator[np.ndarray]:
    count, *row = header.shape or (1,)
    size = int(np.prod(row)) * header.dtype.itemsize
    for start in range(0, count, header.chunk_rows()):
        rows = min(header.chunk_rows(), count - start)
        data = file.read(rows * size)
        if len(data) != rows * size:
            raise EOFError("it ends too early")
        yield np.frombuffer(data, header.dtype).reshape(rows, *row)


def _write(
    target: BinaryIO, name: str, header: _Header, chunks: Iterator[np.ndarray], change: Change
) -> None:
    layout = _layout(name, header)
    if layout:
        chunks = (FROM_NHWC[layout](change(TO_NHWC[layout](chunk))) for chunk in chunks)
    first = next(chunks, None)
    shape = header.shape
    if shape and first is not None:
        shape = (shape[0], *first.shape[1:])  # padding and cropping change it
    _write_header(target, shape, header.dtype)
    for chunk in itertools.chain(() if first is None else (first,), chunks):
        target.write(np.ascontiguousarray(chunk).data)


def _write_header(target: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(target, fields)
