"""CIFAR-10 and CIFAR-100 python batches: a pickle of {b"data": uint8 [N, 3072] channels-first, ...}."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from blockenc.data.pixels import ImageFileError, Size

if TYPE_CHECKING:
    from blockenc.data.formats import Change

SHAPE = (3, 32, 32)
_NAMES = re.compile(r"data_batch_\d+|test_batch|train|test")
# All that NumPy arrays in pickles of either Python need; a pickle can name any function there is.
_ALLOWED = {
    (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


class CifarBatches:
    name = "cifar"

    def names(self, file: str) -> bool:
        return _NAMES.fullmatch(file) is not None

    def claims(self, path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(1) == b"\x80"  # a pickle of protocol 2 or later

    def target(self, name: str) -> str:
        return name

    def sizes(self, path: Path) -> list[tuple[Size, int]]:
        return [((32, 32), 3)]

    def images(self, path: Path) -> Iterator[np.ndarray]:
        batch = _load(path)
        yield _images(batch[_key(batch)])

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        batch = _load(source)
        key = _key(batch)
        images = _images(batch[key])
        changed = change(images)
        if changed.shape != images.shape:
            raise ValueError(f"{source}: CIFAR images are 32 x 32; the block size must divide 32")
        batch[key] = np.ascontiguousarray(changed.transpose(0, 3, 1, 2)).reshape(len(images), -1)
        pickle.dump(batch, target, protocol=4)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR batch needs")
        return super().find_class(module, name)


def _load(path: Path) -> dict[Any, Any]:
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:
        raise ImageFileError(f"{path}: not a CIFAR batch, or a damaged one ({error})") from None
    data = batch.get(_key(batch)) if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise ImageFileError(f"{path}: not a CIFAR batch (no uint8 data of 3072 columns)")
    return batch  # type: ignore[no-any-return]


def _key(batch: dict[Any, Any]) -> Any:
    return b"data" if b"data" in batch else "data"


def _images(data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
