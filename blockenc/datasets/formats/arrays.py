"""NumPy files: .npy, memory-mapped, and the arrays of .npz, streamed."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from blockenc.datasets.formats import suspicion
from blockenc.datasets.pictures import Encoded, too_large
from blockenc.datasets.pixels import CHANNELS, ImageFileError, RefusedError, Size
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

CHUNK_BYTES = 1 << 22  # of rows handled at once
# Lines of one picture [H, W, C]. Cropped to whole blocks, 8 leave at least 5: more than there are channels.
LEAST_LINES, LEAST_CROPPED = 8, 5
ONE_ENTRY = 1 << 20  # bytes of an array that is looked at as a whole
NEIGHBOURS = 1000  # files of a folder that are asked how many pictures they hold
# Axes of each layout, to [N, H, W, C] and back.
TO_NHWC: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHWC": lambda a: a,
    "NCHW": lambda a: a.transpose(0, 2, 3, 1),
    "NHW": lambda a: a[..., None],
    "HWC": lambda a: a[None],
}
FROM_NHWC: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHWC": lambda a: a,
    "NCHW": lambda a: a.transpose(0, 3, 1, 2),
    "NHW": lambda a: a[..., 0],
    "HWC": lambda a: a[0],
}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        return max(1, CHUNK_BYTES // max(1, self.row_bytes))


class _Array(NamedTuple):
    """One array of a file. member: its name in an .npz. title: what errors call it."""

    member: str
    title: str
    header: _Header
    chunks: Iterator[np.ndarray]  # of whole rows; an array of no dimensions as it is


class Arrays:
    name = "numpy"

    def names(self, file: str) -> bool:
        return file.lower().endswith((".npy", ".npz"))

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        found: list[tuple[Size, tuple[int, ...]]] = []
        for array in _arrays(path, reading):
            if _is_copied(array, reading):
                continue
            if layout := _layout(array, reading):
                if reading.resize is not None or reading.crop is not None:
                    raise RefusedError(f"{array.title}: an array; resize and crop are for picture files")
                shape = array.header.shape
                one = shape if layout == "HWC" else (0, *shape[1:])
                h, w, c = TO_NHWC[layout](np.empty(one, np.uint8)).shape[1:]
                found.append(((w, h), (c,)))
            else:
                for _ in _unsuspicious(array, path, reading):
                    pass
        return found

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        for array in _arrays(path, reading):
            if not _is_copied(array, reading) and (layout := _layout(array, reading)):
                yield from (TO_NHWC[layout](chunk) for chunk in array.chunks)

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        if source.suffix.lower() == ".npy":
            for array in _arrays(source, change.reading):
                _write(target, array, source, change)
            return
        # The pixels are noise: compression would take time and gain nothing.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
            for array in _arrays(source, change.reading):
                member = zipfile.ZipInfo(array.member + ".npy")
                with out.open(member, "w", force_zip64=True) as file:
                    _write(file, array, source, change)  # type: ignore[arg-type]


def _is_copied(array: _Array, reading: Reading) -> bool:
    return bool(array.member) and reading.copies(array.member)


def _layout(array: _Array, reading: Reading) -> str | None:
    """The layout of an array of pictures; None for other numbers. Raises ImageFileError if unsure."""
    shape, dtype = array.header.shape, array.header.dtype
    if dtype != np.uint8 or len(shape) < 3:
        return None
    what = f"{array.title}: {dtype} array of shape {list(shape)}"
    if 0 in shape[1:]:
        raise RefusedError(f"{what}: pictures without pixels")
    if len(shape) == 3 and shape[-1] not in CHANNELS and shape[0] not in CHANNELS:
        return "NHW"
    if not array.member and _is_picture(array.header, reading):
        return "HWC"
    first, last = shape[1] in CHANNELS, shape[-1] in CHANNELS
    if len(shape) != 4 or first == last:
        raise RefusedError(
            f"{what}: cannot tell the channels; expected [N, H, W, C], [N, C, H, W] or [N, H, W], or for one "
            f"picture in an .npy file [H, W, C] with C 3 or 4 and {LEAST_LINES} lines or more"
        )
    return "NHWC" if last else "NCHW"


def _is_picture(header: _Header, reading: Reading) -> bool:
    """Whether an array is one picture [H, W, C]."""
    shape, least = header.shape, LEAST_CROPPED if reading.trusted else LEAST_LINES
    return header.dtype == np.uint8 and len(shape) == 3 and shape[-1] in (3, 4) and shape[0] >= least


def _unsuspicious(array: _Array, path: Path, reading: Reading) -> Iterator[np.ndarray]:
    """The chunks of an array that is known to hold no picture. Raises ImageFileError for another one."""
    header, chunks = array.header, array.chunks
    shape, dtype = header.shape, header.dtype
    name = f"{array.title}: {'structured' if dtype.names else dtype} array of shape {list(shape)}"
    hint = "flattened ones need reshaping" if dtype == np.uint8 else "others need converting"
    hint = f" (pictures are encrypted as uint8 [N, H, W, C], [N, C, H, W] or [N, H, W]; {hint})"

    def refuse(finding: str | None) -> None:
        copy = f"{reading.file}/{array.member}" if array.member else reading.file
        suspicion.refuse(name, finding, copy, hint)

    if dtype.kind in "SU":
        for chunk in chunks:
            texts = np.atleast_1d(chunk).ravel().tolist()
            joined = "\n".join(texts) if dtype.kind == "U" else b"\n".join(texts)
            refuse(suspicion.plain(texts) or suspicion.plain(joined))
            yield chunk
        return
    plain, count = dtype.kind in suspicion.NUMERIC, shape[0] if shape else 1
    if not plain and header.row_bytes >= suspicion.SMALLEST:
        refuse(f"rows of {header.row_bytes} bytes")
    values = math.prod(shape[1:])
    if values >= suspicion.SMALLEST and (len(shape) > 3 or (len(shape) == 3 and shape[2] > 4)):
        refuse(f"rows of {values} numbers")
    if count * header.row_bytes >= suspicion.SMALLEST and count not in _pictures(path):
        # Rows that belong to no pictures may be one, together.
        finding: str | None = f"{count} rows"
        if plain and count * header.row_bytes <= ONE_ENTRY:
            parts = list(chunks)
            finding = suspicion.numbers(np.concatenate(parts) if shape else parts[0])
            chunks = iter(parts)
        place = "file" if array.member else "folder"
        refuse(finding and f"{finding}, not one for each picture of this {place}")
    for chunk in chunks:
        if plain:
            refuse(suspicion.rows(np.atleast_1d(chunk)))
        yield chunk


def _pictures(path: Path) -> frozenset[int]:
    """The counts of pictures that an array may belong to: in its .npz, or in the .npy files of its folder."""
    if path.suffix.lower() == ".npz":
        return _counts((path,), path.stat().st_mtime_ns)
    files = itertools.islice((f for f in path.parent.iterdir() if f.suffix.lower() == ".npy"), NEIGHBOURS)
    return _counts(tuple(sorted(files)), path.parent.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _counts(files: tuple[Path, ...], stamp: int) -> frozenset[int]:
    found = set()
    for file in files:
        with contextlib.suppress(ImageFileError, OSError):
            for array in _arrays(file, DEFAULT):
                with contextlib.suppress(ImageFileError):
                    if layout := _layout(array, DEFAULT):
                        found.add(1 if layout == "HWC" else array.header.shape[0])
    return frozenset(found)


def _arrays(path: Path, reading: Reading) -> Iterator[_Array]:
    """The arrays of a file. Raises ImageFileError for what is none, or one too large."""
    if path.suffix.lower() == ".npy":
        array = _mapped(path)
        header = _checked(_Header(array.shape, False, array.dtype), path, reading)
        rows = header.chunk_rows
        if _is_picture(header, reading):
            if array.nbytes > reading.max_bytes:
                raise too_large(path, f"a picture of shape {list(array.shape)}", reading)
            rows = len(array)
        chunks = (array[k : k + rows] for k in range(0, len(array), rows)) if array.ndim else iter((array,))
        yield _Array("", str(path), header, chunks)
        return
    with _named(path, "an npz file"), zipfile.ZipFile(path) as source:
        members = source.infolist()
    names = set()
    for info in members:
        member = info.filename.removesuffix(".npy")
        title = f"{path}, {member}"
        if member in names:
            raise RefusedError(f"{title}: two arrays of this name")
        names.add(member)
        if not reading.trusted and (what := suspicion.name(member)):
            raise RefusedError(f"{path}: the name of an array is {what}, which may be a picture; rename it")
        with _named(title), zipfile.ZipFile(path) as source, source.open(info) as file:
            header = _checked(_read_header(file, title), title, reading)  # type: ignore[arg-type]
            yield _Array(member, title, header, _stream(file, header, title))  # type: ignore[arg-type]


def _mapped(path: Path) -> np.ndarray:
    with _named(path):
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            raise ImageFileError(f"{path}: not a NumPy array")
        if array.offset + array.nbytes != path.stat().st_size:
            raise ImageFileError(f"{path}: more than one array, or other data behind it")
        return array


def _checked(header: _Header, title: object, reading: Reading) -> _Header:
    if header.dtype.hasobject:
        raise RefusedError(f"{title}: an array of objects, which only unpickling could read")
    if any(n < 0 for n in header.shape) or not header.dtype.itemsize:
        raise ImageFileError(
            f"{title}: a damaged array (shape {list(header.shape)}, {header.dtype.itemsize} bytes a value)"
        )
    if header.row_bytes > reading.max_bytes:
        raise too_large(title, f"a row of shape {list(header.shape[1:])}", reading)
    return header


@contextlib.contextmanager
def _named(title: object, kind: str = "a NumPy array") -> Iterator[None]:
    """Name the file, or the array in it, in what NumPy and zipfile raise on damaged data: nearly anything."""
    try:
        yield
    except (ImageFileError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        text = str(error) or type(error).__name__
        raise ImageFileError(f"{title}: not {kind}, or a damaged one ({text})") from None


def _read_header(file: BinaryIO, title: str) -> _Header:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ImageFileError(f"{title}: an array of format {version}; 1.0 and 2.0 are read")
    header = _Header(*readers[version](file))
    if header.fortran_order and len(header.shape) > 1:
        raise RefusedError(f"{title}: in Fortran order, which cannot be streamed; save it in C order")
    return header


def _stream(file: BinaryIO, header: _Header, title: str) -> Iterator[np.ndarray]:
    count, *row = header.shape or (1,)
    with _named(title):
        for start in range(0, count, header.chunk_rows):
            rows = min(header.chunk_rows, count - start)
            data = file.read(rows * header.row_bytes)
            if len(data) != rows * header.row_bytes:
                raise EOFError("it ends too early")
            shape = (rows, *row) if header.shape else ()
            yield np.ndarray(shape, header.dtype, data)
        if file.read(1):  # at its end zipfile compares the checksum
            raise ValueError("there is other data behind it")


def _write(target: BinaryIO, array: _Array, path: Path, change: Change) -> None:
    header, chunks, layout = array.header, array.chunks, None
    if not (array.member and change.copies(array.member)):
        if layout := _layout(array, change.reading):
            to_nhwc, from_nhwc = TO_NHWC[layout], FROM_NHWC[layout]
            chunks = (from_nhwc(change(to_nhwc(chunk))) for chunk in chunks)
        elif not change.reading.trusted:
            chunks = _unsuspicious(array, path, change.reading)
    first = next(chunks, None)
    shape = header.shape
    if shape and first is not None:
        # Padding and cropping change it; of one picture the first axis, too.
        shape = first.shape if layout == "HWC" else (shape[0], *first.shape[1:])
    _write_header(target, shape, header.dtype)
    for chunk in itertools.chain(() if first is None else (first,), chunks):
        target.write(chunk.tobytes())


def _write_header(target: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(target, fields)
