"""CIFAR-10 and CIFAR-100 python batches: a pickle of {b"data": uint8 [N, 3072] channels-first, ...}."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from blockenc.datasets.formats import plain_pickle, suspicion
from blockenc.datasets.pictures import Encoded, too_large
from blockenc.datasets.pixels import ImageFileError, RefusedError, Size
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

SHAPE = (3, 32, 32)
LONGEST = 255  # characters of a file name or label
_NAMES = re.compile(r"data_batch_\d+|test_batch|train|test")


class CifarBatches:
    name = "cifar"

    def names(self, file: str) -> bool:
        return _NAMES.fullmatch(file) is not None

    def claims(self, path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(1) == b"\x80"  # a pickle of protocol 2 or later

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        if reading.resize is not None or reading.crop is not None:
            raise RefusedError(
                f"{path}: pictures in CIFAR batches are 32 x 32; they cannot be resized or cropped"
            )
        _load(path, reading)
        return [((32, 32), (3,))]

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        batch, key = _load(path, reading)
        yield _images(batch[key])

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        batch, key = _load(source, change.reading)
        for name in map(_name, batch):
            if name not in _BATCH:
                change.copies(name)
        images = _images(batch[key])
        changed = change(images)
        if changed.shape != images.shape:
            raise _misfit(source)
        batch[key] = np.ascontiguousarray(changed.transpose(0, 3, 1, 2)).reshape(len(images), -1)
        plain_pickle.dump(batch, target)


def check_block_size(path: Path, block_size: int) -> None:
    """Raise ValueError if encrypted pictures would not fit into a batch, whatever is padded or cropped."""
    if SHAPE[1] % block_size:
        raise _misfit(path)


def _misfit(path: Path) -> ValueError:
    return ValueError(f"{path}: CIFAR images are 32 x 32; the block size must divide 32")


def check_meta(path: Path, data: bytes, reading: Reading) -> None:
    """Raise ImageFileError unless this is the file of the labels' names."""
    _, names = _read(path, data)
    _check(path, names, _META, 0, reading)


def _load(path: Path, reading: Reading) -> tuple[dict[Any, Any], Any]:
    """A batch and the key of its pictures; all else in it is known to hold none. Raises ImageFileError."""
    if path.stat().st_size > reading.max_bytes:
        raise too_large(path, "the batch", reading)
    keys, batch = _read(path, path.read_bytes())
    data = plain_pickle.array_of(batch[keys["data"]]) if "data" in keys else None
    if data is None or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise ImageFileError(f"{path}: not a CIFAR batch (no uint8 data of 3072 columns)")
    _check(path, batch, _BATCH, len(data), reading)
    batch[keys["data"]] = data
    return batch, keys["data"]


def _read(path: Path, data: bytes) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The keys by their names, and the dict of a pickle."""
    try:
        batch = plain_pickle.load(data)
    except plain_pickle.PickleError as error:
        raise ImageFileError(f"{path}: not a CIFAR batch, or a damaged one ({error})") from None
    if not isinstance(batch, dict):
        raise ImageFileError(f"{path}: not a CIFAR batch (no dict)")
    keys: dict[str, Any] = {}
    for key in batch:
        name = _name(key)
        if name in keys:
            raise RefusedError(f"{path}: the key {name!r} is there twice, as text and as bytes")
        keys[name] = key
    return keys, batch


def _name(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _check(path: Path, batch: dict[Any, Any], known: dict[str, _Check], count: int, reading: Reading) -> None:
    """Raise ImageFileError for what CIFAR does not have, also in our own output: it may have been changed."""
    for key, value in batch.items():
        name = _name(key)
        if reading.copies(name):
            continue
        what = None
        if name not in known:
            what = f"the key {name[:80]!r} is none of {', '.join(known)}"
        elif not known[name](value, count):
            what = f"what the key {name!r} holds is not what CIFAR has there"
        if what and reading.trusted:
            raise ImageFileError(f"{path}: {what}")
        suspicion.refuse(path, what, f"{reading.file}/{name}")


def _are_labels(value: Any, count: int) -> bool:
    array = plain_pickle.array_of(value)
    if array is not None:
        return array.shape == (count,) and array.dtype.kind in "iu"
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(n) is int and -1 <= n < 1 << 31 for n in value)
    )


def _are_texts(value: Any, count: int) -> bool:
    """As many as there are pictures, or of a list of classes at most 1,000."""
    return (
        isinstance(value, list)
        and (len(value) == count if count else len(value) <= 1000)
        and all(_is_text(item) for item in value)
    )


def _is_text(value: Any, count: int = 0) -> bool:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return False
    return isinstance(value, str) and len(value) <= LONGEST and not suspicion.text(value)


def _is_number(value: Any, count: int) -> bool:
    return type(value) is int and value.bit_length() < 64


_Check = Callable[[Any, int], bool]
_BATCH: dict[str, _Check] = {
    "data": lambda value, count: True,  # checked before
    "labels": _are_labels,
    "fine_labels": _are_labels,
    "coarse_labels": _are_labels,
    "filenames": _are_texts,
    "batch_label": _is_text,
}
_META: dict[str, _Check] = {
    "label_names": _are_texts,
    "fine_label_names": _are_texts,
    "coarse_label_names": _are_texts,
    "num_cases_per_batch": _is_number,
    "num_vis": _is_number,
}


def _images(data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
