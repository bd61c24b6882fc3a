"""Image columns of Parquet files and of Arrow files that `datasets.save_to_disk` writes.

An image column is what Hugging Face `datasets` calls Image: a struct of `bytes`, an image file, and `path`.
A column of plain binary whose values are image files is one, too. Other columns are copied.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from blockenc.data import pixels
from blockenc.errors import BlockencError

if TYPE_CHECKING:
    from blockenc.data.formats import Change

ROWS = 64  # handled, and written as a row group, at once: photos may have megabytes each


class ArrowTables:
    name = "arrow"

    def names(self, file: str) -> bool:
        # datasets keeps results of map() in cache files beside the data; they are made anew.
        return file.endswith((".parquet", ".arrow")) and not file.startswith("cache-")

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str) -> str:
        return name

    def sizes(self, path: Path) -> list[tuple[pixels.Size, int]]:
        return []

    def images(self, path: Path) -> Iterator[np.ndarray]:
        _, batches = _open(path)
        for batch in batches:
            for column in _image_columns(batch, path):
                for value in batch.column(column).to_pylist():
                    if value is not None:
                        yield pixels.read(_bytes(value, path, column), f"{path}, column {column}")[None]

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        pa = _pyarrow()
        schema, batches = _open(source)
        if source.suffix == ".parquet":
            import pyarrow.parquet

            writer = pyarrow.parquet.ParquetWriter(target, schema)
        else:
            writer = pa.ipc.new_stream(target, schema)
        with writer:
            for batch in batches:
                writer.write_batch(_changed(batch, source, change))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise BlockencError("Parquet and Arrow files need pyarrow: pip install 'blockenc[data]'") from None
    return pyarrow


def _open(path: Path) -> tuple[Any, Iterator[Any]]:
    """The schema of a file and its record batches, of ROWS rows at most."""
    pa = _pyarrow()
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            file = pyarrow.parquet.ParquetFile(path)
            # Each row group by itself: one reader for all of them keeps what it has read.
            groups = (file.iter_batches(ROWS, row_groups=[n]) for n in range(file.num_row_groups))
            return file.schema_arrow, _guarded(path, itertools.chain.from_iterable(groups))
        stream = pa.ipc.open_stream(pa.memory_map(str(path)))
        parts = (b.slice(k, ROWS) for b in stream for k in range(0, max(1, b.num_rows), ROWS))
        return stream.schema, _guarded(path, parts)
    except pa.ArrowInvalid as error:
        raise pixels.ImageFileError(f"{path}: not a table, or a damaged one ({error})") from None


def _guarded(path: Path, batches: Iterator[Any]) -> Iterator[Any]:
    pa = _pyarrow()
    try:
        yield from batches
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise pixels.ImageFileError(f"{path}: a damaged table ({error})") from None


def _image_columns(batch: Any, path: Path) -> list[str]:
    """The columns of images. Raises ImageFileError for one that may hold some and is not understood."""
    pa = _pyarrow()
    found = []
    for field in batch.schema:
        kind = field.type
        if (
            pa.types.is_struct(kind)
            and {kind.field(k).name for k in range(kind.num_fields)}
            == {
                "bytes",
                "path",
            }
        ) or (_is_binary(kind) and _are_images(batch.column(field.name))):
            found.append(field.name)
        elif _may_hold_pixels(kind):
            raise pixels.ImageFileError(
                f"{path}: do not know whether column {field.name} ({kind}) holds pictures; images are "
                "columns of the datasets feature Image, or binary ones of image files; remove or convert it"
            )
    return found


def _is_binary(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _may_hold_pixels(kind: Any, lists: int = 0) -> bool:
    """Binary anywhere, lists of bytes, and lists of lists."""
    pa = _pyarrow()
    if isinstance(kind, pa.BaseExtensionType):
        return _may_hold_pixels(kind.storage_type, lists)
    if pa.types.is_struct(kind):
        return any(_may_hold_pixels(kind.field(k).type, lists) for k in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _may_hold_pixels(kind.value_type, lists + 1)
    return _is_binary(kind) or lists > 1 or (lists == 1 and bool(pa.types.is_uint8(kind)))


def _are_images(column: Any) -> bool:
    values = [value for value in column.to_pylist() if value is not None]
    try:
        for value in values:
            with Image.open(io.BytesIO(value)):
                pass
    except Exception:
        return False
    return True


def _bytes(value: Any, path: Path, column: str) -> bytes:
    data = value["bytes"] if isinstance(value, dict) else value
    if data is None:
        raise pixels.ImageFileError(
            f"{path}, column {column}: names the file {value['path']} instead of holding it; embed it"
        )
    return bytes(data)


def _changed(batch: Any, path: Path, change: Change) -> Any:
    pa = _pyarrow()
    columns = list(batch.columns)
    for name in _image_columns(batch, path):
        index = batch.schema.get_field_index(name)
        convert = _converter(path, name, change)
        values = [None if value is None else convert(value) for value in batch.column(name).to_pylist()]
        columns[index] = pa.array(values, type=batch.schema.field(index).type)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _converter(path: Path, column: str, change: Change) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        source = pixels.read(_bytes(value, path, column), f"{path}, column {column}")
        (image,) = change(source[None])
        data = change.png(image)
        if not isinstance(value, dict):
            return data
        name = value["path"]
        return {"bytes": data, "path": name and PurePosixPath(name).with_suffix(".png").as_posix()}

    return convert
