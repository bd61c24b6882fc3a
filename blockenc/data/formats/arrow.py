"""Picture columns of Parquet files and of Arrow files that `datasets.save_to_disk` writes.

A picture column is what Hugging Face `datasets` calls Image: a struct of `bytes`, a picture file, and
`path`. A column of plain binary whose values are picture files is one, too. Other columns are copied if they
are known to hold no picture.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from blockenc.data.formats import suspicion
from blockenc.data.pictures import Encoded, too_large
from blockenc.data.pixels import ImageFileError, Size
from blockenc.data.reading import DEFAULT, Reading
from blockenc.errors import BlockencError

if TYPE_CHECKING:
    from blockenc.data.formats import Change

ROWS = 64  # handled, and written as a row group, at once: photos may have megabytes each
SQUEEZED = 16  # times that a file of pictures, which are compressed already, does not shrink further


class ArrowTables:
    name = "arrow"

    def names(self, file: str) -> bool:
        # datasets keeps results of map() in cache files beside the data; they are made anew.
        return file.endswith((".parquet", ".arrow")) and not file.startswith("cache-")

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str) -> str:
        return name

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[Size, tuple[int, ...]]]:
        with _open(path, reading) as (schema, batches):
            _check_schema(schema, path, reading)
            judge = _Judge(path, reading, schema)
            for batch in batches(judge.columns):
                judge(batch)
        return []

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        with _open(path, reading) as (schema, batches):
            _check_schema(schema, path, reading)
            columns = [field.name for field in schema if _is_picture_column(field, reading)]
            for batch in batches(columns):
                for column in columns:
                    for value in batch.column(column):
                        if data := _picture(value.as_py(), path, column):
                            yield Encoded(data, f"{path}, column {column}")

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        pa, reading = _pyarrow(), change.reading
        with _open(source, reading) as (schema, batches):
            _check_schema(schema, source, reading)
            judge = _Judge(source, reading, schema)
            for field in schema:
                change.copies(field.name)
            if source.suffix == ".parquet":
                import pyarrow.parquet

                writer = pyarrow.parquet.ParquetWriter(target, schema)
            else:
                writer = pa.ipc.new_stream(target, schema)
            with writer:
                for batch in batches(None):
                    judge(batch)
                    columns = [
                        _changed(column, field, source, change)
                        if _is_picture_column(field, reading)
                        else _bare(column)
                        for column, field in zip(batch.columns, schema)
                    ]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise BlockencError("Parquet and Arrow files need pyarrow: pip install 'blockenc[data]'") from None
    return pyarrow


@contextlib.contextmanager
def _open(path: Path, reading: Reading) -> Iterator[tuple[Any, Any]]:
    """The schema of a file, and a function from names of columns (None: all) to its record batches.

    Batches have ROWS rows at most and are validated in full: offsets and text may be anything in a hostile
    file. Raises ImageFileError.
    """
    pa = _pyarrow()
    with contextlib.ExitStack() as stack:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            with _damage(path):
                file = stack.enter_context(pyarrow.parquet.ParquetFile(path))
                for n in range(file.num_row_groups):
                    size = file.metadata.row_group(n).total_byte_size
                    if size > max(reading.max_bytes, SQUEEZED * path.stat().st_size):
                        raise too_large(path, f"row group {n} of {size >> 20} MB", reading)
                schema = file.schema_arrow

            def batches(columns: list[str] | None) -> Iterator[Any]:
                # Each row group by itself: one reader for all of them keeps what it has read.
                for n in range(file.num_row_groups):
                    rows = _rows(file.metadata.row_group(n).total_byte_size, path, reading)
                    yield from _guarded(path, file.iter_batches(rows, row_groups=[n], columns=columns))
        else:
            with _damage(path):
                memory = stack.enter_context(pa.memory_map(str(path)))
                for message in pa.ipc.MessageReader.open_stream(memory):
                    if _is_compressed(message.metadata.to_pybytes()):
                        raise ImageFileError(f"{path}: its batches are compressed; write it without")
                memory.seek(0)
                stream = pa.ipc.open_stream(memory)
                schema = stream.schema

            def batches(columns: list[str] | None) -> Iterator[Any]:
                for batch in _guarded(path, stream):
                    chosen = batch if columns is None else batch.select(columns)
                    for k in range(0, batch.num_rows, ROWS):
                        yield chosen.slice(k, ROWS)

        yield schema, batches


def _rows(size: int, path: Path, reading: Reading) -> int:
    """The rows to read at once of a row group of `size` bytes: a value stored once may stand in all of them.

    Its columns are not asked for their sizes: on some damaged files that ends the process.
    """
    if size <= SQUEEZED * path.stat().st_size:
        return ROWS
    return min(ROWS, max(1, reading.max_bytes // size))


def _guarded(path: Path, batches: Iterator[Any]) -> Iterator[Any]:
    with _damage(path):
        for batch in batches:
            batch.validate(full=True)
            yield batch


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Name the file in what pyarrow raises on damaged data."""
    pa = _pyarrow()
    try:
        yield
    except (BlockencError, FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error, MemoryError) as error:
        raise ImageFileError(f"{path}: not a table, or a damaged one ({error or 'out of memory'})") from None


def _is_compressed(message: bytes) -> bool:
    """Whether a message of an Arrow stream holds compressed buffers, whose sizes could be anything.

    Read from its FlatBuffers table (format/Message.fbs): pyarrow does not tell.
    """

    def field(table: int, number: int) -> int | None:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        (size,) = struct.unpack_from("<H", message, vtable)
        place = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", message, vtable + place) if place < size else (0,)
        return table + offset if offset else None

    def follow(place: int | None) -> int:
        if place is None:
            raise ValueError("a message without a body")
        return int(place + struct.unpack_from("<I", message, place)[0])

    root = follow(0)
    kind = field(root, 1)
    kind = message[kind] if kind is not None else 0
    if kind == 2:  # a dictionary, which holds a record batch
        return field(follow(field(follow(field(root, 2)), 1)), 3) is not None
    return kind == 3 and field(follow(field(root, 2)), 3) is not None


def _is_binary(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _names_pictures(kind: Any) -> bool:
    """Whether a type is a struct of bytes and path, as `datasets` has pictures."""
    types = _pyarrow().types
    return bool(types.is_struct(kind)) and {kind.field(k).name for k in range(kind.num_fields)} == {
        "bytes",
        "path",
    }


def _is_picture_column(field: Any, reading: Reading) -> bool:
    """Whether values of a column are taken for picture files."""
    return (_names_pictures(field.type) or _is_binary(field.type)) and not reading.copies(field.name)


def _check_schema(schema: Any, path: Path, reading: Reading) -> None:
    """Raise ImageFileError for columns that their types tell to be unknown, and for odd metadata."""
    if repeated := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ImageFileError(f"{path}: several columns are called {repeated[0]}; rename them")
    if reading.trusted:
        return
    for field in schema:
        name = f"{path}: column {field.name} ({_short(field.type)})"
        suspicion.refuse(name, _of_metadata(field.metadata), f"{reading.file}/{field.name}")
        if reading.copies(field.name):
            continue
        if _names_pictures(field.type):
            parts = {field.type.field(k).name: field.type.field(k).type for k in range(2)}
            is_null = _pyarrow().types.is_null
            if not (_is_binary(parts["bytes"]) or is_null(parts["bytes"])) or not (
                _is_text(parts["path"]) or is_null(parts["path"])
            ):
                raise ImageFileError(f"{name}: pictures are structs of binary bytes and a string path")
        else:
            suspicion.refuse(name, _of_type(field.type), f"{reading.file}/{field.name}")
    suspicion.refuse(f"{path}: metadata of the schema", _of_metadata(schema.metadata), reading.file)


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) < 80 else text[:76] + " ..."


def _of_metadata(metadata: dict[bytes, bytes] | None) -> str | None:
    found = (suspicion.data(part) for pair in (metadata or {}).items() for part in pair)
    return next((what for what in found if what), None)


def _of_type(kind: Any) -> str | None:
    """What about a type may be pictures, whatever the values."""
    types = _pyarrow().types
    if isinstance(kind, _pyarrow().BaseExtensionType):
        return _of_type(kind.storage_type)
    if types.is_union(kind) or types.is_run_end_encoded(kind):
        return "values of a type that is not looked through"
    if _names_pictures(kind):
        return "nested pictures"
    if types.is_dictionary(kind):
        return _of_type(kind.value_type)
    if types.is_nested(kind):
        parts = [kind.field(k).type for k in range(kind.num_fields)]
        return next((what for part in parts if (what := _of_type(part))), None)
    return None


class _Judge:
    """Refuses batches of a table in which something besides the picture columns may hold pictures."""

    def __init__(self, path: Path, reading: Reading, schema: Any) -> None:
        self.path, self.reading = path, reading
        judged = [] if reading.trusted else [f for f in schema if not reading.copies(f.name)]
        self.pictures = [f.name for f in judged if _is_picture_column(f, reading)]
        self.columns = [f.name for f in judged if f.name not in self.pictures]
        self.numeric = [f.name for f in judged if _is_number(f.type)]
        self.texts = [f.name for f in judged if _is_text(f.type)]
        self.lists = [f.name for f in judged if _is_numbers(f.type)]
        self.loose = 0  # numbers in rows that have neither a picture nor a text

    def __call__(self, batch: Any) -> None:
        for name in self.columns:
            column = batch.column(name)
            self._refuse(f"column {name} ({_short(column.type)})", _of_values(column), f"/{name}")
        self._wide(batch)
        if self.pictures and self.pictures[0] not in batch.schema.names:
            return  # looked at without its pictures, beforehand
        owned = np.zeros(batch.num_rows, bool)
        for name in self.pictures:
            owned |= [bool(_held(value.as_py())) for value in batch.column(name)]
        for name in self.texts:
            owned |= [bool(value) for value in batch.column(name).to_pylist()]
        self.loose += int((~owned).sum()) * len(self.numeric)
        for name in self.lists:
            lengths = [len(value.values) if value.is_valid else 0 for value in batch.column(name)]
            self.loose += int(np.array(lengths, int)[~owned].sum())
        if self.loose >= suspicion.SMALLEST:
            what = f"{self.loose} numbers or more in rows that have neither a picture nor a text"
            self._refuse(f"columns {', '.join([*self.numeric, *self.lists][:3])}", what, "/*")

    def _wide(self, batch: Any) -> None:
        """Pictures of which each pixel has a column."""
        for kind, count in Counter(str(batch.schema.field(name).type) for name in self.numeric).items():
            if count >= suspicion.SMALLEST and batch.num_rows:
                fields = [batch.schema.field(name) for name in self.numeric]
                columns = [_to_numpy(batch.column(f.name)) for f in fields if str(f.type) == kind]
                self._refuse(f"{count} columns of {kind}", suspicion.rows(np.column_stack(columns)), "/*")

    def _refuse(self, place: str, what: str | None, copy: str) -> None:
        suspicion.refuse(f"{self.path}: {place}", what, self.reading.file + copy)


def _is_number(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_primitive(kind) or types.is_decimal(kind))


def _to_numpy(column: Any) -> np.ndarray:
    pa = _pyarrow()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        column = column.cast(pa.float64() if pa.types.is_decimal(column.type) else pa.int64())
    array: np.ndarray = column.to_numpy(zero_copy_only=False)
    return array


def _of_values(column: Any) -> str | None:
    """What about the values of a column, each one by itself, may be a picture."""
    types, kind = _pyarrow().types, column.type
    if isinstance(kind, _pyarrow().BaseExtensionType):
        return _of_values(column.storage)
    if types.is_dictionary(kind):
        return _of_values(column.dictionary)
    if _is_number(kind) or types.is_null(kind):
        return None
    if _is_numbers(kind):
        lists = (value.values for value in column if value.is_valid)
        found = (suspicion.numbers(_to_numpy(values)) for values in lists)
    else:
        found = (suspicion.plain(value) for value in column.to_pylist())
    return next((what for what in found if what), None)


def _is_numbers(kind: Any) -> bool:
    """Lists of numbers."""
    types = _pyarrow().types
    if types.is_map(kind) or not (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return False
    return bool(types.is_integer(kind.value_type) or types.is_floating(kind.value_type))


def _bare(column: Any) -> Any:
    """A copy without what lies in the buffers beside the values: under nulls, between and behind them."""
    pa = _pyarrow()
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _bare(column.storage))
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(
            _bare(column.indices), _bare(column.dictionary), ordered=kind.ordered
        )
    if pa.types.is_nested(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.array(column.to_pylist(), type=kind)
    return column.take(pa.array(range(len(column)), pa.int64()))


def _held(value: Any) -> bytes | None:
    return value["bytes"] if isinstance(value, dict) else value  # type: ignore[no-any-return]


def _picture(value: Any, path: Path, column: str) -> bytes | None:
    """The picture file that a value is; None for none. Raises ImageFileError for the name of a file."""
    data = _held(value)
    if isinstance(value, dict) and data is None and value["path"] is not None:
        raise ImageFileError(
            f"{path}, column {column}: names the file {value['path']} instead of holding it; embed it"
        )
    if data is None or (len(data) < suspicion.SMALLEST and not suspicion.MAGIC.match(data)):
        return None  # a few bytes, such as an identifier
    return data


def _changed(column: Any, field: Any, path: Path, change: Change) -> Any:
    title = f"{path}, column {field.name}"

    def changed(value: Any) -> Any:
        data = _picture(value, path, field.name)
        if data is None:
            return value
        new = change.picture(data, title)
        if not isinstance(value, dict):
            return new
        name = value["path"]
        if name and not change.reading.trusted:
            suspicion.refuse(f"{title}, path", suspicion.text(name), f"{change.reading.file}/{field.name}")
        return {"bytes": new, "path": name and PurePosixPath(name).with_suffix(".png").as_posix()}

    return _pyarrow().array([changed(value.as_py()) for value in column], type=field.type)
